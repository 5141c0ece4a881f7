// SPDX-License-Identifier: Apache-2.0
// Whether the kernel can do what native nftables take: tried with the agent's own writers, without a program.

import type { AgentConfig } from "../config.ts";
import type { Netns } from "../linux/netns.ts";
import type { Family } from "../netfilter/family.ts";
import { NativeEngine } from "../netfilter/native/native-engine.ts";
import type { NativeLayout } from "../netfilter/native/native-layout.ts";
import { type ToldRules, toldRule } from "../netfilter/told-rules.ts";
import { MATCH_ANY } from "../probes/kubelet-match.ts";
import { NativeProbes } from "../probes/native-probes.ts";
import { NATIVE_LAYOUT } from "../redirection/native-rules.ts";
import { SIDECAR_LAYOUT } from "../redirection/native-sidecar.ts";
import { defaultSidecarOptions, type SidecarOptions } from "../redirection/sidecar-options.ts";
import { ALL_FAMILIES, REDIRECT_TABLES, toldRedirection } from "../redirection/told-redirection.ts";
import { wantedSidecar } from "../redirection/told-sidecar.ts";
import { allOf, type Finding, failing, warning } from "./finding.ts";

/** What is tried. */
export interface NativeFeatureOptions extends Pick<AgentConfig, "probeSnatV4" | "probeSnatV6"> {
  readonly families: readonly Family[];
}

/** What our rules are made of, each as the smallest table that needs it. */
interface NativePart {
  readonly id: string;
  readonly what: string;
  readonly modules: string;
  readonly table: "nat" | "mangle" | "raw";
  readonly rules: readonly string[];
}

// Source: linux net/netfilter/Makefile, the objects of nf_tables
const PARTS: readonly NativePart[] = [
  { id: "nf-tables", what: "nf_tables of family inet", modules: "nf_tables", table: "mangle", rules: [] },
  { id: "nft-nat", what: "chains of type nat", modules: "nft_chain_nat", table: "nat", rules: [] },
  {
    id: "nft-redirect",
    what: "redirect",
    modules: "nft_redir nf_nat",
    table: "nat",
    rules: ["-p tcp -j REDIRECT --to-ports 15001"],
  },
  {
    id: "nft-ct",
    what: "marks of connections",
    modules: "nft_ct nf_conntrack",
    table: "mangle",
    rules: ["-j CONNMARK --set-xmark 0x111/0xfff"],
  },
  {
    id: "nft-ct-zone",
    what: "zones of connections",
    modules: "nft_ct nf_conntrack",
    table: "raw",
    rules: ["-p udp -m udp --dport 53 -j CT --zone 1"],
  },
];

/** Writes pods', sidecars' and the host's rules in a namespace of one's own. @returns what is missing; none: nothing is */
export async function tryNatively(netns: Netns, options: NativeFeatureOptions): Promise<Finding[]> {
  const engine = new NativeEngine({ layout: NATIVE_LAYOUT });
  const { families, probeSnatV4, probeSnatV6 } = options;
  const redirect = { dnsCapture: true, ingressMode: false, virtualInterfaces: [], probeSnatV4, probeSnatV6 };
  const attempt = (key: string, told: ToldRules) =>
    refusalOf(async () => {
      await engine.apply({ netns }, { key, told: () => told, families }, { isNew: false });
      await engine.remove({ netns });
    });
  const refusal = await attempt("all", toldRedirection(redirect, families));
  const found: Finding[] = [];
  if (refusal !== undefined) {
    for (const part of PARTS) {
      const why = await attempt(part.id, toldPart(part, families));
      if (why !== undefined)
        found.push(
          failing(`kernel-${part.id}`, `the kernel has no ${part.what}: ${why}`, loadRemedy(part.modules)),
        );
    }
    if (found.length === 0)
      found.push(
        failing("kernel-rules", `the rules are refused: ${refusal}`, "look at the node's kernel log (dmesg)"),
      );
  }
  return allOf(found, await trySidecars(netns, families), await tryHost(netns, options));
}

/** What sidecars alone need: TPROXY all of it, others no table mangle. */
async function trySidecars(netns: Netns, families: readonly Family[]): Promise<Finding | undefined> {
  const attempt = (layout: NativeLayout, options: SidecarOptions) =>
    refusalOf(async () => {
      const engine = new NativeEngine({ layout });
      const wanted = wantedSidecar(options, { families, known: families });
      await engine.apply({ netns }, wanted, { isNew: false });
      await engine.remove({ netns });
    });
  const options = defaultSidecarOptions({ dnsCapture: true });
  const refusal = await attempt(SIDECAR_LAYOUT, { ...options, mode: "TPROXY", dropInvalid: true });
  if (refusal === undefined) return undefined;
  const others = SIDECAR_LAYOUT.filter(({ told }) => told !== "mangle");
  const why = await attempt(others, options);
  if (why !== undefined)
    return failing(
      "kernel-sidecars",
      `the rules of sidecars are refused: ${why}`,
      loadRemedy("nft_ct nft_redir nf_nat"),
    );
  return warning(
    "kernel-nft-tproxy",
    `pods whose sidecar asks for TPROXY, or to drop what is invalid, may not start, as rules for both are refused: ${refusal}`,
    loadRemedy("nft_tproxy nft_ct"),
  );
}

async function tryHost(
  netns: Netns,
  { families, probeSnatV4, probeSnatV6 }: NativeFeatureOptions,
): Promise<Finding | undefined> {
  const host = new NativeProbes({ 4: probeSnatV4, 6: probeSnatV6 });
  const owners = { 4: new Map([["192.0.2.1", "self-test"]]), 6: new Map([["2001:db8::1", "self-test"]]) };
  const members = { owners, isStale: () => false };
  const why = await refusalOf(async () => {
    await (await host.observe(netns, { families, members, match: MATCH_ANY, rules: true })).write();
  });
  if (why === undefined) return undefined;
  const what = `sets of addresses, or the rule that changes the source of probes, are refused: ${why}`;
  return failing("kernel-probes", what, loadRemedy("nft_chain_nat nft_nat"));
}

function toldPart({ table, rules }: NativePart, families: readonly Family[]): ToldRules {
  const place = (family: Family) => ({ family, table, chain: "ISTIO_OUTPUT" });
  return {
    own: REDIRECT_TABLES,
    wanted: ALL_FAMILIES.map(place),
    rules: families.flatMap((family) => rules.map((rule) => toldRule(place(family), rule.split(" ")))),
  };
}

async function refusalOf(work: () => Promise<unknown>): Promise<string | undefined> {
  try {
    await work();
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

/** How modules come into a kernel that has them. */
export function loadRemedy(modules: string): string {
  return `load it on the node (modprobe ${modules}) and at every boot (/etc/modules-load.d), or use a kernel that has it`;
}
