// SPDX-License-Identifier: Apache-2.0
// Names what stands before our rules in a namespace and can take traffic past ztunnel. Reads no text, and changes nothing.
import { allDone } from "../../loop/all-done.ts";
import type { OwnTable } from "../told-rules.ts";
import type { Position } from "./bypass-judgement.ts";
import { type Bypass, BypassWalk, type OwnPlaces, type RootChain } from "./bypass-walk.ts";
import {
  type ForeignBase,
  type ForeignChain,
  keyOf,
  listChains,
  sleepingTables,
  tableKeyOf,
} from "./foreign-chains.ts";
import type { PacketHook } from "./foreign-rule.ts";
import { legacyRoots } from "./legacy-bypass.ts";
import { NftSource } from "./nft-source.ts";

/** What was found. */
export interface BypassReport {
  /** At most 16, one of each kind in each base chain. */
  readonly bypasses: readonly Bypass[];
  /** False: there is more than is read, or it changed whenever it was read: something may stand there that is not named. */
  readonly isComplete: boolean;
  /** Low 16 bits of the count of nf_tables' changes, of one moment for all that was read there. */
  readonly generation?: number | undefined;
  /** What of it was found in nf_tables: it holds as long as their count stands still. */
  readonly nft?: BypassReport;
}

/** As many as are told in one answer. */
const MAX_FINDINGS = 16;
const MAX_READS = 3;
/** Source: linux/netfilter_ipv4.h, NF_IP_PRI_NAT_DST and NF_IP_PRI_CONNTRACK; the same for IPv6. */
const PRIORITY = { nat: -100, tracking: -200 } as const;
/** Source: linux/netfilter.h, enum nf_inet_hooks and nf_dev_hooks. */
const HOOKS: Readonly<Record<"inet" | "netdev", Readonly<Record<number, PacketHook>>>> = {
  inet: { 0: "prerouting", 3: "output", 5: "ingress" },
  netdev: { 0: "ingress" },
};
const NOWHERE: ReadonlySet<Position> = new Set();

/**
 * Looks at what a packet of the pod meets before our rules. In a pod without anything foreign this is one conversation of some 0.1 ms;
 * never more than 1.5 MiB are read of nf_tables, and 4 MiB of a table of iptables-legacy, whichever engine holds our rules.
 * @param known what was found in nf_tables at the count that they still have: these are not read again
 * @throws NetlinkError EPERM @throws NativeError when the kernel cannot be asked
 */
export async function findBypasses(
  netns: { readonly fd: number },
  where: OwnPlaces,
  known?: BypassReport,
): Promise<BypassReport> {
  const [found, legacy] = await allDone([
    known === undefined ? findNft(netns, where) : Promise.resolve(known),
    findLegacy(netns, where),
  ]);
  return {
    nft: found,
    bypasses: [...found.bypasses, ...legacy.bypasses].slice(0, MAX_FINDINGS),
    isComplete: found.isComplete && legacy.isComplete,
    generation: found.generation,
  };
}

async function findNft(netns: { readonly fd: number }, where: OwnPlaces): Promise<BypassReport> {
  for (let attempt = 1; ; attempt++) {
    const list = await listChains(netns);
    const source = new NftSource(netns, list);
    const walk = new BypassWalk(source, where.marks);
    await follow(walk, { roots: list.bases.flatMap((chain) => rootOf(chain, where)), source, netns });
    const { bypasses } = walk;
    const isProven = await source.isProven();
    const isComplete = isProven && walk.isComplete && list.isComplete && source.isSteady;
    // what changes once is read again; what is too much stays too much
    const isChanging = !source.isSteady || list.isInterrupted;
    if (!isChanging || attempt === MAX_READS)
      return { bypasses, isComplete, generation: isChanging ? undefined : list.generation };
  }
}

async function follow(
  walk: BypassWalk,
  found: {
    readonly roots: readonly NftRoot[];
    readonly source: NftSource;
    readonly netns: { readonly fd: number };
  },
): Promise<void> {
  if (found.roots.length === 0) return;
  const asleep = await sleepingTables(found.netns);
  const roots = found.roots.filter(({ tableKey }) => !asleep.has(tableKey));
  await found.source.read(roots.map(({ key }) => key));
  for (const root of roots) await walk.follow(root);
}

async function findLegacy(netns: { readonly fd: number }, where: OwnPlaces): Promise<BypassReport> {
  const { tables, isComplete } = await legacyRoots(netns, where);
  const found: Bypass[] = [];
  let isWhole = isComplete;
  for (const { roots, source } of tables) {
    const walk = new BypassWalk(source, where.marks);
    for (const root of roots) await walk.follow(root);
    found.push(...walk.bypasses);
    isWhole &&= walk.isComplete;
  }
  return { bypasses: found, isComplete: isWhole };
}

interface NftRoot extends RootChain {
  readonly tableKey: string;
}

/** None for a chain that no packet passes before our rules, or that holds nothing but our jump. */
function rootOf(chain: ForeignChain, where: OwnPlaces): NftRoot[] {
  const { base, family, table } = chain;
  const hook = base === undefined ? undefined : HOOKS[family === "netdev" ? "netdev" : "inet"][base.number];
  if (base === undefined || hook === undefined || chain.use === 0) return [];
  if ((family === 4 || family === 6) && !where.own.some((each) => each.family === family)) return [];
  if (family === "inet" && where.inetTables.includes(table)) return [];
  const before = positionsOf(base, hook);
  if (before.size === 0) return [];
  const ours = where.variant === "nft" ? oursIn(chain, where.own) : new Set<string>();
  if (ours.size > 0 && chain.use === 1) return [];
  // a chain in raw that ends early takes nothing past ztunnel: what ours does there only keeps ports apart
  const isBase = ours.size > 0 && base.priority > PRIORITY.tracking;
  const positions = isBase ? new Set<Position>([...before, "base"]) : before;
  const positionsBehind = ours.size > 0 && base.type === "nat" ? NOWHERE : before;
  const keys = { key: keyOf(chain), tableKey: tableKeyOf(chain) };
  return [{ family, table, chain: chain.chain, ...keys, hook, positions, positionsBehind, ours }];
}

/**
 * Which of two chains of equal priority is first is not told: the one that was hooked later.
 * Source: linux net/netfilter/core.c, nf_hook_entries_grow.
 */
function positionsOf({ type, priority, devices }: ForeignBase, hook: PacketHook): ReadonlySet<Position> {
  if (hook === "ingress") {
    const isLoopback = devices.length > 0 && devices.every((device) => device === "lo");
    return isLoopback ? NOWHERE : new Set<Position>(["hook", "tracking"]);
  }
  if (priority > PRIORITY.nat) return NOWHERE;
  // translation begins at one moment, whatever priorities these chains have among themselves
  if (type === "nat") return new Set<Position>(["nat", "hook"]);
  return new Set<Position>(priority > PRIORITY.tracking ? ["hook"] : ["hook", "tracking"]);
}

/** Keys of our chains that a base chain should lead to. */
function oursIn({ family, table, chain }: ForeignChain, own: readonly OwnTable[]): Set<string> {
  const here = own.filter((each) => each.family === family && each.table === table);
  return new Set(
    here.flatMap(({ chains }) =>
      chains.filter(({ hook }) => hook === chain).map((each) => keyOf({ family, table, chain: each.chain })),
    ),
  );
}
