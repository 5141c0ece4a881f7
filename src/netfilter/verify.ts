// SPDX-License-Identifier: Apache-2.0
// Compares what is ours in a namespace with known bytes, and says how it differs.

import type { Family } from "./family.ts";
import { NetfilterFault } from "./netfilter-fault.ts";
import type { KnownChain, KnownRule, KnownRules, KnownTable } from "./nft-known.ts";
import { type NftRuleObject, sameBytes, sameHook } from "./nft-objects.ts";
import type { SeenChain, SeenObjects, SeenTable } from "./own-objects.ts";
import type { Finding } from "./rule-engine.ts";
import type { OwnChain, OwnTable } from "./told-rules.ts";

/** A rule in a base chain that leads into a chain of ours. */
export interface Entry {
  readonly hook: string;
  readonly handle: Uint8Array;
}

/** What there is of one of our chains. */
export interface ChainVerdict extends OwnChain {
  readonly wanted: KnownChain | undefined;
  readonly seen: SeenChain | undefined;
  /** Its rules are the wanted ones, in order. */
  readonly hasRules: boolean;
  /** Its rules in words, those that are not known by a text of their own. */
  readonly words: readonly string[];
  /** Rules that lead into it as one should, wherever in the base chain they stand. */
  readonly jumps: readonly Entry[];
  /** That of them which stands where it should. */
  readonly jump: Entry | undefined;
  /** Rules that lead into it in another way. */
  readonly strays: readonly Entry[];
}

/** What there is of ours in one table. */
export interface TableVerdict extends Pick<OwnTable, "family" | "table"> {
  readonly wanted: KnownTable | undefined;
  readonly seen: SeenTable | undefined;
  readonly chains: readonly ChainVerdict[];
  readonly findings: readonly Finding[];
}

/** What a namespace has of what it should have. */
export interface Verdict {
  readonly tables: readonly TableVerdict[];
  /** Of all tables; none: everything is as it should be. */
  readonly findings: readonly Finding[];
}

/** What should be there. */
export interface Wanted {
  readonly known: KnownRules;
  /** Families that are not looked at are neither right nor wrong. */
  readonly families: readonly Family[];
  /** Each rule may also be the one that stands in the same place of these. */
  readonly accepted?: KnownRules | undefined;
}

/**
 * Judges what was read.
 * @throws {NetfilterFault} TABLE_DORMANT, HOOK_TAKEN, TOO_MANY_RULES, UNSTEADY: it cannot be judged, or not be mended by rules
 */
export function verifyOwnObjects(seen: SeenObjects, wanted: Wanted): Verdict {
  const tables = wanted.known.own
    .filter(({ family }) => wanted.families.includes(family))
    .map((own) => judgeTable(own, seen, wanted));
  const findings = tables.flatMap((table) => table.findings);
  // What has changed between two lists is no hole in either of them.
  if (findings.length > 0 && !seen.isSteady)
    throw new NetfilterFault(
      "UNSTEADY",
      "Cannot verify the rules of this network namespace: they change while they are read; " +
        "look for a program in the pod that writes rules without end",
    );
  return { tables, findings };
}

