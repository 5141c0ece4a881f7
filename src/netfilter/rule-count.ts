// SPDX-License-Identifier: Apache-2.0
// How many rules others keep in one variant of iptables.

/** How much there is, by two measures. */
export interface RuleCount {
  /** Rules of others; undefined: there are too many to be looked at one by one. */
  readonly rules: number | undefined;
  /** Rules and what chains take beside them, an ambient agent's own among them: what the kernel counts. */
  readonly entries: number;
}

/** Nothing. */
export const noRules: RuleCount = { rules: 0, entries: 0 };

/** Two places together. */
export function addCounts(a: RuleCount, b: RuleCount): RuleCount {
  const rules = a.rules === undefined || b.rules === undefined ? undefined : a.rules + b.rules;
  return { rules, entries: a.entries + b.entries };
}

/** Whether the first is more, by the finer measure that is known of both. */
export function isMore(a: RuleCount, b: RuleCount): boolean {
  if (a.rules !== undefined && b.rules !== undefined) return a.rules > b.rules;
  return a.entries > b.entries;
}

/** Whether others have any rules. */
export function isAny({ rules, entries }: RuleCount): boolean {
  return (rules ?? entries) > 0;
}

/** For people: "12", "about 160001". */
export function describeCount({ rules, entries }: RuleCount): string {
  return rules === undefined ? `about ${entries}` : `${rules}`;
}

/** Rules that an ambient agent wrote say how it chose earlier, not what the host uses. */
export function isIstioChain(name: string): boolean {
  return name.startsWith("ISTIO_");
}
