// SPDX-License-Identifier: Apache-2.0
// The sets of options that the tests of redirection go through.
import type { Family } from "../../src/netfilter/family.ts";
import type { RedirectOptions } from "../../src/redirection/rules.ts";

export const FAMILIES: readonly Family[] = [4, 6];

export const DEFAULT_OPTIONS: RedirectOptions = {
  dnsCapture: true,
  ingressMode: false,
  virtualInterfaces: [],
  probeSnatV4: "169.254.7.127",
  probeSnatV6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff",
};

const KEEPING: Readonly<Record<string, RedirectOptions>> = {
  default: DEFAULT_OPTIONS,
  "no-dns": { ...DEFAULT_OPTIONS, dnsCapture: false },
  ingress: { ...DEFAULT_OPTIONS, ingressMode: true },
  "virtual-interfaces": { ...DEFAULT_OPTIONS, virtualInterfaces: ["fake1s0f0", "fake1s0f1"] },
  "ingress-virtual-interfaces-no-dns": {
    ...DEFAULT_OPTIONS,
    dnsCapture: false,
    ingressMode: true,
    virtualInterfaces: ["fake1s0f0"],
  },
};

/** Options by the name that golden files and fixtures carry; those of "reset-…" hold istio's own text. */
export const VARIANTS: Readonly<Record<string, RedirectOptions>> = {
  ...KEEPING,
  ...Object.fromEntries(
    Object.entries(KEEPING).map(([name, options]) => [
      `reset-${name}`,
      { ...options, establishedConnections: "reset" } as const,
    ]),
  ),
};

/** A generator of numbers in [0, 1) that gives the same sequence for the same seed (mulberry32). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
