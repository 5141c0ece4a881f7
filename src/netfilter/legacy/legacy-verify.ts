// SPDX-License-Identifier: Apache-2.0
// Compares what is ours in x_tables with known bytes, and says how it differs. Pure.

import { isProven } from "../chain-proof.ts";
import type { Verdict, Wanted } from "../engine.ts";
import type { Family } from "../family.ts";
import type { ChainState, Finding } from "../rule-engine.ts";
import {
  jumpFindings,
  ruleFindings,
  strayFindings,
  type TablePlace,
  unexpectedFindings,
} from "../rule-findings.ts";
import { type MatchedRule, matchRule, statesOf, sumOf } from "../rule-match.ts";
import type { OwnChain, OwnTable } from "../told-rules.ts";
import { isPlainJump, sameRule } from "./xtables-entry.ts";
import type { KnownXtables, KnownXtablesChain, KnownXtablesTable } from "./xtables-known.ts";
import type { XtablesLead, XtablesView } from "./xtables-table.ts";

/** By {@link tableKey}; a table that is not there has nothing of ours. */
export type SeenXtables = ReadonlyMap<string, XtablesView>;

/** What there is of one of our chains. */
export interface XtablesChainVerdict extends OwnChain {
  readonly wanted: KnownXtablesChain | undefined;
  readonly isThere: boolean;
  /** Its rules are the wanted ones, in order. */
  readonly hasRules: boolean;
  /** Those that are kept apart; `ruleCount` has the others too. */
  readonly rules: readonly MatchedRule[];
  readonly ruleCount: number;
  readonly jumps: readonly XtablesLead[];
  readonly strays: readonly XtablesLead[];
}

/** What there is of ours in one table. */
export interface XtablesTableVerdict extends TablePlace {
  readonly wanted: KnownXtablesTable | undefined;
  readonly chains: readonly XtablesChainVerdict[];
  readonly findings: readonly Finding[];
}

export type XtablesVerdict = Verdict<XtablesTableVerdict>;

/** Where a rule stands whose chain's name is not read. */
const NAMELESS = "(a chain of others)";

export function tableKey({ family, table }: TablePlace): string {
  return `${family} ${table}`;
}

/**
 * Judges what was read of each table of the wanted families.
 * @param options.leavesStrays rules that lead into our chains in another way than by our jump are somebody else's: neither told of nor
 *   taken away
 */
export function verifyXtables(
  seen: SeenXtables,
  wanted: Wanted<KnownXtables>,
  options: { readonly leavesStrays: boolean },
): XtablesVerdict {
  const tables = wanted.known.own
    .filter(({ family }) => wanted.families.includes(family))
    .map((own) => judgeTable(own, seen.get(tableKey(own)), { ...wanted, ...options }));
  return { tables, findings: tables.flatMap(({ findings }) => findings) };
}

/** As callers are told. */
export function chainsOf({ tables }: XtablesVerdict): ChainState[] {
  return tables.flatMap(({ family, table, chains: all }) =>
    all
      .filter(({ isThere }) => isThere)
      .map((verdict) => {
        const { chain, rules, jumps, strays } = verdict;
        return {
          family,
          table,
          chain,
          ...statesOf(rules),
          words: wordsOf(verdict),
          jumpCount: jumps.length,
          jumped: sumOf(jumps.map(({ rule }) => rule.count)),
          strays: strays.map(nameOf),
        };
      }),
  );
}

function judgeTable(
  own: OwnTable,
  found: XtablesView | undefined,
  { known, accepted, leavesStrays }: Wanted<KnownXtables> & { readonly leavesStrays: boolean },
): XtablesTableVerdict {
  const { family, table } = own;
  const isIt = (each: TablePlace) => each.family === family && each.table === table;
  const wanted = known.tables.find(isIt);
  // where nothing is to stand, what is taken away is ours
  const view = wanted === undefined && !isOurs(own, found) ? undefined : found;
  const others = accepted?.tables.find(isIt);
  const chains = own.chains.map((chain) => {
    const ofChain = (each: OwnChain) => each.chain === chain.chain;
    const told = { known: wanted?.chains.find(ofChain), accepted: others?.chains.find(ofChain) };
    const verdict = judgeChain(chain, { view, family }, told);
    return leavesStrays ? { ...verdict, strays: [] } : verdict;
  });
  const findings =
    wanted === undefined
      ? unexpectedFindings(
          chains.flatMap(({ chain, isThere }) => (isThere ? [chain] : [])),
          { family, table },
        )
      : chains.flatMap((chain) => findingsOf(chain, { family, table }));
  return { family, table, wanted, chains, findings };
}

function isOurs(own: OwnTable, view: XtablesView | undefined): boolean {
  return isProven(
    own,
    Array.from(view?.chains.values() ?? [], ({ rules, ruleCount }) => ({
      rules: rules.map(({ bytes }) => bytes),
      isComplete: rules.length === ruleCount,
    })),
  );
}

function judgeChain(
  own: OwnChain,
  { view, family }: { view: XtablesView | undefined; family: Family },
  told: { known: KnownXtablesChain | undefined; accepted: KnownXtablesChain | undefined },
): XtablesChainVerdict {
  const { known, accepted } = told;
  const seen = view?.chains.get(own.chain);
  const jumps: XtablesLead[] = [];
  const strays: XtablesLead[] = [];
  for (const lead of view?.leads ?? []) {
    if (lead.chain !== own.chain) continue;
    const isJump = lead.isBase && lead.from === own.hook && isPlainJump(lead.rule, own.chain, family);
    (isJump ? jumps : strays).push(lead);
  }
  const forms = { known: known?.rules ?? [], accepted: accepted?.rules ?? [] };
  const rules = (seen?.rules ?? []).map((rule, index) =>
    matchRule({ index, bytes: rule.bytes.length, count: rule.count }, forms, (each) =>
      sameRule(each.rule, rule),
    ),
  );
  const ruleCount = seen?.ruleCount ?? 0;
  const hasRules =
    seen !== undefined &&
    ruleCount === known?.rules.length &&
    known.rules.every(({ words }, index) => words === rules[index]?.words) &&
    seen.end !== undefined &&
    sameRule(seen.end, known.end);
  return {
    ...own,
    wanted: known,
    isThere: seen !== undefined,
    hasRules,
    rules,
    ruleCount,
    jumps,
    strays,
  };
}

/** Those of rules that are told, and notes on others. */
function wordsOf({ rules, ruleCount }: XtablesChainVerdict): string[] {
  const words = rules.map((rule) => rule.words);
  const more = ruleCount - rules.length;
  return more > 0 ? [...words, `(and ${more} rules more)`] : words;
}

function findingsOf(verdict: XtablesChainVerdict, place: TablePlace): Finding[] {
  const { chain, hook, isFirst = false, isThere, hasRules, wanted, jumps, strays } = verdict;
  const told = (wanted?.rules ?? []).map((rule) => rule.words);
  const rules = hasRules
    ? []
    : ruleFindings({ chain, isThere, wanted: told, found: wordsOf(verdict) }, place);
  const end: Finding = { kind: "extra-rule", ...place, chain, detail: `${chain} does not end as chains do` };
  const before = isFirst ? (jumps[0]?.position ?? 1) - 1 : 0;
  return [
    ...(hasRules || rules.length > 0 ? rules : [end]),
    ...(hook === undefined ? [] : jumpFindings({ chain, hook, count: jumps.length, before }, place)),
    ...strayFindings({ chain, strays: strays.map(nameOf) }, place),
  ];
}

function nameOf({ from }: XtablesLead): string {
  return from ?? NAMELESS;
}
