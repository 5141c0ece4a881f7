// SPDX-License-Identifier: Apache-2.0
// How a pod's redirection differs, in words, and a hash of it for people who compare pods.
import { createHash } from "node:crypto";
import type { Family } from "../netfilter/family.ts";
import type { ChainState, Finding } from "../netfilter/rule-engine.ts";
import { CHAIN_NAMES, type RedirectOptions, redirectTables, TABLE_NAMES } from "./rules.ts";
import { toldRedirection } from "./told-redirection.ts";

/** One way in which what is there differs from what should be there. */
export interface Drift extends Omit<Finding, "kind"> {
  /** The last three concern the ip rule, the route, and the device that it leads to. */
  readonly kind: Finding["kind"] | "missing-ip-rule" | "missing-route" | "loopback-down";
}

/** Our chains as the options call for them. @throws {RedirectOptionsError} as redirectRules does. */
export function desiredChains(options: RedirectOptions, family: Family): ChainState[] {
  const { rules } = toldRedirection(options, [family]);
  return redirectTables(options).flatMap((table) =>
    CHAIN_NAMES.map((chain) => ({
      family,
      table,
      chain,
      words: rules.filter((rule) => rule.table === table && rule.chain === chain).map(({ words }) => words),
      jumpCount: 1,
      strays: [],
    })),
  );
}

/** Hash of one family's chains that is equal for equal ones and says nothing else. */
export function fingerprint(chains: readonly ChainState[]): string {
  const canonical = TABLE_NAMES.map((name) => {
    const ours = chains.filter(({ table }) => table === name);
    if (ours.length === 0) return [name];
    const states = CHAIN_NAMES.map((each) => {
      const state = ours.find(({ chain }) => chain === each);
      return [state?.words ?? null, state?.jumpCount ?? 0];
    });
    return [name, states, ours.flatMap(({ strays }) => strays).sort()];
  });
  return createHash("sha256").update(JSON.stringify(canonical)).digest("hex");
}
