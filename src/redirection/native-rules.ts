// SPDX-License-Identifier: Apache-2.0
// Where the redirection's rules stand in nf_tables when no iptables is used: named as istio-cni names them in this mode.
import type { Family } from "../netfilter/family.ts";
import type { NativeChainLayout, NativeHook, NativeLayout } from "../netfilter/native/native-layout.ts";
import { nativeTables, printTables } from "../netfilter/native/native-rules.ts";
import type { CHAIN_HOOKS, RedirectOptions, TableName } from "./rules.ts";
import { toldRedirection } from "./told-redirection.ts";

type Hook = "prerouting" | "output";

/**
 * All that can be ours. The rules are those that istio-cni writes with iptables, one for one and in the same order, but for what a
 * table of both families makes of them: a rule that names no address is there once, and holds for IPv6 even where pods are
 * given no rules of IPv6.
 * Source: istio/istio cni/pkg/nftables/nftables.go, AmbientNatTable and addIstioNatTableRules, …MangleTableRules, …RawTableRules.
 */
export const NATIVE_LAYOUT: NativeLayout = [
  table("nat", { prerouting: { type: "nat", priority: -100 }, output: { type: "nat", priority: -100 } }),
  table("mangle", {
    prerouting: { type: "filter", priority: -150 },
    output: { type: "route", priority: -150 },
  }),
  table("raw", {
    prerouting: { type: "filter", priority: -300 },
    output: { type: "filter", priority: -300 },
  }),
];

/**
 * What `nft --stateless list table` shows in a pod with these rules, one table after the other.
 * @throws {RedirectOptionsError} as redirectRules does Source: nft 1.0.6; later versions may spell the same otherwise
 */
export function renderNativeText(options: RedirectOptions, families: readonly Family[]): string {
  const told = toldRedirection(options, families);
  return printTables(nativeTables(told, { layout: NATIVE_LAYOUT, families }));
}

function table(
  told: TableName,
  hooks: Readonly<Record<Hook, Omit<NativeHook, "hook">>>,
): NativeLayout[number] {
  const chain = (name: keyof typeof CHAIN_HOOKS, base: Hook): NativeChainLayout => ({
    told: name,
    chain: `istio-${base}`,
    base: { chain: base, hook: { hook: base, ...hooks[base] } },
  });
  return {
    told,
    table: `istio-ambient-${told}`,
    chains: [chain("ISTIO_PRERT", "prerouting"), chain("ISTIO_OUTPUT", "output")],
  };
}
