// SPDX-License-Identifier: Apache-2.0
// Compares tables that are wholly ours with what should be in them, and says how they differ.
import type { Verdict, Wanted } from "../engine.ts";
import type { Family } from "../family.ts";
import { dormantFault, unsteadyFault } from "../netfilter-fault.ts";
import type { NftRuleObject } from "../nft/nft-objects.ts";
import type { SeenObjects, SeenTable } from "../nft/own-objects.ts";
import type { ChainState, Finding } from "../rule-engine.ts";
import { type MatchedRule, matchRule, partition, statesOf, sumOf } from "../rule-match.ts";
import { hangsAt, type NativeLayout, type NativeTableLayout, printHook } from "./native-layout.ts";
import type { NativeChain, NativeRule, NativeTable } from "./native-rules.ts";
import { sameExpressions } from "./nft-expressions.ts";

/** A table with what it should be and how it differs. */
export interface NativeTableVerdict {
  readonly table: string;
  readonly wanted: NativeTable | undefined;
  readonly seen: SeenTable | undefined;
  readonly findings: readonly Finding[];
  readonly chains: readonly ChainState[];
}

export type NativeVerdict = Verdict<NativeTableVerdict>;

/**
 * Judges what was read. What concerns no family alone is told under the first.
 * @throws {NetfilterFault} TABLE_DORMANT: no rule of a wanted table is looked at; UNSTEADY
 */
export function verifyNative(
  layout: NativeLayout,
  seen: SeenObjects,
  wanted: Wanted<readonly NativeTable[]>,
): NativeVerdict {
  const tables = layout.map((table) => judgeTable(table, seen, wanted));
  const findings = tables.flatMap((table) => table.findings);
  if (!seen.isSteady && findings.length > 0) throw unsteadyFault();
  return { tables, findings };
}

function judgeTable(
  layout: NativeTableLayout,
  { tables }: SeenObjects,
  all: Wanted<readonly NativeTable[]>,
): NativeTableVerdict {
  const isIt = ({ table }: { readonly table: string }) => table === layout.table;
  const seen = tables.find(isIt);
  const wanted = all.known.find(isIt);
  const table = new TableJudge(layout, seen, all.families);
  if (wanted !== undefined && seen === undefined) table.findNothing(wanted);
  else if (wanted === undefined) {
    if (seen !== undefined)
      table.find("unexpected-table", "", `table inet ${layout.table} should not be there`);
  } else {
    if (seen?.isDormant === true) throw dormantFault(`table inet ${layout.table}`);
    const accepted = all.accepted?.find(isIt);
    for (const chain of wanted.chains) {
      table.judgeChain(
        chain,
        accepted?.chains.find((each) => each.chain === chain.chain),
      );
    }
    table.judgeRest(wanted);
  }
  return { table: layout.table, wanted, seen, findings: table.findings, chains: table.states() };
}

class TableJudge {
  readonly findings: Finding[] = [];
  readonly #rules = new Map<string, readonly MatchedRule<NativeRule>[]>();
  readonly #layout: NativeTableLayout;
  readonly #seen: SeenTable | undefined;
  readonly #families: readonly Family[];

  constructor(layout: NativeTableLayout, seen: SeenTable | undefined, families: readonly Family[]) {
    this.#layout = layout;
    this.#seen = seen;
    this.#families = families;
  }

