// SPDX-License-Identifier: Apache-2.0
// Writes told rules as the input of iptables-restore.
import type { Family } from "./family.ts";
import type { ChainState } from "./rule-engine.ts";
import { type HookedChain, isHooked, type ToldRule, type ToldRules } from "./told-rules.ts";

/** The input of `iptables-restore --noflush` for one family, where nothing of ours is yet; chains of others stay as they are. */
export function renderRestoreText(told: ToldRules, family: Family): string {
  return renderRewriteText(told, family, []);
}

/**
 * As {@link renderRestoreText}, where something of ours may be: each table becomes right in one step, at no moment without its rules.
 * @param present those of our chains that are there
 */
export function renderRewriteText(told: ToldRules, family: Family, present: readonly ChainState[]): string {
  const isOf = (each: { family: Family; table: string }, table: string) =>
    each.family === family && each.table === table;
  return told.own
    .filter((own) => own.family === family && told.wanted.some((wanted) => isOf(wanted, own.table)))
    .map(({ table, chains }) =>
      renderTable(table, [
        ...chains.map(({ chain }) => renderChain(chain)),
        ...chains.filter(isHooked).flatMap(({ chain, hook }) => {
          const seen = present.find((each) => isOf(each, table) && each.chain === chain);
          return Array.from({ length: seen?.jumpCount ?? 0 }, () => `-D ${hook} -j ${chain}`);
        }),
        ...chains.filter(isHooked).map(renderJump),
        ...chains.flatMap(({ chain }) =>
          told.rules.filter((rule) => isOf(rule, table) && rule.chain === chain).map(renderRule),
        ),
      ]),
    )
    .join("");
}

/** One table's part of a restore text. */
export function renderTable(table: string, lines: readonly string[]): string {
  return `*${table}\n${lines.map((line) => `${line}\n`).join("")}COMMIT\n`;
}

/** The statement that appends a rule to its chain. */
export function renderRule({ chain, args }: Pick<ToldRule, "chain" | "args">): string {
  return `-A ${chain} ${args.join(" ")}`;
}

/** The statement that makes a chain, or empties it when it is there. */
export function renderChain(chain: string): string {
  return `:${chain} - [0:0]`;
}

/** The statement that leads a base chain into a chain of ours. */
export function renderJump({ chain, hook, isFirst = false }: HookedChain): string {
  return isFirst ? `-I ${hook} 1 -j ${chain}` : `-A ${hook} -j ${chain}`;
}
