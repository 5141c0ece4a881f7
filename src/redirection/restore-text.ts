// SPDX-License-Identifier: Apache-2.0
// Writes rules as the input of iptables-restore.
import type { Family } from "../netfilter/family.ts";
import {
  CHAIN_HOOKS,
  CHAIN_NAMES,
  type RedirectOptions,
  type RedirectRule,
  redirectRules,
  redirectTables,
} from "./rules.ts";

/**
 * The input of `iptables-restore --noflush` that redirects a pod without rules of ours; chains of others stay as they are.
 * @throws {RedirectOptionsError} as redirectRules does.
 */
export function renderRestoreText(options: RedirectOptions, family: Family): string {
  const rules = redirectRules(options, family);
  return redirectTables(options)
    .map((table) => renderTable(table, tableLines(rules.filter((rule) => rule.table === table))))
    .join("");
}

/** One table's part of a restore text. */
export function renderTable(table: string, lines: readonly string[]): string {
  return `*${table}\n${lines.map((line) => `${line}\n`).join("")}COMMIT\n`;
}

/** The statement that appends a rule to its chain. */
export function renderRule(rule: Pick<RedirectRule, "chain" | "args">): string {
  return `-A ${rule.chain} ${rule.args.join(" ")}`;
}

/** The statement that makes a chain, or empties it when it is there. */
export function renderChain(chain: string): string {
  return `:${chain} - [0:0]`;
}

function tableLines(rules: readonly RedirectRule[]): string[] {
  return [
    ...CHAIN_NAMES.map(renderChain),
    ...CHAIN_NAMES.map((chain) => `-A ${CHAIN_HOOKS[chain]} -j ${chain}`),
    ...CHAIN_NAMES.flatMap((chain) => rules.filter((rule) => rule.chain === chain).map(renderRule)),
  ];
}
