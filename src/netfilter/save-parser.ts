// SPDX-License-Identifier: Apache-2.0
// Reads what iptables-save prints, of either variant and any version, into tables, chains and rules.
import { type NormalRule, normaliseRule } from "./rule-tokens.ts";

/** One rule as the tool printed it. */
export interface SavedRule extends NormalRule {
  readonly chain: string;
  /** The printed words that follow `-A CHAIN`, unquoted: what `-D CHAIN` takes. */
  readonly words: readonly string[];
}

/** One table: its chains with their policies (`-` for chains that users made) and its rules in order. */
export interface SavedTable {
  readonly chains: ReadonlyMap<string, string>;
  readonly rules: readonly SavedRule[];
}

/** A whole dump of one family. */
export interface SavedRuleset {
  readonly tables: ReadonlyMap<string, SavedTable>;
  /** Tables that exist but that iptables-nft cannot show, because `nft` wrote something into them. */
  readonly unreadable: readonly string[];
}

/** Thrown for text that is not the output of iptables-save. */
export class SaveParseError extends Error {
  override readonly name = "SaveParseError";
  readonly code = "UNREADABLE_RULES";
  /** Number of the line, from 1. */
  readonly line: number;

  constructor(line: number, text: string, { why }: { why: string }) {
    super(`Cannot read line ${line} of iptables-save "${text}": ${why}`);
    this.line = line;
  }
}

interface OpenTable {
  readonly name: string;
  readonly chains: Map<string, string>;
  readonly rules: SavedRule[];
}

/**
 * Parses the output of iptables-save or ip6tables-save.
 * @throws {SaveParseError} for a line that is none of its statements, and for text that ends inside a table.
 * Source: iptables-save(8); iptables/iptables iptables/xtables-save.c (the remark on incompatible tables).
 */
export function parseSave(text: string): SavedRuleset {
  const tables = new Map<string, SavedTable>();
  const unreadable: string[] = [];
  let open: OpenTable | undefined;
  const lines = text.split("\n");
  for (const [index, raw] of lines.entries()) {
    const line = raw.trim();
    const number = index + 1;
    if (line === "") continue;
    if (line.startsWith("#")) {
      const name = /^# Table [`'"](.+?)['"`] is incompatible/.exec(line)?.[1];
      if (name !== undefined) unreadable.push(name);
    } else if (line.startsWith("*")) {
      if (open !== undefined)
        throw new SaveParseError(number, line, { why: `table ${open.name} is not finished` });
      open = openTable(line.slice(1).trim(), tables);
    } else if (open === undefined) {
      throw new SaveParseError(number, line, { why: "it belongs to no table" });
    } else if (line === "COMMIT") {
      tables.set(open.name, open);
      open = undefined;
    } else {
      parseStatement(line, { number, table: open });
    }
  }
  if (open !== undefined) {
    throw new SaveParseError(lines.length, lines.at(-1) ?? "", {
      why: `the text ends inside table ${open.name}`,
    });
  }
  return { tables, unreadable };
}

/**
 * Splits a line into words as iptables does: blanks separate, double quotes join, a backslash inside quotes escapes.
 * @returns undefined when a quote is not closed.
 */
export function splitWords(line: string): string[] | undefined {
  const words: string[] = [];
  const pattern = /\s*(?:"((?:[^"\\]|\\.)*)"|([^\s"]+))(?=\s|$)/y;
  let end = 0;
  for (const match of line.matchAll(new RegExp(pattern, "gy"))) {
    words.push(match[1] === undefined ? (match[2] ?? "") : match[1].replaceAll(/\\(.)/g, "$1"));
    end = match.index + match[0].length;
  }
  return line.slice(end).trim() === "" ? words : undefined;
}

function openTable(name: string, tables: ReadonlyMap<string, SavedTable>): OpenTable {
  const before = tables.get(name);
  return { name, chains: new Map(before?.chains), rules: [...(before?.rules ?? [])] };
}

function parseStatement(line: string, { number, table }: { number: number; table: OpenTable }): void {
  const words = splitWords(line);
  if (words === undefined) throw new SaveParseError(number, line, { why: "a quote is not closed" });
  const [first = "", second = "", ...rest] = words;
  if (first.startsWith(":")) {
    if (first === ":" || second === "")
      throw new SaveParseError(number, line, { why: "a chain needs a name and a policy" });
    table.chains.set(first.slice(1), second);
  } else if (/^\[\d+:\d+\]$/.test(first) && isAppend(second)) {
    addRule(table, { chain: rest[0], words: rest.slice(1), line, number });
  } else if (isAppend(first)) {
    addRule(table, { chain: second === "" ? undefined : second, words: rest, line, number });
  } else if (first === "-N" && second !== "") {
    table.chains.set(second, "-");
  } else if (first === "-P" && rest[0] !== undefined) {
    table.chains.set(second, rest[0]);
  } else {
    throw new SaveParseError(number, line, { why: "it is no statement of iptables-save" });
  }
}

function addRule(
  table: OpenTable,
  {
    chain,
    words,
    line,
    number,
  }: { chain: string | undefined; words: string[]; line: string; number: number },
): void {
  if (chain === undefined) throw new SaveParseError(number, line, { why: "the rule names no chain" });
  table.rules.push({ chain, words, ...normaliseRule(words) });
}

function isAppend(word: string): boolean {
  return word === "-A" || word === "--append";
}
