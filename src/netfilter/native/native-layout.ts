// SPDX-License-Identifier: Apache-2.0
// Tables of nf_tables that are wholly ours: where what is told in iptables' words stands in them.
import { type NftBase, sameBytes } from "../nft/nft-objects.ts";
import { type BaseChain, encodeHook, networkOrder } from "../nft/nft-wire.ts";
import type { AskedTable } from "../nft/own-tables.ts";

/** Source: linux/netfilter.h, enum nf_inet_hooks. */
const HOOK_NUMBER = { prerouting: 0, input: 1, forward: 2, output: 3, postrouting: 4 } as const;
/** What becomes of a packet on which no rule decides. Source: linux/netfilter.h, NF_ACCEPT. */
const ACCEPT = networkOrder(1);

/** Where a base chain hangs. */
export interface NativeHook {
  readonly type: "filter" | "nat" | "route";
  readonly hook: keyof typeof HOOK_NUMBER;
  readonly priority: number;
}

/** A base chain of ours, which holds nothing but a jump. */
export interface NativeBase {
  readonly chain: string;
  readonly hook: NativeHook;
}

/** A chain of ours. */
export interface NativeChainLayout {
  /** As it is told. */
  readonly told: string;
  readonly chain: string;
  /** What leads into it; absent: rules of ours alone do. */
  readonly base?: NativeBase;
}

/** A table of family inet, for the rules of both families. */
export interface NativeTableLayout {
  /** The table as it is told. */
  readonly told: string;
  readonly table: string;
  readonly chains: readonly NativeChainLayout[];
  /** Packets of a family that was not asked for are left alone, also by rules that name no address. Default false, as istio-cni's. */
  readonly isForFamilies?: boolean;
}

/** In the order in which they are made. */
export type NativeLayout = readonly NativeTableLayout[];

/** Those that packets enter from a base chain, with it. */
export function hookedChains({
  chains,
}: NativeTableLayout): (NativeChainLayout & { readonly base: NativeBase })[] {
  return chains.flatMap((chain) => (chain.base === undefined ? [] : { ...chain, base: chain.base }));
}

/** The same, as the kernel is asked about them. */
export function askedTables(layout: NativeLayout): AskedTable[] {
  return layout.map(({ table, chains }) => ({
    family: "inet",
    table,
    chains: chains.map(({ chain, base }) => ({ chain, hook: base?.chain })),
  }));
}

/** As the kernel is told, and lists it. */
export function encodeBase({ type, hook, priority }: NativeHook): BaseChain {
  return { type, hook: encodeHook({ number: HOOK_NUMBER[hook], priority }), policy: ACCEPT };
}

/** Whether a chain hangs there, and lets through what no rule decides on; of no hook: whether it hangs nowhere. */
export function hangsAt(base: NftBase | undefined, hook: NativeHook | undefined): boolean {
  if (base === undefined || hook === undefined) return base === undefined && hook === undefined;
  return (
    base.type === hook.type &&
    base.number === HOOK_NUMBER[hook.hook] &&
    base.priority === hook.priority &&
    sameBytes(base.policy, ACCEPT)
  );
}

/** Names that nft has for priorities. Source: nft(8), "Standard priority names"; nft 1.0.6 knows dstnat in prerouting alone. */
export function printHook({ type, hook, priority }: NativeHook): string {
  const names: Readonly<Record<number, string>> = {
    [-300]: "raw",
    [-150]: "mangle",
    ...(hook === "prerouting" ? { [-100]: "dstnat" } : {}),
    0: "filter",
    ...(hook === "postrouting" ? { 100: "srcnat" } : {}),
  };
  return `type ${type} hook ${hook} priority ${names[priority] ?? priority}; policy accept;`;
}
