// SPDX-License-Identifier: Apache-2.0
// Our share of what iptables-save prints, and how two of them differ: what the kernel is judged by, apart from the engine.
import type { Family } from "../../src/netfilter/family.ts";
import { normaliseRule } from "../../src/netfilter/rule-tokens.ts";
import type { SavedTable } from "../../src/netfilter/save-parser.ts";
import type { Drift } from "../../src/redirection/fingerprint.ts";
import {
  CHAIN_HOOKS,
  CHAIN_NAMES,
  type ChainName,
  type RedirectOptions,
  redirectRules,
  redirectTables,
  TABLE_NAMES,
  type TableName,
} from "../../src/redirection/rules.ts";

/** Our share of one table. */
export interface TableState {
  /** Rules of each of our chains that exists, in normal form and in order. */
  readonly chains: ReadonlyMap<ChainName, readonly string[]>;
  /** How many plain jumps lead from the built-in chain to each of our chains. */
  readonly jumps: ReadonlyMap<ChainName, number>;
  /** Rules outside our chains that lead into them in any other way, as `CHAIN words…`. */
  readonly strays: readonly string[];
}

/** Our share of all tables; a table without anything of ours is left out. */
export type RedirectState = ReadonlyMap<TableName, TableState>;

/** The state that the options call for. @throws {RedirectOptionsError} as redirectRules does. */
export function desiredState(options: RedirectOptions, family: Family): RedirectState {
  const rules = redirectRules(options, family);
  return new Map(
    redirectTables(options).map((table) => {
      const texts = (chain: ChainName) =>
        rules
          .filter((rule) => rule.table === table && rule.chain === chain)
          .map((rule) => normaliseRule(rule.args).join(" "));
      return [
        table,
        {
          chains: new Map(CHAIN_NAMES.map((chain) => [chain, texts(chain)])),
          jumps: new Map(CHAIN_NAMES.map((chain) => [chain, 1])),
          strays: [],
        },
      ];
    }),
  );
}

/** Our share of a parsed dump; rules of others are not looked at. */
export function observedState(tables: ReadonlyMap<string, SavedTable>): RedirectState {
  const state = new Map<TableName, TableState>();
  for (const name of TABLE_NAMES) {
    const table = tables.get(name);
    if (table === undefined) continue;
    const ours = tableState(table);
    if (ours.chains.size > 0) state.set(name, ours);
  }
  return state;
}

/** Every difference between two states of one family, in the order of tables and chains; empty when they are equal. */
export function compareStates(observed: RedirectState, desired: RedirectState, family: Family): Drift[] {
  return TABLE_NAMES.flatMap((table) =>
    compareTable(observed.get(table), desired.get(table), { family, table }),
  );
}

function tableState(table: SavedTable): TableState {
  const present = CHAIN_NAMES.filter((chain) => table.chains.has(chain));
  const chains = new Map<ChainName, string[]>(present.map((chain) => [chain, []]));
  const jumps = new Map<ChainName, number>();
  const strays: string[] = [];
  for (const rule of table.rules) {
    const own = chains.get(rule.chain as ChainName);
    const target = present.find((chain) => chain === targetOf(rule.tokens));
    if (own !== undefined) {
      own.push(rule.tokens.join(" "));
    } else if (target !== undefined) {
      const isJump = rule.chain === CHAIN_HOOKS[target] && rule.tokens.join(" ") === `-j ${target}`;
      if (isJump) jumps.set(target, (jumps.get(target) ?? 0) + 1);
      else strays.push(joinWords([rule.chain, ...rule.tokens]));
    }
  }
  return { chains, jumps, strays };
}

/** Where a rule in normal form jumps or goes to. */
export function targetOf(tokens: readonly string[]): string | undefined {
  return tokens[tokens.findLastIndex((token) => token === "-j" || token === "-g") + 1];
}

interface Place {
  readonly family: Family;
  readonly table: TableName;
}

function compareTable(
  observed: TableState | undefined,
  desired: TableState | undefined,
  place: Place,
): Drift[] {
  if (desired === undefined) {
    if (observed === undefined) return [];
    const chains = [...observed.chains.keys()].join(" and ");
    return [
      {
        kind: "unexpected-table",
        ...place,
        chain: "",
        detail: `${chains} should not be in table ${place.table}`,
      },
    ];
  }
  const strays = (observed?.strays ?? []).map((stray): Drift => {
    const [chain = ""] = stray.split(" ", 1);
    return { kind: "extra-rule", ...place, chain, detail: `-A ${stray}` };
  });
  const chains = [...desired.chains].flatMap(([chain, rules]) => [
    ...compareChain(observed?.chains.get(chain), rules, { ...place, chain }),
    ...compareJumps(observed?.jumps.get(chain) ?? 0, { ...place, chain }),
  ]);
  return [...chains, ...strays];
}

function compareJumps(count: number, { chain, ...place }: Place & { chain: ChainName }): Drift[] {
  const hook = CHAIN_HOOKS[chain];
  if (count === 1) return [];
  if (count === 0)
    return [{ kind: "missing-jump", ...place, chain: hook, detail: `${hook} does not jump to ${chain}` }];
  return [
    { kind: "duplicate-jump", ...place, chain: hook, detail: `${hook} jumps to ${chain} ${count} times` },
  ];
}

function compareChain(
  observed: readonly string[] | undefined,
  desired: readonly string[],
  place: Place & { chain: ChainName },
): Drift[] {
  if (observed === undefined) {
    return [{ kind: "missing-chain", ...place, detail: `chain ${place.chain} is not there` }];
  }
  const wanted = partition(desired, observed);
  const found = partition(observed, desired);
  const drift: Drift[] = [
    ...wanted.rest.map(
      (rule): Drift => ({ kind: "missing-rule", ...place, detail: `-A ${place.chain} ${rule}` }),
    ),
    ...found.rest.map(
      (rule): Drift => ({ kind: "extra-rule", ...place, detail: `-A ${place.chain} ${rule}` }),
    ),
  ];
  const wrong = wanted.common.findIndex((rule, index) => found.common[index] !== rule);
  if (wrong >= 0) {
    const detail = `rule ${wrong + 1} should not be -A ${place.chain} ${found.common[wrong]}`;
    drift.push({ kind: "reordered", ...place, detail });
  }
  return drift;
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

/** Joins words into a line that `splitWords` and iptables-restore read back as the same words. */
export function joinWords(words: readonly string[]): string {
  return words
    .map((word) => (/^[^\s"'\\]+$/.test(word) ? word : `"${word.replaceAll(/["'\\]/g, "\\$&")}"`))
    .join(" ");
}
