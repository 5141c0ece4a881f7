// SPDX-License-Identifier: Apache-2.0
// What the iptables programs make of rules in the kernel: recorded in a namespace of the agent's own, never learned from a pod.
import type { NetlinkRequest } from "../linux/netlink/message.ts";
import type { Netns } from "../linux/netns.ts";
import type { Family } from "./family.ts";
import { NetfilterFault } from "./netfilter-fault.ts";
import type { NftBase, NftRuleObject } from "./nft-objects.ts";
import { type ChainPlace, newChain, newRule, newTable, type RuleProtocol } from "./nft-wire.ts";
import { readOwnObjects, type SeenObjects, type SeenTable } from "./own-objects.ts";
import type { OwnTable } from "./own-tables.ts";

/** A rule that shall stand in a chain of ours, behind those told before it. */
export interface ToldRule {
  readonly family: Family;
  readonly table: string;
  readonly chain: string;
  /** The rule in words, for people. */
  readonly words: string;
  /** That of its `-p`. */
  readonly protocol?: RuleProtocol | undefined;
}

/** What shall stand in a namespace. */
export interface ToldRules {
  /** All that can be ours; a table without a rule told shall hold nothing of ours. In the order in which tables are made. */
  readonly own: readonly OwnTable[];
  /** Tables that shall hold our chains, with rules in them or not. */
  readonly wanted: readonly Pick<OwnTable, "family" | "table">[];
  readonly rules: readonly ToldRule[];
}

/** A rule as the kernel lists it, and the message that makes it. */
export interface KnownRule {
  readonly words: string;
  readonly expressions: Uint8Array;
  readonly request: NetlinkRequest;
}

/** A chain of ours. */
export interface KnownChain {
  readonly chain: string;
  readonly rules: readonly KnownRule[];
  readonly request: NetlinkRequest;
  /** The base chain that leads to it, and the rule there that does. */
  readonly hook: string;
  readonly jump: KnownRule;
}

/** A base chain that leads to chains of ours. */
export interface KnownHook extends NftBase {
  readonly chain: string;
  readonly request: NetlinkRequest;
}

/** A table that holds chains of ours. */
export interface KnownTable extends Pick<OwnTable, "family" | "table"> {
  readonly request: NetlinkRequest;
  readonly chains: readonly KnownChain[];
  readonly hooks: readonly KnownHook[];
}

/** Rules byte by byte. */
export interface KnownRules {
  readonly own: readonly OwnTable[];
  readonly tables: readonly KnownTable[];
}

export interface KnownBytesOptions<Told extends ToldRules> {
  /** Makes a namespace of the agent's own with nothing in it, which is closed here. */
  readonly makeNetns: () => Promise<Netns>;
  /** Has the program write the rules, and proves by the program's own list that they stand there. */
  readonly write: (netns: Netns, told: Told) => Promise<void>;
  /** Default 256: names in annotations can make any number of sets of rules. */
  readonly maxEntries?: number;
  /** For how long a failure answers those who ask again; default 30 s. */
  readonly retryAfterMs?: number;
  /** Monotonic milliseconds. */
  readonly now?: () => number;
}

interface Entry {
  readonly rules: Promise<KnownRules>;
  failedAtMs?: number;
}

const DEFAULT_MAX_ENTRIES = 256;
const DEFAULT_RETRY_AFTER_MS = 30_000;

/** Records rules when they are first asked for, once for everybody who asks meanwhile and later. */
export class KnownBytes<Told extends ToldRules> {
  readonly #options: KnownBytesOptions<Told>;
  /** The one asked for longest ago first. */
  readonly #entries = new Map<string, Entry>();

  constructor(options: KnownBytesOptions<Told>) {
    this.#options = options;
  }

  /**
   * @param key equal for two sets of rules exactly when they are
   * @param told called when they are recorded
   * @throws {NetfilterFault} NO_KNOWN_BYTES; what `told` throws
   */
  async get(key: string, told: () => Told): Promise<KnownRules> {
    const entry = this.#find(key) ?? this.#begin(told());
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    const { maxEntries = DEFAULT_MAX_ENTRIES } = this.#options;
    for (const oldest of this.#entries.keys()) {
      if (this.#entries.size <= maxEntries) break;
      this.#entries.delete(oldest);
    }
    return await entry.rules;
  }

  #find(key: string): Entry | undefined {
    const entry = this.#entries.get(key);
    const { retryAfterMs = DEFAULT_RETRY_AFTER_MS } = this.#options;
    const isStale = entry?.failedAtMs !== undefined && this.#now() - entry.failedAtMs >= retryAfterMs;
    return isStale ? undefined : entry;
  }

