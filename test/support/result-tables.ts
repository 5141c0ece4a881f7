// SPDX-License-Identifier: Apache-2.0
// Results of a run as tables, and as a part of a page that holds the parts of several.
import { readFile, writeFile } from "node:fs/promises";

/** A row of a table. */
export type Cells = readonly string[];

/** For a terminal: the columns of a table, two spaces in and two between them. */
export function columns(rows: readonly Cells[]): string[] {
  return padded(rows).map((cells) => `  ${cells.join("  ")}`.trimEnd());
}

/** For a page, as the project's formatter has them; the first row is the head. */
export function markdownTable(rows: readonly Cells[]): string[] {
  const [head = [], ...rest] = padded(rows);
  const rule = head.map((cell) => "-".repeat(cell.length));
  return [head, rule, ...rest].map((cells) => `| ${cells.join(" | ")} |`);
}

/** All cells of a column as wide as its widest. */
function padded(rows: readonly Cells[]): Cells[] {
  const widths = (rows[0] ?? []).map((_, index) => Math.max(...rows.map((row) => (row[index] ?? "").length)));
  return rows.map((row) => row.map((cell, index) => cell.padEnd(widths[index] ?? 0)));
}

/**
 * Puts a part between its marks on a page; at the end, with marks, where the page has none.
 *
 * @throws Error when the page has the first mark and not the second: what is between them cannot be known then
 */
export function withPart(page: string, name: string, part: string): string {
  const [begin, end] = [`<!-- ${name}: begin -->`, `<!-- ${name}: end -->`];
  const written = `${begin}\n\n${part}\n\n${end}`;
  const from = page.indexOf(begin);
  if (from === -1) return page === "" ? `${written}\n` : `${page.trimEnd()}\n\n${written}\n`;
  const to = page.indexOf(end, from);
  if (to === -1) throw new Error(`Cannot put "${name}" on the page: it has "${begin}" and no "${end}"`);
  return `${page.slice(0, from)}${written}${page.slice(to + end.length)}`;
}

/** Puts a part on a page of Markdown, as {@link withPart} does; the page need not be there. */
export async function writePart(path: string, name: string, part: string): Promise<void> {
  const before = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return "";
    throw error;
  });
  await writeFile(path, withPart(before, name, part));
}
