// SPDX-License-Identifier: Apache-2.0
// Writes told rules as the input of iptables-restore.
import type { Family } from "./family.ts";
import type { ChainState } from "./rule-engine.ts";
import {
  type HookedChain,
  isHooked,
  rulesOf,
  type ToldRule,
  type ToldRules,
  wantedTables,
} from "./told-rules.ts";

/** The input of `iptables-restore --noflush` for one family, where nothing of ours is yet; chains of others stay as they are. */
export function renderRestoreText(told: ToldRules, family: Family): string {
  return renderRewriteText(told, family, []);
}

/**
 * As {@link renderRestoreText}, where something of ours may be: each table becomes right in one step, at no moment without its rules.
 * @param present those of our chains that are there
 */
export function renderRewriteText(told: ToldRules, family: Family, present: readonly ChainState[]): string {
  return wantedTables(told)
    .filter((own) => own.family === family)
    .map(({ table, chains }) =>
      renderTable(table, [
        ...chains.map(({ chain }) => renderChain(chain)),
        ...chains.filter(isHooked).flatMap(({ chain, hook }) => {
          const isIt = (each: ChainState) =>
            each.family === family && each.table === table && each.chain === chain;
          return Array<string>(present.find(isIt)?.jumpCount ?? 0).fill(`-D ${hook} -j ${chain}`);
        }),
        ...chains.filter(isHooked).map(renderJump),
        ...chains.flatMap(({ chain }) => rulesOf(told, { family, table, chain }).map(renderRule)),
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