  #begin(told: Told): Entry {
    const entry: Entry = { rules: this.#record(told) };
    entry.rules.catch(() => {
      entry.failedAtMs = this.#now();
    });
    return entry;
  }

  async #record(told: Told): Promise<KnownRules> {
    try {
      using netns = await this.#options.makeNetns();
      await this.#options.write(netns, told);
      return knownRules(told, await readOwnObjects(netns, told.own));
    } catch (cause) {
      const why = (cause as Error).message;
      throw new NetfilterFault(
        "NO_KNOWN_BYTES",
        `Cannot record what the iptables programs write: ${why}; they write the rules of each pod themselves until then`,
        { cause },
      );
    }
  }

  #now(): number {
    return this.#options.now?.() ?? performance.now();
  }
}

/**
 * Pairs what was told with what was read where nothing else is.
 * @throws {NetfilterFault} NOT_AS_TOLD when a rule told is not one rule there
 */
export function knownRules(told: ToldRules, seen: SeenObjects): KnownRules {
  const wanted = told.wanted.map(({ family, table }) => `${family} ${table}`);
  const tables = told.own
    .filter(({ family, table }) => wanted.includes(`${family} ${table}`))
    .map((own) => {
      const table = seen.tables.find((each) => each.family === own.family && each.table === own.table);
      if (table === undefined) throw notAsTold(own, "it is not there");
      return knownTable(own, table, told.rules);
    });
  return { own: told.own, tables };
}

function knownTable(own: OwnTable, seen: SeenTable, rules: readonly ToldRule[]): KnownTable {
  const { family, table } = own;
  const hooks = [...new Set(own.chains.map(({ hook }) => hook))].map((chain): KnownHook => {
    const base = seen.chains.get(chain)?.base;
    if (base === undefined) throw notAsTold(own, `${chain} is no base chain`);
    return { ...base, chain, request: newChain({ family, table, chain }, base) };
  });
  const chains = own.chains.map(({ chain, hook }): KnownChain => {
    const place = { family, table, chain };
    const told = rules.filter(
      (rule) => rule.family === family && rule.table === table && rule.chain === chain,
    );
    const found = seen.chains.get(chain);
    const [jump, ...others] = (seen.chains.get(hook)?.rules ?? []).filter(({ targets }) =>
      targets.includes(chain),
    );
    if (found?.isComplete !== true || found.rules.length !== told.length)
      throw notAsTold(own, `${chain} has ${found?.rules.length ?? "no"} rules instead of ${told.length}`);
    if (jump === undefined || others.length > 0 || found.use !== told.length + 1)
      throw notAsTold(own, `not one rule leads into ${chain}`);
    return {
      chain,
      hook,
      request: newChain(place),
      rules: told.map((rule, index) =>
        knownRule(place, rule, { rule: found.rules[index], protocol: rule.protocol }),
      ),
      jump: knownRule({ ...place, chain: hook }, { words: `-j ${chain}` }, { rule: jump }),
    };
  });
  return { family, table, request: newTable({ ...own, ...noted(seen) }), chains, hooks };
}

function knownRule(
  place: ChainPlace,
  { words }: { words: string },
  found: { rule: NftRuleObject | undefined; protocol?: RuleProtocol | undefined },
): KnownRule {
  const expressions = (found.rule?.expressions ?? new Uint8Array()).slice();
  const { userdata } = found.rule ?? {};
  const request = newRule(place, {
    expressions,
    protocol: found.protocol,
    ...(userdata === undefined ? {} : { userdata }),
  });
  return { words, expressions, request };
}

function noted({ userdata }: SeenTable): { userdata?: Uint8Array } {
  return userdata === undefined ? {} : { userdata };
}

function notAsTold({ family, table }: OwnTable, why: string): NetfilterFault {
  return new NetfilterFault(
    "NOT_AS_TOLD",
    `Cannot read back table ${table} of IPv${family} as it was written: ${why}`,
  );
}
