// SPDX-License-Identifier: Apache-2.0
// Which of the rules told one that was read is, in words that say nothing of the namespace it was read in. Pure.
import { NOTHING_COUNTED, type RuleCount, type RuleForm } from "./rule-engine.ts";

/** What may stand in a chain: rules as they are told, and in the same places those that count as them. */
export interface ToldForms<Known> {
  readonly known: readonly Known[];
  readonly accepted: readonly Known[];
}

/** A rule that was read, as people are told of it. */
export interface MatchedRule<Known = unknown> {
  readonly words: string;
  /** Undefined for a rule that is not told. */
  readonly known: Known | undefined;
  readonly form: RuleForm;
  readonly count: RuleCount;
}

/**
 * The rule told for the place, in one form or the other, before the same in another place.
 * @param seen.bytes how many bytes a rule that is not told has
 */
export function matchRule<Known extends { readonly words: string }>(
  { index, bytes, count }: { readonly index: number; readonly bytes: number; readonly count: RuleCount },
  { known, accepted }: ToldForms<Known>,
  isIt: (each: Known) => boolean,
): MatchedRule<Known> {
  const formAt = (at: number): RuleForm => {
    const [told, other] = [known[at], accepted[at]];
    if (told !== undefined && isIt(told)) return "told";
    return told !== undefined && other !== undefined && isIt(other) ? "accepted" : "other";
  };
  const here = formAt(index);
  const at = here === "other" ? known.findIndex((_, each) => formAt(each) !== "other") : index;
  const told = known[at];
  if (told === undefined)
    return { words: `(a rule of ${bytes} bytes that is not ours)`, known: undefined, form: "other", count };
  return { words: told.words, known: told, form: here === "other" ? formAt(at) : here, count };
}

/** As a chain's state tells its rules. */
export function statesOf(rules: readonly Omit<MatchedRule, "known">[]) {
  return {
    words: rules.map(({ words }) => words),
    counts: rules.map(({ count }) => count),
    forms: rules.map(({ form }) => form),
  };
}

export function sumOf(counts: readonly RuleCount[]): RuleCount {
  return counts.reduce(
    (sum, { packets, bytes }) => ({ packets: sum.packets + packets, bytes: sum.bytes + bytes }),
    NOTHING_COUNTED,
  );
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