  find(kind: Finding["kind"], chain: string, detail: string, family = this.#families[0] ?? 4): void {
    this.findings.push({ kind, family, table: this.#layout.table, chain, detail });
  }

  /** Each family lacks each chain that it should have; base chains are told of by what hangs on them. */
  findNothing(wanted: NativeTable): void {
    const names = new Set(this.#layout.chains.map(({ chain }) => chain));
    const missing = wanted.chains.filter(({ chain }) => names.has(chain));
    for (const family of this.#families)
      for (const { chain } of missing)
        this.find("missing-chain", chain, `chain ${chain} is not there`, family);
  }

  judgeChain(wanted: NativeChain, accepted: NativeChain | undefined): void {
    const { chain, hook } = wanted;
    const seen = this.#seen?.chains.get(chain);
    if (seen === undefined) {
      this.find("missing-chain", chain, `chain ${chain} is not there`);
    } else {
      if (!hangsAt(seen.base, hook)) {
        const where = hook === undefined ? "no hook" : printHook(hook);
        this.find("missing-chain", chain, `chain ${chain} does not hang as it should: ${where}`);
      }
      const forms = { known: wanted.rules, accepted: accepted?.rules ?? [] };
      const rules = seen.rules.map(({ expressions, count }, index) =>
        matchRule({ index, bytes: expressions.length, count }, forms, (each) =>
          sameExpressions(each.expressions, expressions),
        ),
      );
      this.#rules.set(chain, rules);
      this.#compareRules(
        wanted,
        rules.map(({ words }) => words),
      );
    }
  }

  /** What no list shows: chains and sets of others, rules that are too long to be listed, verdicts in chains of others. */
  judgeRest({ chains }: NativeTable): void {
    const seen = this.#seen;
    if (seen === undefined) return;
    const isComplete = [...seen.chains.values()].every((chain) => chain.isComplete);
    if (!isComplete) this.find("extra-rule", "", "it holds more rules than are read");
    for (const chain of seen.chains.keys())
      if (!chains.some((each) => each.chain === chain))
        this.find("extra-rule", chain, `chain ${chain} should not be there`);
    const others = seen.use - seen.chains.size;
    if (others > 0) this.find("extra-rule", "", `it holds ${others} chains or sets that are not ours`);
    for (const { chain } of chains) {
      const each = seen.chains.get(chain);
      if (each === undefined || !isComplete) continue;
      const hidden = each.use - each.rules.length - countJumps(seen, chain);
      if (hidden === 0) continue;
      this.find(
        "extra-rule",
        chain,
        `${hidden} rules more stand in ${chain} or lead into it than are listed`,
      );
    }
  }

  /** Our chains as they are, of each family as they are told; base chains hold nothing but the jumps that are counted here. */
  states(): ChainState[] {
    const seen = this.#seen;
    if (seen === undefined) return [];
    return this.#layout.chains.flatMap(({ told, chain, base }) => {
      const each = seen.chains.get(chain);
      if (each === undefined) return [];
      const rules = this.#rules.get(chain) ?? each.rules.map(unwanted);
      // a base chain is told of nothing but its jump
      const inBase = base === undefined ? [] : (this.#rules.get(base.chain) ?? []);
      const jumps = inBase.filter(({ known }) => known !== undefined);
      const jumped = sumOf(jumps.map(({ count }) => count));
      // what leads into a chain without a base is among the rules of the others
      const isStray = ({ name }: { readonly name: string }) => base !== undefined && name !== base.chain;
      const strays = [...seen.chains.values()]
        .filter(isStray)
        .flatMap(({ name, rules }) => rules.filter(({ targets }) => targets.includes(chain)).map(() => name));
      const place = { table: this.#layout.told, chain: told, standsIn: this.#layout.table };
      return this.#families.map((family) => {
        const states = statesOf(rules.flatMap((rule) => toldAs(rule, family)));
        return { ...place, family, ...states, jumpCount: jumps.length, jumped, strays };
      });
    });
  }

  #compareRules({ chain, hook, rules }: NativeChain, found: readonly string[]): void {
    const wanted = rules.map(({ words }) => words);
    const lost = partition(rules, found, ({ words }) => words).rest;
    const extra = partition(found, wanted, String).rest;
    for (const { words, family } of lost) {
      if (hook === undefined) this.find("missing-rule", chain, words, family);
      else this.find("missing-jump", chain, `${chain} lacks ${words}`);
    }
    for (const words of extra) {
      const isJump = hook !== undefined && wanted.includes(words);
      this.find(isJump ? "duplicate-jump" : "extra-rule", chain, words);
    }
    if (lost.length > 0 || extra.length > 0) return;
    const wrong = wanted.findIndex((words, index) => found[index] !== words);
    if (wrong < 0) return;
    this.find("reordered", chain, `rule ${wrong + 1} should not be ${found[wrong]}`, rules[wrong]?.family);
  }
}

function unwanted({ count }: NftRuleObject): MatchedRule<NativeRule> {
  return { words: "(a rule that should not be there)", known: undefined, form: "other", count };
}

/** In the words in which it was told for a family; what nobody told of is there in each. */
function toldAs(rule: MatchedRule<NativeRule>, family: Family): Omit<MatchedRule, "known">[] {
  const told = rule.known?.told;
  if (told === undefined) return [rule];
  return told.filter((each) => each.family === family).map(({ words }) => ({ ...rule, words }));
}

function countJumps({ chains }: SeenTable, chain: string): number {
  let count = 0;
  for (const { rules } of chains.values())
    for (const { targets } of rules) count += targets.filter((target) => target === chain).length;
  return count;
}
