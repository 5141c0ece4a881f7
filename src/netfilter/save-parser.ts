// SPDX-License-Identifier: Apache-2.0
// Reads what iptables-save prints in a namespace of our own, of either variant, into tables, chains and rules.
import { normaliseRule } from "./rule-tokens.ts";

/** One table: the names of its chains, and its rules in order. */
export interface SavedTable {
  readonly chains: ReadonlySet<string>;
  readonly rules: readonly {
    readonly chain: string;
    /** In the normal form of {@link normaliseRule}. */
    readonly tokens: readonly string[];
  }[];
}

/**
 * Parses the output of iptables-save or ip6tables-save, by names of tables. One that iptables-nft cannot show is not there.
 * @throws {SyntaxError} for a line that is none of its statements, and for text that ends inside a table
 * Source: iptables-save(8).
 */
export function parseSave(text: string): Map<string, SavedTable> {
  const tables = new Map<string, SavedTable>();
  let open: { readonly chains: Set<string>; readonly rules: SavedTable["rules"][number][] } | undefined;
  for (const [index, raw] of text.split("\n").entries()) {
    const line = raw.trim();
    const [word = "", chain = "", ...words] = splitWords(line) ?? [];
    if (line === "" || line.startsWith("#")) continue;
    if (open === undefined && line.startsWith("*")) {
      open = { chains: new Set(), rules: [] };
      tables.set(line.slice(1), open);
    } else if (open !== undefined && line === "COMMIT") open = undefined;
    else if (open !== undefined && /^:./.test(word) && chain !== "") open.chains.add(word.slice(1));
    else if (open !== undefined && word === "-A" && chain !== "")
      open.rules.push({ chain, tokens: normaliseRule(words) });
    else
      throw new SyntaxError(
        `Cannot read line ${index + 1} of iptables-save "${line}": it does not belong there`,
      );
  }
  if (open !== undefined) throw new SyntaxError("Cannot read iptables-save: the text ends inside a table");
  return tables;
}

/**
 * Splits a line into words as iptables does: blanks separate, double quotes join, a backslash inside quotes escapes.
 * @returns undefined when a quote is not closed.
 */
export function splitWords(line: string): string[] | undefined {
  const words: string[] = [];
  let end = 0;
  for (const match of line.matchAll(/\s*(?:"((?:[^"\\]|\\.)*)"|([^\s"]+))(?=\s|$)/gy)) {
    words.push(match[1] === undefined ? (match[2] ?? "") : match[1].replaceAll(/\\(.)/g, "$1"));
    end = match.index + match[0].length;
  }
  return line.slice(end).trim() === "" ? words : undefined;
}