function judgeTable(own: OwnTable, { tables }: SeenObjects, wanted: Wanted): TableVerdict {
  const { family, table } = own;
  const isIt = (each: Pick<OwnTable, "family" | "table">) => each.family === family && each.table === table;
  const seen = tables.find(isIt);
  const known = wanted.known.tables.find(isIt);
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

function checkUsable({ family, table, hooks }: KnownTable, seen: SeenTable): void {
  const where = `table ${table} of IPv${family}`;
  if (seen.isDormant)
    throw new NetfilterFault(
      "TABLE_DORMANT",
      `Cannot redirect by ${where}: somebody put it to sleep, so that none of its rules is looked at; wake it up with nft`,
    );
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
  const words = (seen?.rules ?? []).map((rule, index) =>
    wordsOf(rule, { index, known: known?.rules ?? [], accepted: accepted?.rules ?? [] }),
  );
  const hasRules =
    seen?.isComplete === true &&
    words.length === known?.rules.length &&
    known.rules.every((rule, index) => rule.words === words[index]);
  return { ...own, wanted: known, seen, hasRules, words, ...entries };
}

/** @throws {NetfilterFault} TOO_MANY_RULES when the rest of the base chain may hold what was not found */
function entriesOf(
  { chain, hook, isFirst = false }: OwnChain,
  table: SeenTable | undefined,
  known: KnownRule | undefined,
): Pick<ChainVerdict, "jumps" | "jump" | "strays"> {
  const jumps: Entry[] = [];
  const strays: Entry[] = [];
  let jump: Entry | undefined;
  for (const base of table?.chains.values() ?? []) {
    if (base.base === undefined) continue;
    for (const [index, { handle, targets, expressions }] of base.rules.entries()) {
      if (!targets.includes(chain)) continue;
      const isJump = base.name === hook && known !== undefined && sameBytes(expressions, known.expressions);
      const entry = { hook: base.name, handle: handle.slice() };
      (isJump ? jumps : strays).push(entry);
      if (isJump && (index === 0 || !isFirst)) jump ??= entry;
    }
  }
  for (const { chain: from, handle, targets } of table?.foreign ?? [])
    if (targets.includes(chain)) strays.push({ hook: from, handle: handle.slice() });
  if (isFirst) return { jumps, jump, strays };
  const used = (table?.chains.get(chain)?.use ?? 0) > 0;
  if (known !== undefined && jump === undefined && used && table?.chains.get(hook)?.isComplete === false)
    throw new NetfilterFault(
      "TOO_MANY_RULES",
      `Cannot verify that ${hook} of table ${table.table} leads to ${chain}: more rules stand before it than are read`,
    );
  return { jumps, jump, strays };
}

function wordsOf(
  rule: NftRuleObject,
  told: { index: number; known: readonly KnownRule[]; accepted: readonly KnownRule[] },
): string {
  const { index, known, accepted } = told;
  const isIt = (each: KnownRule | undefined) =>
    each !== undefined && sameBytes(each.expressions, rule.expressions);
  const here = known[index];
  if (here !== undefined && (isIt(here) || isIt(accepted[index]))) return here.words;
  const elsewhere = known.find((each, at) => isIt(each) || isIt(accepted[at]));
  return elsewhere?.words ?? `(a rule of ${rule.expressions.length} bytes that is not ours)`;
}

function findingsOf(verdict: Omit<TableVerdict, "findings">): Finding[] {
  const { family, table, wanted, chains } = verdict;
  if (wanted === undefined) {
    const present = chains.flatMap(({ chain, seen }) => (seen === undefined ? [] : [chain]));
    if (present.length === 0) return [];
    const detail = `${present.join(" and ")} should not be in table ${table}`;
    return [{ kind: "unexpected-table", family, table, chain: "", detail }];
  }
  const place = { family, table };
  // a way in that is not there says more than any rule behind it
  return [
    ...chains.flatMap((chain) => compareJumps(chain, place)),
    ...chains.flatMap((chain) => compareRules(chain, place)),
    ...chains.flatMap((chain) => strayFindings(chain, place)),
  ];
}

type Place = Pick<Finding, "family" | "table">;

function compareRules(verdict: ChainVerdict, table: Place): Finding[] {
  const { chain, seen, wanted, words } = verdict;
  const place = { ...table, chain };
  if (seen === undefined) return [{ kind: "missing-chain", ...place, detail: `chain ${chain} is not there` }];
  if (verdict.hasRules) return [];
  const desired = (wanted?.rules ?? []).map((rule) => rule.words);
  const lost = partition(desired, words);
  const found = partition(words, desired);
  const line = (rule: string | undefined) => `-A ${chain} ${rule}`;
  const wrong = lost.common.findIndex((rule, index) => found.common[index] !== rule);
  const reordered = `rule ${wrong + 1} should not be ${line(found.common[wrong])}`;
  return [
    ...lost.rest.map((rule): Finding => ({ kind: "missing-rule", ...place, detail: line(rule) })),
    ...found.rest.map((rule): Finding => ({ kind: "extra-rule", ...place, detail: line(rule) })),
    ...(wrong < 0 ? [] : [{ kind: "reordered", ...place, detail: reordered } as const]),
    ...(seen.isComplete ? [] : [{ kind: "extra-rule", ...place, detail: line("(and more)") } as const]),
  ];
}

function compareJumps({ chain, hook, jumps, jump }: ChainVerdict, table: Place): Finding[] {
  const place = { ...table, chain: hook };
  if (jumps.length === 0)
    return [{ kind: "missing-jump", ...place, detail: `${hook} does not jump to ${chain}` }];
  if (jump === undefined)
    return [{ kind: "jump-not-first", ...place, detail: `rules stand before the jump to ${chain}` }];
  if (jumps.length === 1) return [];
  return [{ kind: "duplicate-jump", ...place, detail: `${hook} jumps to ${chain} ${jumps.length} times` }];
}

/** The chain's own count shows rules and verdicts that no list does: those in others' chains, and what is too long to list. */
function strayFindings(verdict: ChainVerdict, table: Place): Finding[] {
  const { chain, seen, jumps, strays } = verdict;
  const found = strays.map(({ hook }): Finding => {
    const from = printableName(hook);
    const detail = `-A ${from} leads into ${chain} by a rule that is not ours`;
    return { kind: "extra-rule", ...table, chain: from, detail };
  });
  if (seen === undefined || !seen.isComplete) return found;
  const hiddenCount = seen.use - seen.rules.length - jumps.length - strays.length;
  if (hiddenCount <= 0) return found;
  const detail = `${hiddenCount} rules more stand in ${chain} or lead into it than are listed`;
  return [...found, { kind: "extra-rule", ...table, chain, detail }];
}

/** A chain's name can be anything but a NUL; whoever reads of it has a terminal. */
export function printableName(name: string): string {
  return /^[\w.:-]+$/.test(name) ? name : `(a name of ${name.length} bytes)`;
}

/** The elements of a list that another list has too, and the rest, counting repetitions. */
function partition(list: readonly string[], other: readonly string[]): { common: string[]; rest: string[] } {
  const left = new Map<string, number>();
  for (const element of other) left.set(element, (left.get(element) ?? 0) + 1);
  const common: string[] = [];
  const rest: string[] = [];
  for (const element of list) {
    const count = left.get(element) ?? 0;
    left.set(element, count - 1);
    (count > 0 ? common : rest).push(element);
  }
  return { common, rest };
}
