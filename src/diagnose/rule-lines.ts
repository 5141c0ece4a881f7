// SPDX-License-Identifier: Apache-2.0
// A pod's rules as lines for people, in the words of `ambient-cni rules`; of rules of others a note, never their text. Pure.
import type { Family } from "../netfilter/family.ts";
import type { ChainState } from "../netfilter/rule-engine.ts";
import { CHAIN_HOOKS, CHAIN_NAMES, TABLE_NAMES, type TableName } from "../redirection/rules.ts";

/** Tables that are named even where nothing of ours is in them. */
const CLASSIC_TABLES: readonly TableName[] = ["mangle", "nat"];

/** For each table how many rules of ours it has, jumps included, and for IPv4 the rules themselves. */
export function ruleLines(chains: readonly ChainState[], families: readonly Family[]): string[] {
  return families.flatMap((family) =>
    TABLE_NAMES.flatMap((table) => {
      const here = chains.filter((each) => each.family === family && each.table === table);
      const rules = CHAIN_NAMES.flatMap((chain) => {
        const from = CHAIN_HOOKS[chain];
        return here
          .filter((each) => each.chain === chain)
          .flatMap(({ words, jumpCount }) => [
            ...Array<string>(jumpCount).fill(`-A ${from} -j ${chain}`),
            ...words.map((rule) => `-A ${chain} ${rule}`),
          ]);
      });
      if (rules.length === 0 && !CLASSIC_TABLES.includes(table)) return [];
      const standsIn = here.find((each) => each.standsIn !== undefined)?.standsIn;
      const where = `IPv${family} ${table}${standsIn === undefined ? "" : ` (${standsIn})`}`;
      const count = rules.length === 0 ? "no rule of ours" : `${rules.length} rules`;
      return [`${where}: ${count}`, ...(family === 4 ? rules.map((rule) => `  ${rule}`) : [])];
    }),
  );
}
