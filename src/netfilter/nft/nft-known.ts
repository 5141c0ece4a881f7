// SPDX-License-Identifier: Apache-2.0
// What iptables-nft makes of told rules in nf_tables, byte by byte: the kernel's objects and the messages that make them again.
import type { NetlinkRequest } from "../../linux/netlink/message.ts";
import { NetfilterFault } from "../netfilter-fault.ts";
import {
  isHooked,
  type OwnChain,
  type OwnTable,
  type RuleProtocol,
  rulesOf,
  type ToldRules,
  wantedTables,
} from "../told-rules.ts";
import type { NftBase, NftRuleObject } from "./nft-objects.ts";
import { type ChainPlace, newChain, newRule, newTable } from "./nft-wire.ts";
import { leadsOf, type SeenObjects, type SeenTable } from "./own-objects.ts";

/** A rule as the kernel lists it, and the message that makes it. */
export interface KnownRule {
  readonly words: string;
  readonly expressions: Uint8Array;
  readonly request: NetlinkRequest;
}

/** A chain of ours, with the base chain that leads to it and the rule there that does. */
export interface KnownChain extends OwnChain {
  readonly rules: readonly KnownRule[];
  readonly request: NetlinkRequest;
  /** Absent where no base chain leads to it. */
  readonly jump?: KnownRule;
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

/**
 * Pairs what was told with what was read where nothing else is.
 * @throws {NetfilterFault} NOT_AS_TOLD when a rule told is not one rule there
 */
export function knownRules(told: ToldRules, seen: SeenObjects): KnownRules {
  const tables = wantedTables(told).map((own) => {
    const table = seen.tables.find((each) => each.family === own.family && each.table === own.table);
    if (table === undefined) throw notAsTold(own, "it is not there");
    return knownTable(own, table, told);
  });
  return { own: told.own, tables };
}

function knownTable(own: OwnTable, seen: SeenTable, all: ToldRules): KnownTable {
  const { family, table } = own;
  const hooks = [...new Set(own.chains.filter(isHooked).map(({ hook }) => hook))].map((chain): KnownHook => {
    const base = seen.chains.get(chain)?.base;
    if (base === undefined) throw notAsTold(own, `${chain} is no base chain`);
    return { ...base, chain, request: newChain({ family, table, chain }, base) };
  });
  const chains = own.chains.map((ownChain): KnownChain => {
    const { chain, hook, isFirst = false } = ownChain;
    const place = { family, table, chain };
    const told = rulesOf(all, place);
    const found = seen.chains.get(chain);
    const [jump, ...others] = (hook === undefined ? [] : (seen.chains.get(hook)?.rules ?? [])).filter(
      ({ targets }) => targets.includes(chain),
    );
    const leadCount = (jump === undefined ? 0 : 1) + leadsOf(seen, chain);
    if (found?.isComplete !== true || found.rules.length !== told.length)
      throw notAsTold(own, `${chain} has ${found?.rules.length ?? "no"} rules instead of ${told.length}`);
    const isLedInto = hook === undefined || jump !== undefined;
    if (!isLedInto || others.length > 0 || found.use !== told.length + leadCount)
      throw notAsTold(own, `not one rule leads into ${chain}`);
    return {
      ...ownChain,
      request: newChain(place),
      rules: told.map((rule, index) =>
        knownRule(place, rule, { rule: found.rules[index], protocol: rule.protocol }),
      ),
      ...(hook === undefined
        ? {}
        : { jump: knownRule({ ...place, chain: hook }, { words: `-j ${chain}` }, { rule: jump, isFirst }) }),
    };
  });
  return { family, table, request: newTable(seen), chains, hooks };
}

function knownRule(
  place: ChainPlace,
  { words }: { words: string },
  found: { rule: NftRuleObject | undefined; protocol?: RuleProtocol | undefined; isFirst?: boolean },
): KnownRule {
  const expressions = (found.rule?.expressions ?? new Uint8Array()).slice();
  const { rule, protocol, isFirst = false } = found;
  const request = newRule(place, { ...rule, expressions, protocol, isFirst });
  return { words, expressions, request };
}

function notAsTold({ family, table }: OwnTable, why: string): NetfilterFault {
  return new NetfilterFault(
    "NOT_AS_TOLD",
    `Cannot read back table ${table} of IPv${family} as it was written: ${why}`,
  );
}
