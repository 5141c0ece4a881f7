// SPDX-License-Identifier: Apache-2.0
// How chains differ from what they should be, in words; the same for every way in which they are read. Pure.
import type { Finding } from "./rule-engine.ts";

/** Family and table. */
export type TablePlace = Pick<Finding, "family" | "table">;

/** Of one chain of ours that should be there. */
export interface ComparedRules {
  readonly chain: string;
  readonly isThere: boolean;
  /** Each in words that are equal for equal rules. */
  readonly wanted: readonly string[];
  readonly found: readonly string[];
}

/** Nothing for a chain that holds exactly the rules that it should. */
export function ruleFindings({ chain, isThere, wanted, found }: ComparedRules, table: TablePlace): Finding[] {
  const place = { ...table, chain };
  if (!isThere) return [{ kind: "missing-chain", ...place, detail: `chain ${chain} is not there` }];
  const lost = partition(wanted, found, String);
  const surplus = partition(found, wanted, String);
  const line = (rule: string | undefined) => `-A ${chain} ${rule}`;
  const wrong = lost.common.findIndex((rule, index) => surplus.common[index] !== rule);
  const reordered = `rule ${wrong + 1} should not be ${line(surplus.common[wrong])}`;
  return [
    ...lost.rest.map((rule): Finding => ({ kind: "missing-rule", ...place, detail: line(rule) })),
    ...surplus.rest.map((rule): Finding => ({ kind: "extra-rule", ...place, detail: line(rule) })),
    ...(wrong < 0 ? [] : [{ kind: "reordered", ...place, detail: reordered } as const]),
  ];
}

/** Rules of a base chain that lead into a chain of ours as one should. */
export interface ComparedJumps {
  readonly chain: string;
  readonly hook: string;
  readonly count: number;
  /** How many rules stand before the first of them, where it should be the first of all. */
  readonly before?: number | undefined;
}

export function jumpFindings(
  { chain, hook, count, before = 0 }: ComparedJumps,
  table: TablePlace,
): Finding[] {
  const place = { ...table, chain: hook };
  if (count === 0) return [{ kind: "missing-jump", ...place, detail: `${hook} does not jump to ${chain}` }];
  const findings: Finding[] = [];
  if (before > 0)
    findings.push({
      kind: "jump-not-first",
      ...place,
      detail: `${before} rules of others stand before the jump to ${chain}`,
    });
  if (count > 1)
    findings.push({ kind: "duplicate-jump", ...place, detail: `${hook} jumps to ${chain} ${count} times` });
  return findings;
}

/** Rules that lead into a chain of ours in another way, by the chain they stand in. */
export function strayFindings(
  { chain, strays }: { chain: string; strays: readonly string[] },
  table: TablePlace,
): Finding[] {
  return [...new Set(strays)].map((from) => {
    const count = strays.filter((each) => each === from).length;
    const rules = count === 1 ? "a rule that is" : `${count} rules that are`;
    const detail = `-A ${from} leads into ${chain} by ${rules} not ours`;
    return { kind: "extra-rule", ...table, chain: from, detail };
  });
}

/** Of chains of ours where none should be. */
export function unexpectedFindings(present: readonly string[], place: TablePlace): Finding[] {
  if (present.length === 0) return [];
  const detail = `${present.join(" and ")} should not be in table ${place.table}`;
  return [{ kind: "unexpected-table", ...place, chain: "", detail }];
}

/** The elements of a list whose words another list has too, and the rest, counting repetitions. */
export function partition<T>(
  list: readonly T[],
  other: readonly string[],
  wordsOf: (element: T) => string,
): { common: T[]; rest: T[] } {
  const left = new Map<string, number>();
  for (const words of other) left.set(words, (left.get(words) ?? 0) + 1);
  const common: T[] = [];
  const rest: T[] = [];
  for (const element of list) {
    const words = wordsOf(element);
    const count = left.get(words) ?? 0;
    left.set(words, count - 1);
    (count > 0 ? common : rest).push(element);
  }
  return { common, rest };
}
