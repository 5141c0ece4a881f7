// SPDX-License-Identifier: Apache-2.0
// Text for people: columns, colours, ages. Forty lines of our own: a table library brings box drawing and wrapping that
// grep and awk do not like, and the widest of them are larger than this whole command line.
import { styleText } from "node:util";

/** A cell: text, or text with a colour. */
export type Cell = string | { readonly text: string; readonly style: Style };

/** What colours are used for. */
export type Style = "good" | "bad" | "doubt" | "faint" | "strong";

const FORMATS = { good: "green", bad: "red", doubt: "yellow", faint: "gray", strong: "bold" } as const;

/** Two blanks between columns. */
const GAP = "  ";

/** Puts a colour on a text if colours are wanted. */
export function paint(text: string, style: Style, colours: boolean): string {
  return colours ? styleText(FORMATS[style], text, { validateStream: false }) : text;
}

/**
 * Left-aligned columns, a line for each row, nothing behind the last cell.
 * @param options.columns width of the terminal: the last column is cut to fit, never the others
 */
export function renderTable(
  rows: readonly (readonly Cell[])[],
  options: { readonly colours: boolean; readonly columns?: number | undefined },
): string {
  const widths: number[] = [];
  for (const row of rows) {
    for (const [index, cell] of row.entries())
      widths[index] = Math.max(widths[index] ?? 0, textOf(cell).length);
  }
  return rows.map((row) => `${renderRow(row, widths, options)}\n`).join("");
}

function renderRow(
  row: readonly Cell[],
  widths: readonly number[],
  { colours, columns }: { colours: boolean; columns?: number | undefined },
): string {
  let used = 0;
  return row
    .map((cell, index) => {
      const isLast = index === row.length - 1;
      const room = isLast && columns !== undefined ? Math.max(10, columns - used) : undefined;
      const text = shortened(textOf(cell), room);
      const padding = isLast ? "" : " ".repeat((widths[index] ?? 0) - text.length) + GAP;
      used += text.length + padding.length;
      return (typeof cell === "string" ? text : paint(text, cell.style, colours)) + padding;
    })
    .join("")
    .trimEnd();
}

function textOf(cell: Cell): string {
  return printable(typeof cell === "string" ? cell : cell.text);
}

function shortened(text: string, room: number | undefined): string {
  return room === undefined || text.length <= room ? text : `${text.slice(0, room - 1)}…`;
}

/** Messages hold words of pods and of peers: no control character of them reaches a terminal. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
  return text.replace(/[\u0000-\u001f\u007f-\u009f]+/g, " ");
}

/** `5s`, `3m`, `2h`, `4d`: the largest unit that is not zero. */
export function renderAge(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 120 * 60) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
}
