// SPDX-License-Identifier: Apache-2.0
// How chains of iptables differ from what they should be, in words; the same for every engine of the kernel that holds them. Pure.
import type { ChainState, Finding, RuleCount } from "./rule-engine.ts";
import { type MatchedRule, matchRule, partition, statesOf, sumOf } from "./rule-match.ts";
import type { OwnChain, OwnTable } from "./told-rules.ts";

/** Family and table. */
export type TablePlace = Pick<OwnTable, "family" | "table">;

/** A rule outside of our chains that leads into one of them. */
export interface ChainLead {
  readonly chain: string;
  /** The chain it stands in; undefined for a name that is not read. */
  readonly from: string | undefined;
  /** The same for people. */
  readonly shown: string;
  readonly isBase: boolean;
  /** In that chain, from 1. */
  readonly position: number;
  readonly rule: { readonly count: RuleCount };
}

/** A chain of ours, with its rules as they are told and as the kernel has them. */
interface KnownChain extends OwnChain {
  readonly rules: readonly { readonly words: string }[];
}

/** A chain as it was read. */
interface SeenChain {
  readonly rules: readonly { readonly count: RuleCount }[];
}

/** What was read of a table. */
export interface SeenShare<Seen, Lead> {
  readonly chains: ReadonlyMap<string, Seen>;
  readonly leads: readonly Lead[];
}

/** What there is of one of our chains. */
export interface ChainVerdict<Known = KnownChain, Seen = SeenChain, Lead = ChainLead> extends OwnChain {
  readonly wanted: Known | undefined;
  readonly seen: Seen | undefined;
  /** Its rules are the wanted ones, in order, and nothing else is in it. */
  readonly hasRules: boolean;
  readonly rules: readonly MatchedRule[];
  /** A note on rules that are there beside these. */
  readonly more: readonly string[];
  /** Rules that lead into it as one should, wherever in the base chain they stand. */
  readonly jumps: readonly Lead[];
  /** Rules that lead into it in another way. */
  readonly strays: readonly Lead[];
}

/** How one engine of the kernel shows rules. */
export interface ChainTerms<Known extends KnownChain, Seen extends SeenChain, Lead extends ChainLead> {
  bytesOf(rule: Seen["rules"][number]): Uint8Array;
  isSame(known: Known["rules"][number], rule: Seen["rules"][number]): boolean;
  /** Whether nothing is in a chain but rules that are known to be right. */
  isWhole(seen: Seen, known: Known): boolean;
  /** Whether a rule in the base chain leads into ours as one should. */
  isJump(lead: Lead, known: Known | undefined): boolean;
  moreOf?(seen: Seen): string[];
}

/** Judges our chains of a table. @param told.accepted each rule may also be the one that stands in the same place of these */
export function judgeChains<Known extends KnownChain, Seen extends SeenChain, Lead extends ChainLead>(
  own: readonly OwnChain[],
  share: SeenShare<Seen, Lead> | undefined,
  told: { readonly known: readonly Known[]; readonly accepted: readonly Known[] },
  terms: ChainTerms<Known, Seen, Lead>,
): ChainVerdict<Known, Seen, Lead>[] {
  return own.map((chain) => {
    const isIt = (each: OwnChain) => each.chain === chain.chain;
    const wanted = told.known.find(isIt);
    const seen = share?.chains.get(chain.chain);
    const isJump = (lead: Lead) => lead.isBase && lead.from === chain.hook && terms.isJump(lead, wanted);
    const leads = (share?.leads ?? []).filter((lead) => lead.chain === chain.chain);
    const forms = { known: wanted?.rules ?? [], accepted: told.accepted.find(isIt)?.rules ?? [] };
    const rules = (seen?.rules ?? []).map((rule, index) =>
      matchRule({ index, bytes: terms.bytesOf(rule).length, count: rule.count }, forms, (known) =>
        terms.isSame(known, rule),
      ),
    );
    const isRight =
      rules.length === wanted?.rules.length &&
      wanted.rules.every(({ words }, index) => words === rules[index]?.words);
    return {
      ...chain,
      wanted,
      seen,
      hasRules: isRight && seen !== undefined && terms.isWhole(seen, wanted),
      rules,
      more: (seen && terms.moreOf?.(seen)) ?? [],
      jumps: leads.filter(isJump),
      strays: leads.filter((lead) => !isJump(lead)),
    };
  });
}

