// SPDX-License-Identifier: Apache-2.0
// Compares what is ours in x_tables with known bytes, and says how it differs. Pure.
import type { Family } from "./family.ts";
import type { ChainState, Finding, RuleState } from "./rule-engine.ts";
import {
  jumpFindings,
  ruleFindings,
  strayFindings,
  type TablePlace,
  unexpectedFindings,
} from "./rule-findings.ts";
import type { OwnChain, OwnTable } from "./told-rules.ts";
import { isPlainJump, sameRule, type XtablesRule } from "./xtables-entry.ts";
import type {
  KnownXtables,
  KnownXtablesChain,
  KnownXtablesRule,
  KnownXtablesTable,
} from "./xtables-known.ts";
import type { XtablesChain, XtablesLead, XtablesView } from "./xtables-table.ts";

/** By {@link tableKey}; a table that is not there has nothing of ours. */
export type SeenXtables = ReadonlyMap<string, XtablesView>;

/** What should be there. */
export interface WantedXtables {
  readonly known: KnownXtables;
  readonly families: readonly Family[];
  /** Each rule may also be the one that stands in the same place of these. */
  readonly accepted?: KnownXtables | undefined;
}

/** What there is of one of our chains. */
export interface XtablesChainVerdict extends OwnChain {
  readonly wanted: KnownXtablesChain | undefined;
  readonly isThere: boolean;
  /** Its rules are the wanted ones, in order. */
  readonly hasRules: boolean;
  readonly words: readonly string[];
  readonly jumps: readonly XtablesLead[];
  readonly strays: readonly XtablesLead[];
}

/** What there is of ours in one table. */
export interface XtablesTableVerdict extends TablePlace {
  readonly wanted: KnownXtablesTable | undefined;
  readonly chains: readonly XtablesChainVerdict[];
  readonly findings: readonly Finding[];
}

/** Where a rule stands whose chain's name is not read. */
const NAMELESS = "(a chain of others)";

export function tableKey({ family, table }: TablePlace): string {
  return `${family} ${table}`;
}

/** Judges what was read of each table of the wanted families. */
export function verifyXtables(seen: SeenXtables, wanted: WantedXtables): XtablesTableVerdict[] {
  return wanted.known.own
    .filter(({ family }) => wanted.families.includes(family))
    .map((own) => judgeTable(own, seen.get(tableKey(own)), wanted));
}

/** As callers are told. */
export function xtablesState(tables: readonly XtablesTableVerdict[]): RuleState {
  const chains = tables.flatMap(({ family, table, chains: all }) =>
    all
      .filter(({ isThere }) => isThere)
      .map(({ chain, words, jumps, strays }): ChainState => {
        return { family, table, chain, words, jumpCount: jumps.length, strays: strays.map(nameOf) };
      }),
  );
  return { findings: tables.flatMap(({ findings }) => findings), chains };
}

function judgeTable(
  own: OwnTable,
  view: XtablesView | undefined,
  { known, accepted }: WantedXtables,
): XtablesTableVerdict {
  const { family, table } = own;
  const isIt = (each: TablePlace) => each.family === family && each.table === table;
  const wanted = known.tables.find(isIt);
  const others = accepted?.tables.find(isIt);
  const chains = own.chains.map((chain) => {
    const ofChain = (each: OwnChain) => each.chain === chain.chain;
    const told = { known: wanted?.chains.find(ofChain), accepted: others?.chains.find(ofChain) };
    return judgeChain(chain, { view, family }, told);
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
  const words = wordsOf(seen, { known: known?.rules ?? [], accepted: accepted?.rules ?? [] });
  const hasRules =
    seen !== undefined &&
    words.length === known?.rules.length &&
    known.rules.every((rule, index) => rule.words === words[index]) &&
    seen.end !== undefined &&
    sameRule(seen.end, known.end);
  return {
    ...own,
    wanted: known,
    isThere: seen !== undefined,
    hasRules,
    words,
    jumps,
    strays,
  };
}

/** Those of rules that are told, and notes on others. */
function wordsOf(
  seen: XtablesChain | undefined,
  told: { known: readonly KnownXtablesRule[]; accepted: readonly KnownXtablesRule[] },
): string[] {
  if (seen === undefined) return [];
  const words = seen.rules.map((rule, index) => ruleWords(rule, index, told));
  const more = seen.ruleCount - seen.rules.length;
  return more > 0 ? [...words, `(and ${more} rules more)`] : words;
}

function ruleWords(
  rule: XtablesRule,
  index: number,
  { known, accepted }: { known: readonly KnownXtablesRule[]; accepted: readonly KnownXtablesRule[] },
): string {
  const isIt = (each: KnownXtablesRule | undefined) => each !== undefined && sameRule(each.rule, rule);
  const here = known[index];
  if (here !== undefined && (isIt(here) || isIt(accepted[index]))) return here.words;
  const elsewhere = known.find((each, at) => isIt(each) || isIt(accepted[at]));
  return elsewhere?.words ?? `(a rule of ${rule.bytes.length} bytes that is not ours)`;
}

function findingsOf(verdict: XtablesChainVerdict, place: TablePlace): Finding[] {
  const { chain, hook, isFirst = false, isThere, hasRules, wanted, words, jumps, strays } = verdict;
  const told = (wanted?.rules ?? []).map((rule) => rule.words);
  const rules = hasRules ? [] : ruleFindings({ chain, isThere, wanted: told, found: words }, place);
  const end: Finding = { kind: "extra-rule", ...place, chain, detail: `${chain} does not end as chains do` };
  const before = isFirst ? (jumps[0]?.position ?? 1) - 1 : 0;
  return [
    ...(hasRules || rules.length > 0 ? rules : [end]),
    ...jumpFindings({ chain, hook, count: jumps.length, before }, place),
    ...strayFindings({ chain, strays: strays.map(nameOf) }, place),
  ];
}

function nameOf({ from }: XtablesLead): string {
  return from ?? NAMELESS;
}
