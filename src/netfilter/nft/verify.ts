// SPDX-License-Identifier: Apache-2.0
// Compares what is ours in a namespace with known bytes, and says how it differs.

import { isProven } from "../chain-proof.ts";
import type { Verdict, Wanted } from "../engine.ts";
import { dormantFault, NetfilterFault, unsteadyFault } from "../netfilter-fault.ts";
import type { Finding, RuleCount } from "../rule-engine.ts";
import {
  jumpFindings,
  ruleFindings,
  strayFindings,
  type TablePlace,
  unexpectedFindings,
} from "../rule-findings.ts";
import { type MatchedRule, matchRule } from "../rule-match.ts";
import { isHooked, type OwnChain, type OwnTable } from "../told-rules.ts";
import type { KnownChain, KnownRule, KnownRules, KnownTable } from "./nft-known.ts";
import { sameBytes, sameHook } from "./nft-objects.ts";
import { leadsOf, type SeenChain, type SeenObjects, type SeenTable } from "./own-objects.ts";

/** A rule in a base chain that leads into a chain of ours. */
export interface Entry {
  readonly hook: string;
  readonly handle: Uint8Array;
  readonly count: RuleCount;
}

/** What there is of one of our chains. */
export interface ChainVerdict extends OwnChain {
  readonly wanted: KnownChain | undefined;
  readonly seen: SeenChain | undefined;
  /** Its rules are the wanted ones, in order. */
  readonly hasRules: boolean;
  readonly rules: readonly MatchedRule[];
  /** Rules that lead into it as one should, wherever in the base chain they stand. */
  readonly jumps: readonly Entry[];
  /** How many rules stand before the first of them. */
  readonly before: number;
  /** That of them which stands where it should. */
  readonly jump: Entry | undefined;
  /** Rules that lead into it in another way. */
  readonly strays: readonly Entry[];
  /** Verdicts in chains of ours that lead into it; which of them should is said by those chains. */
  readonly ownLeads: number;
}

/** What there is of ours in one table. */
export interface TableVerdict extends Pick<OwnTable, "family" | "table"> {
  readonly wanted: KnownTable | undefined;
  readonly seen: SeenTable | undefined;
  readonly chains: readonly ChainVerdict[];
  readonly findings: readonly Finding[];
}

export type NftVerdict = Verdict<TableVerdict>;

/**
 * Judges what was read.
 * @throws {NetfilterFault} TABLE_DORMANT, HOOK_TAKEN, TOO_MANY_RULES, UNSTEADY: it cannot be judged, or not be mended by rules
 */
export function verifyOwnObjects(seen: SeenObjects, wanted: Wanted<KnownRules>): NftVerdict {
  const tables = wanted.known.own
    .filter(({ family }) => wanted.families.includes(family))
    .map((own) => judgeTable(own, seen, wanted));
  const findings = tables.flatMap((table) => table.findings);
  // What has changed between two lists is no hole in either of them.
  if (findings.length > 0 && !seen.isSteady) throw unsteadyFault();
  return { tables, findings };
}

function judgeTable(own: OwnTable, { tables }: SeenObjects, wanted: Wanted<KnownRules>): TableVerdict {
  const { family, table } = own;
  const isIt = (each: Pick<SeenTable, "family" | "table">) => each.family === family && each.table === table;
  const known = wanted.known.tables.find(isIt);
  const found = tables.find(isIt);
  // where nothing is to stand, what is taken away is ours
  const seen = known === undefined && !isOurs(own, found) ? undefined : found;
  const accepted = wanted.accepted?.tables.find(isIt);
  if (known !== undefined && seen !== undefined) checkUsable(known, seen);
  const chains = own.chains.map((chain) => {
    const ofChain = (each: KnownChain) => each.chain === chain.chain;
    return judgeChain(chain, seen, {
      known: known?.chains.find(ofChain),
      accepted: accepted?.chains.find(ofChain),
    });
  });
  const verdict = { family, table, wanted: known, seen, chains };
  return { ...verdict, findings: findingsOf(verdict) };
}

function isOurs(own: OwnTable, seen: SeenTable | undefined): boolean {
  const chains = [...(seen?.chains.values() ?? [])].filter(({ base }) => base === undefined);
  return isProven(
    own,
    chains.map(({ rules, isComplete }) => ({
      rules: rules.map(({ expressions }) => expressions),
      isComplete,
    })),
  );
}

function checkUsable({ family, table, hooks }: KnownTable, seen: SeenTable): void {
  const where = `table ${table} of IPv${family}`;
  if (seen.isDormant) throw dormantFault(where);
  const taken = hooks.find((hook) => {
    const chain = seen.chains.get(hook.chain);
    return chain !== undefined && (chain.base === undefined || !sameHook(chain.base, hook));
  });
  if (taken !== undefined)
    throw new NetfilterFault(
      "HOOK_TAKEN",
      `Cannot redirect by ${where}: its chain ${taken.chain} does not hang where iptables hangs it; ` +
        "whoever adds chains with nft should use a table of its own",
    );
}