/** As callers are told of chains that are there. */
export function statesOfChains({ family, table }: TablePlace, chains: readonly ChainVerdict[]): ChainState[] {
  return chains
    .filter(({ seen }) => seen !== undefined)
    .map(({ chain, rules, more, jumps, strays }) => {
      const { words, ...states } = statesOf(rules);
      const jumped = sumOf(jumps.map(({ rule }) => rule.count));
      const place = { family, table, chain, words: [...words, ...more], ...states };
      return { ...place, jumpCount: jumps.length, jumped, strays: strays.map(({ shown }) => shown) };
    });
}

/** Nothing for a chain that holds exactly the rules that it should. */
export function ruleFindings(
  { chain, seen, wanted, hasRules, rules, more }: ChainVerdict,
  table: TablePlace,
): Finding[] {
  if (hasRules) return [];
  const place = { ...table, chain };
  if (seen === undefined) return [{ kind: "missing-chain", ...place, detail: `chain ${chain} is not there` }];
  const told = (wanted?.rules ?? []).map(({ words }) => words);
  const found = [...rules.map(({ words }) => words), ...more];
  const lost = partition(told, found, String);
  const surplus = partition(found, told, String);
  const line = (rule: string | undefined) => `-A ${chain} ${rule}`;
  const wrong = lost.common.findIndex((rule, index) => surplus.common[index] !== rule);
  const reordered = `rule ${wrong + 1} should not be ${line(surplus.common[wrong])}`;
  return [
    ...lost.rest.map((rule): Finding => ({ kind: "missing-rule", ...place, detail: line(rule) })),
    ...surplus.rest.map((rule): Finding => ({ kind: "extra-rule", ...place, detail: line(rule) })),
    ...(wrong < 0 ? [] : [{ kind: "reordered", ...place, detail: reordered } as const]),
  ];
}

/** Of the way into a chain; none for one that nothing but rules of ours leads into. */
export function jumpFindings(
  { chain, hook, isFirst = false, jumps }: ChainVerdict,
  table: TablePlace,
): Finding[] {
  if (hook === undefined) return [];
  const place = { ...table, chain: hook };
  const [first] = jumps;
  if (first === undefined)
    return [{ kind: "missing-jump", ...place, detail: `${hook} does not jump to ${chain}` }];
  const findings: Finding[] = [];
  const before = first.position - 1;
  if (isFirst && before > 0)
    findings.push({
      kind: "jump-not-first",
      ...place,
      detail: `${before} rules of others stand before the jump to ${chain}`,
    });
  if (jumps.length > 1) {
    const detail = `${hook} jumps to ${chain} ${jumps.length} times`;
    findings.push({ kind: "duplicate-jump", ...place, detail });
  }
  return findings;
}

/** Of rules that lead into a chain in another way, by the chain they stand in. */
export function strayFindings({ chain, strays }: ChainVerdict, table: TablePlace): Finding[] {
  const names = strays.map(({ shown }) => shown);
  return [...new Set(names)].map((from) => {
    const count = names.filter((each) => each === from).length;
    const rules = count === 1 ? "a rule that is" : `${count} rules that are`;
    const detail = `-A ${from} leads into ${chain} by ${rules} not ours`;
    return { kind: "extra-rule", ...table, chain: from, detail };
  });
}

/** Of chains of ours where none should be. */
export function unexpectedFindings(chains: readonly ChainVerdict[], place: TablePlace): Finding[] {
  const present = chains.filter(({ seen }) => seen !== undefined).map(({ chain }) => chain);
  if (present.length === 0) return [];
  const detail = `${present.join(" and ")} should not be in table ${place.table}`;
  return [{ kind: "unexpected-table", ...place, chain: "", detail }];
}
