// SPDX-License-Identifier: Apache-2.0
// Log lines for people (`LOG_FORMAT=pretty`).
import type { LoggedLine } from "./log-ring.ts";

/** One line: time, level, scope, message, then the fields; a stack follows indented where there is one and it is an error. */
export function renderPrettyLine({ level, scope, fields, message }: LoggedLine, at: Date): string {
  const { err, ...rest } = fields as { readonly err?: unknown } & Record<string, unknown>;
  const shown = Object.entries(rest).filter(([, value]) => value !== undefined);
  const words = shown.map(([name, value]) => `${escaped(name)}=${renderValue(value)}`);
  if (err !== undefined)
    words.push(`err=${JSON.stringify(err instanceof Error ? err.message : String(err))}`);
  const head = `${at.toISOString().slice(11, 23)} ${level.toUpperCase().padEnd(5)} ${scope.padEnd(9)} ${escaped(message)}`;
  const stack =
    level === "error" && err instanceof Error && err.stack !== undefined
      ? `\n${err.stack
          .split("\n")
          .map((each) => `    ${escaped(each)}`)
          .join("\n")}`
      : "";
  return `${[head, ...words].join("  ")}${stack}\n`;
}

/** Bare where that cannot be misread. */
function renderValue(value: unknown): string {
  if (typeof value === "string") return /^[\w.:/@+-]+$/.test(value) ? value : JSON.stringify(value);
  return typeof value === "bigint" ? String(value) : (JSON.stringify(value) ?? String(value));
}

/** A message can hold a pod's own words: no control character of it reaches a terminal. */
function escaped(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, (character) => JSON.stringify(character).slice(1, -1));
}