function judgeChain(
  own: OwnChain,
  table: SeenTable | undefined,
  { known, accepted }: { known: KnownChain | undefined; accepted: KnownChain | undefined },
): ChainVerdict {
  const seen = table?.chains.get(own.chain);
  const entries = entriesOf(own, table, known?.jump);
  const forms = { known: known?.rules ?? [], accepted: accepted?.rules ?? [] };
  const rules = (seen?.rules ?? []).map(({ expressions, count }, index) =>
    matchRule({ index, bytes: expressions.length, count }, forms, (each) =>
      sameBytes(each.expressions, expressions),
    ),
  );
  const hasRules =
    seen?.isComplete === true &&
    rules.length === known?.rules.length &&
    known.rules.every(({ words }, index) => words === rules[index]?.words);
  const ownLeads = table === undefined ? 0 : leadsOf(table, own.chain);
  return { ...own, wanted: known, seen, hasRules, rules, ...entries, ownLeads };
}

/** @throws {NetfilterFault} TOO_MANY_RULES when the rest of the base chain may hold what was not found */
function entriesOf(
  { chain, hook, isFirst = false }: OwnChain,
  table: SeenTable | undefined,
  known: KnownRule | undefined,
): Pick<ChainVerdict, "jumps" | "jump" | "before" | "strays"> {
  const jumps: Entry[] = [];
  const strays: Entry[] = [];
  let jump: Entry | undefined;
  let before = 0;
  for (const base of table?.chains.values() ?? []) {
    if (base.base === undefined) continue;
    for (const [index, { handle, targets, expressions, count }] of base.rules.entries()) {
      if (!targets.includes(chain)) continue;
      const isJump = base.name === hook && known !== undefined && sameBytes(expressions, known.expressions);
      const entry = { hook: base.name, handle: handle.slice(), count };
      if (isJump && jumps.length === 0) before = index;
      (isJump ? jumps : strays).push(entry);
      if (isJump && (index === 0 || !isFirst)) jump ??= entry;
    }
  }
  for (const { chain: from, handle, targets, count } of table?.foreign ?? [])
    if (targets.includes(chain)) strays.push({ hook: from, handle: handle.slice(), count });
  if (isFirst || hook === undefined) return { jumps, jump, before, strays };
  const used = (table?.chains.get(chain)?.use ?? 0) > 0;
  if (known !== undefined && jump === undefined && used && table?.chains.get(hook)?.isComplete === false)
    throw new NetfilterFault(
      "TOO_MANY_RULES",
      `Cannot verify that ${hook} of table ${table.table} leads to ${chain}: more rules stand before it than are read; ` +
        "take rules of others out of that chain, or let them come after ours",
    );
  return { jumps, jump, before: 0, strays };
}

function findingsOf({ family, table, wanted, chains }: Omit<TableVerdict, "findings">): Finding[] {
  const place = { family, table };
  if (wanted === undefined) {
    const present = chains.flatMap(({ chain, seen }) => (seen === undefined ? [] : [chain]));
    return unexpectedFindings(present, place);
  }
  // a way in that is not there says more than any rule behind it
  return [
    ...chains
      .filter(isHooked)
      .flatMap(({ chain, hook, jumps, before }) =>
        jumpFindings({ chain, hook, count: jumps.length, before }, place),
      ),
    ...chains.flatMap((chain) => chainFindings(chain, place)),
    ...chains.flatMap(({ chain, strays }) =>
      strayFindings({ chain, strays: strays.map(({ hook }) => printableName(hook)) }, place),
    ),
    ...chains.flatMap((chain) => hiddenFindings(chain, place)),
  ];
}

function chainFindings({ chain, seen, wanted, hasRules, rules }: ChainVerdict, place: TablePlace): Finding[] {
  if (hasRules) return [];
  const told = (wanted?.rules ?? []).map(({ words }) => words);
  const found = rules.map(({ words }) => words);
  const findings = ruleFindings({ chain, isThere: seen !== undefined, wanted: told, found }, place);
  if (seen?.isComplete !== false) return findings;
  return [...findings, { kind: "extra-rule", ...place, chain, detail: `-A ${chain} (and more)` }];
}

/** The chain's own count shows rules and verdicts that no list does: those in others' chains, and what is too long to list. */
function hiddenFindings(
  { chain, seen, jumps, strays, ownLeads }: ChainVerdict,
  place: TablePlace,
): Finding[] {
  if (seen === undefined || !seen.isComplete) return [];
  const hiddenCount = seen.use - seen.rules.length - jumps.length - strays.length - ownLeads;
  if (hiddenCount <= 0) return [];
  const detail = `${hiddenCount} rules more stand in ${chain} or lead into it than are listed`;
  return [{ kind: "extra-rule", ...place, chain, detail }];
}

/** A chain's name can be anything but a NUL; whoever reads of it has a terminal. */
export function printableName(name: string): string {
  return /^[\w.:-]+$/.test(name) ? name : `(a name of ${name.length} bytes)`;
}
