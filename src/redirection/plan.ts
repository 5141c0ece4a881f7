// SPDX-License-Identifier: Apache-2.0
// The smallest iptables-restore text that leads from what is there to what should be there.

import type { Family } from "../netfilter/family.ts";
import type { RedirectState, TableState } from "./fingerprint.ts";
import { desiredState } from "./fingerprint.ts";
import { renderChain, renderRule, renderTable } from "./restore-text.ts";
import {
  CHAIN_HOOKS,
  CHAIN_NAMES,
  type ChainName,
  type RedirectOptions,
  type RedirectRule,
  redirectRules,
  TABLE_NAMES,
} from "./rules.ts";

/** What a namespace should hold: the rules of these options in this family. */
export interface Wanted {
  readonly options: RedirectOptions;
  readonly family: Family;
}

/**
 * Input for `iptables-restore --noflush` that turns the observed state into the wanted one, one atomic step per table
 * that differs; undefined when nothing does. It names our chains and the jumps to them and nothing else.
 * @throws {RedirectOptionsError} as redirectRules does.
 */
export function planChange(observed: RedirectState, { options, family }: Wanted): string | undefined {
  const desired = desiredState(options, family);
  const rules = redirectRules(options, family);
  return renderTables((table) => {
    const before = observed.get(table);
    const after = desired.get(table);
    if (after === undefined) return before === undefined ? [] : removalLines(before);
    return changeLines(before, { after, rules: rules.filter((rule) => rule.table === table) });
  });
}

/** Input for `iptables-restore --noflush` that removes everything of ours; undefined when there is nothing. */
export function planRemoval(observed: RedirectState): string | undefined {
  return renderTables((table) => {
    const before = observed.get(table);
    return before === undefined ? [] : removalLines(before);
  });
}

/**
 * Input for `iptables-restore --noflush` that takes away what leads into our chains of table nat, and nothing else: new
 * connections are no longer redirected, while the rules that remain keep connection tracking, and with it the translation of open
 * connections, going. Undefined when nothing leads there.
 */
export function planOpening(observed: RedirectState): string | undefined {
  const nat = observed.get("nat");
  if (nat === undefined) return undefined;
  const lines = entryLines(nat);
  return lines.length === 0 ? undefined : renderTable("nat", lines);
}

function renderTables(linesOf: (table: (typeof TABLE_NAMES)[number]) => string[]): string | undefined {
  const text = TABLE_NAMES.map((table) => {
    const lines = linesOf(table);
    return lines.length === 0 ? "" : renderTable(table, lines);
  }).join("");
  return text === "" ? undefined : text;
}

function changeLines(
  before: TableState | undefined,
  { after, rules }: { after: TableState; rules: readonly RedirectRule[] },
): string[] {
  const stale = CHAIN_NAMES.filter((chain) => !sameRules(before?.chains.get(chain), after.chains.get(chain)));
  return [
    ...stale.map(renderChain),
    ...(before?.strays ?? []).map((stray) => `-D ${stray}`),
    ...CHAIN_NAMES.flatMap((chain) => jumpLines(chain, before?.jumps.get(chain) ?? 0)),
    ...stale.flatMap((chain) => rules.filter((rule) => rule.chain === chain).map(renderRule)),
  ];
}

function removalLines(observed: TableState): string[] {
  const chains = CHAIN_NAMES.filter((chain) => observed.chains.has(chain));
  return [
    ...entryLines(observed),
    ...chains.map((chain) => `-F ${chain}`),
    ...chains.map((chain) => `-X ${chain}`),
  ];
}

function entryLines({ strays, jumps }: TableState): string[] {
  return [
    ...strays.map((stray) => `-D ${stray}`),
    ...CHAIN_NAMES.flatMap((chain) => deleteJumps(chain, jumps.get(chain) ?? 0)),
  ];
}

function jumpLines(chain: ChainName, count: number): string[] {
  return count === 0 ? [`-A ${CHAIN_HOOKS[chain]} -j ${chain}`] : deleteJumps(chain, count - 1);
}

function deleteJumps(chain: ChainName, count: number): string[] {
  return Array<string>(count).fill(`-D ${CHAIN_HOOKS[chain]} -j ${chain}`);
}

function sameRules(observed: readonly string[] | undefined, desired: readonly string[] = []): boolean {
  return observed?.length === desired.length && desired.every((rule, index) => observed[index] === rule);
}
