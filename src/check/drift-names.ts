// SPDX-License-Identifier: Apache-2.0
// What the differences in a pod's namespace amount to, by name. Pure.

import type { Family } from "../netfilter/family.ts";
import { type Drift, desiredChains } from "../redirection/fingerprint.ts";
import type { RedirectOptions } from "../redirection/rules.ts";
import type { FaultKind } from "./fault.ts";

/** Differences of one kind in one pod, in words. */
export interface NamedDrift {
  readonly kind: FaultKind;
  readonly what: string;
}

const NAMES: Readonly<Record<Drift["kind"], FaultKind>> = {
  "missing-chain": "missing-chain",
  "missing-rule": "missing-rule",
  "extra-rule": "extra-rule",
  reordered: "reordered-rules",
  "missing-jump": "missing-jump",
  "duplicate-jump": "duplicate-jump",
  // only the host's jump has to be first
  "jump-not-first": "missing-jump",
  "unexpected-table": "unexpected-table",
  "missing-ip-rule": "missing-ip-rule",
  "missing-route": "missing-route",
};
const MAX_DETAILS = 4;

/** Whether nothing at all is there of what should be, in the families that were looked at. */
export function isBlank(
  drift: readonly Drift[],
  options: RedirectOptions,
  families: readonly Family[],
): boolean {
  const missing = new Set(
    drift
      .filter(({ kind }) => kind === "missing-chain")
      .map(({ family, table, chain }) => `${family} ${table} ${chain}`),
  );
  return families.every((family) =>
    desiredChains(options, family).every(({ table, chain }) => missing.has(`${family} ${table} ${chain}`)),
  );
}

/** One entry for each kind; rules of somebody else's chain are one fault and no list of rules. */
export function nameDrift(drift: readonly Drift[], options: RedirectOptions): NamedDrift[] {
  const foreign = foreignChains(drift, options);
  const rest = drift.filter(
    (each) => !(isRuleDrift(each) && foreign.some((chain) => chain.key === keyOf(each))),
  );
  const named = new Map<FaultKind, string[]>();
  const add = (kind: FaultKind, detail: string): void => {
    const details = named.get(kind) ?? [];
    details.push(detail);
    named.set(kind, details);
  };
  for (const { family, table, chain, rules } of foreign) {
    add("foreign-chain", `IPv${family} ${table} ${chain} holds none of our rules, but ${rules.join(", ")}`);
  }
  for (const { kind, family, table, detail } of rest) add(NAMES[kind], `IPv${family} ${table}: ${detail}`);
  return [...named].map(([kind, details]) => ({ kind, what: listed(details) }));
}

interface ForeignChain {
  readonly key: string;
  readonly family: Family;
  readonly table: string;
  readonly chain: string;
  readonly rules: readonly string[];
}

/** Chains of our name that hold rules, and none of ours. */
function foreignChains(drift: readonly Drift[], options: RedirectOptions): ForeignChain[] {
  const found: ForeignChain[] = [];
  for (const family of [4, 6] as const) {
    for (const { table, chain, words } of desiredChains(options, family)) {
      const here = drift.filter((each) => isAt(each, { family, table, chain }));
      const extra = here.filter(({ kind }) => kind === "extra-rule").map(({ detail }) => detail);
      const missing = here.filter(({ kind }) => kind === "missing-rule").length;
      const isForeign = extra.length > 0 && missing === words.length;
      if (isForeign) found.push({ key: `${family} ${table} ${chain}`, family, table, chain, rules: extra });
    }
  }
  return found;
}

function isAt(
  drift: Drift,
  { family, table, chain }: { family: Family; table: string; chain: string },
): boolean {
  return drift.family === family && drift.table === table && drift.chain === chain;
}

function keyOf({ family, table, chain }: Drift): string {
  return `${family} ${table} ${chain}`;
}

function isRuleDrift({ kind }: Drift): boolean {
  return kind === "extra-rule" || kind === "missing-rule" || kind === "reordered";
}

function listed(details: readonly string[]): string {
  const rest = details.length - MAX_DETAILS;
  return details.slice(0, MAX_DETAILS).join("; ") + (rest > 0 ? ` and ${rest} more` : "");
}
