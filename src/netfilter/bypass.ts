// SPDX-License-Identifier: Apache-2.0
// Names what stands before our rules in a namespace and can take traffic past ztunnel. Reads no text, and changes nothing.
import type { Position } from "./bypass-judgement.ts";
import { type Bypass, BypassWalk, type ChainSource, type RootChain } from "./bypass-walk.ts";
import {
  type ChainList,
  type ChainRules,
  type ForeignBase,
  type ForeignChain,
  keyOf,
  listChains,
  readChains,
} from "./foreign-chains.ts";
import type { PacketHook, RuleMeaning } from "./foreign-rule.ts";
import { legacyRoots } from "./legacy-bypass.ts";
import type { PassingMarks } from "./mark-change.ts";
import { meaningOfNftRule, type NftFamily } from "./nft-rule-meaning.ts";
import type { OwnTable } from "./told-rules.ts";

/** Where our rules stand, and what they let pass. */
export interface OwnPlaces {
  /** Which engine holds them. */
  readonly variant: "nft" | "legacy" | "native";
  /** Our chains and the base chains that lead to them; with `native` their families alone count. */
  readonly own: readonly OwnTable[];
  /** Tables of family inet that are ours as a whole. */
  readonly inetTables: readonly string[];
  readonly marks: PassingMarks;
  /** /proc/PID/net of a process in the namespace: tells which tables iptables-legacy has. Without it only those of `own` are read. */
  readonly procNetDir?: string | undefined;
}

/** What was found. */
export interface BypassReport {
  /** At most 16, one of each kind in each base chain. */
  readonly bypasses: readonly Bypass[];
  /** False: there is more than is read, or it changed whenever it was read: something may stand there that is not named. */
  readonly isComplete: boolean;
}

/** Bytes of rules that are heard in one look: some 5000 of them. */
const MAX_RULE_BYTES = 1024 * 1024;
/** Chains of which rules are read one by one. */
const MAX_CHAINS = 256;
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
 * never more than 1.5 MiB are read of nf_tables.
 * @throws NetlinkError EPERM @throws NativeError when the kernel cannot be asked
 */
export async function findBypasses(netns: { readonly fd: number }, where: OwnPlaces): Promise<BypassReport> {
  for (let attempt = 1; ; attempt++) {
    const list = await listChains(netns.fd);
    const source = new NftSource(netns.fd, list);
    const walk = new BypassWalk(source, where.marks);
    const roots = list.chains.flatMap((chain) => rootOf(chain, where));
    await source.read(roots.map(({ key }) => key));
    for (const root of roots) await walk.follow(root);
    const isWhole = walk.isComplete && list.isComplete && source.isSteady;
    // what changes once is read again; what is too much stays too much
    const isChanging = !source.isSteady || list.isInterrupted;
    if (isChanging && attempt < MAX_READS) continue;
    const legacy = await findLegacy(netns, where);
    return {
      bypasses: [...walk.bypasses, ...legacy.bypasses].slice(0, 16),
      isComplete: isWhole && legacy.isComplete,
    };
  }
}

async function findLegacy(netns: { readonly fd: number }, where: OwnPlaces): Promise<BypassReport> {
  const { tables, isComplete } = await legacyRoots(netns.fd, where);
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

/** None for a chain that no packet passes before our rules, or that holds nothing but our jump. */
function rootOf(chain: ForeignChain, where: OwnPlaces): RootChain[] {
  const { base, family, table } = chain;
  const hook = base === undefined ? undefined : HOOKS[family === "netdev" ? "netdev" : "inet"][base.hook];
  if (base === undefined || hook === undefined || chain.use === 0 || !isSeen(family, where.own)) return [];
  if (family === "inet" && where.inetTables.includes(table)) return [];
  const before = positionsOf(base, hook);
  if (before.size === 0) return [];
  const ours = where.variant === "nft" ? oursIn(chain, where.own) : new Set<string>();
  if (ours.size > 0 && chain.use === 1) return [];
  // a chain in raw that ends early takes nothing past ztunnel: what ours does there only keeps ports apart
  const isBase = ours.size > 0 && base.priority > PRIORITY.tracking;
  const positions = isBase ? new Set<Position>([...before, "base"]) : before;
  const positionsBehind = ours.size > 0 && base.type === "nat" ? NOWHERE : before;
  return [{ family, table, chain: chain.chain, key: keyOf(chain), hook, positions, positionsBehind, ours }];
}

function isSeen(family: NftFamily, own: readonly OwnTable[]): boolean {
  if (family !== "ip" && family !== "ip6") return true;
  return own.some((each) => (each.family === 4 ? "ip" : "ip6") === family);
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
  const here = own.filter((each) => (each.family === 4 ? "ip" : "ip6") === family && each.table === table);
  return new Set(
    here.flatMap(({ chains }) =>
      chains.filter(({ hook }) => hook === chain).map((each) => keyOf({ family, table, chain: each.chain })),
    ),
  );
}

/** Rules of nf_tables, read as they are asked for. */
class NftSource implements ChainSource {
  readonly #netnsFd: number;
  readonly #list: ChainList;
  readonly #chains: ReadonlyMap<string, ForeignChain>;
  readonly #read = new Map<string, ChainRules>();
  #bytesLeft = MAX_RULE_BYTES;
  isSteady = true;

  constructor(netnsFd: number, list: ChainList) {
    this.#netnsFd = netnsFd;
    this.#list = list;
    this.#chains = new Map(list.chains.map((chain) => [keyOf(chain), chain]));
  }

  /** Reads chains in one conversation. */
  async read(keys: readonly string[]): Promise<void> {
    const room = Math.max(0, MAX_CHAINS - this.#read.size);
    const chains = keys.flatMap((key) => this.#chains.get(key) ?? []).slice(0, room);
    if (chains.length === 0 || this.#bytesLeft <= 0) return;
    const options = { maxBytes: this.#bytesLeft, generation: this.#list.generation };
    const { byKey, bytes, isSteady } = await readChains(this.#netnsFd, chains, options);
    for (const [key, rules] of byKey) this.#read.set(key, rules);
    this.#bytesLeft -= bytes;
    if (!isSteady) this.isSteady = false;
  }

  async rules(key: string, hook: PacketHook) {
    if (!this.#read.has(key)) await this.read([key]);
    const read = this.#read.get(key);
    const family = this.#chains.get(key)?.family ?? "inet";
    return {
      rules: meanings(read?.rules ?? [], { key, family, hook }),
      isComplete: read?.isComplete === true,
    };
  }

  siblings(key: string): readonly string[] {
    const chain = this.#chains.get(key);
    return this.#list.chains
      .filter(
        ({ family, table, base }) => base === undefined && family === chain?.family && table === chain?.table,
      )
      .map(keyOf);
  }

  nameOf(key: string): string {
    return this.#chains.get(key)?.chain ?? "";
  }
}

function* meanings(
  rules: readonly Uint8Array[],
  seen: { readonly key: string; readonly family: NftFamily; readonly hook: PacketHook },
): Iterable<RuleMeaning> {
  const place = seen.key.slice(0, seen.key.lastIndexOf("\0"));
  for (const rule of rules) {
    const meaning = meaningOfNftRule(rule, seen);
    yield { ...meaning, leads: meaning.leads.map((chain) => `${place}\0${chain}`) };
  }
}
