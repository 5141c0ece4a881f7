// SPDX-License-Identifier: Apache-2.0
// Compares what is ours in x_tables with known bytes, and says how it differs. Pure.
import { isProven } from "../chain-proof.ts";
import {
  type ChainVerdict,
  judgeChains,
  jumpFindings,
  ruleFindings,
  strayFindings,
  type TablePlace,
  unexpectedFindings,
} from "../chain-verdict.ts";
import type { Verdict, Wanted } from "../engine.ts";
import type { Finding } from "../rule-engine.ts";
import type { OwnTable } from "../told-rules.ts";
import { isPlainJump, sameRule } from "./xtables-entry.ts";
import type { KnownXtables, KnownXtablesChain, KnownXtablesTable } from "./xtables-known.ts";
import type { XtablesChain, XtablesLead, XtablesView } from "./xtables-table.ts";

/** By {@link tableKey}; a table that is not there has nothing of ours. */
export type SeenXtables = ReadonlyMap<string, XtablesView>;

export type XtablesChainVerdict = ChainVerdict<KnownXtablesChain, XtablesChain, XtablesLead>;

/** What there is of ours in one table. */
export interface XtablesTableVerdict extends TablePlace {
  readonly wanted: KnownXtablesTable | undefined;
  readonly chains: readonly XtablesChainVerdict[];
  readonly findings: readonly Finding[];
}

export type XtablesVerdict = Verdict<XtablesTableVerdict>;

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
  const told = { known: wanted?.chains ?? [], accepted: accepted?.tables.find(isIt)?.chains ?? [] };
  const chains = judgeChains<KnownXtablesChain, XtablesChain, XtablesLead>(own.chains, view, told, {
    bytesOf: ({ bytes }) => bytes,
    isSame: ({ rule }, other) => sameRule(rule, other),
    isWhole: ({ rules, ruleCount, end }, chain) =>
      rules.length === ruleCount && end !== undefined && sameRule(end, chain.end),
    isJump: ({ rule, chain }) => isPlainJump(rule, chain, family),
    moreOf: ({ rules, ruleCount }) =>
      ruleCount > rules.length ? [`(and ${ruleCount - rules.length} rules more)`] : [],
  }).map((chain) => (leavesStrays ? { ...chain, strays: [] } : chain));
  const findings =
    wanted === undefined
      ? unexpectedFindings(chains, { family, table })
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

function findingsOf(verdict: XtablesChainVerdict, place: TablePlace): Finding[] {
  const { chain, hasRules } = verdict;
  const rules = ruleFindings(verdict, place);
  const end: Finding = { kind: "extra-rule", ...place, chain, detail: `${chain} does not end as chains do` };
  return [
    ...(hasRules || rules.length > 0 ? rules : [end]),
    ...jumpFindings(verdict, place),
    ...strayFindings(verdict, place),
  ];
}
