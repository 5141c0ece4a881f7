// SPDX-License-Identifier: Apache-2.0
// Cuts one top-level value out of JSON text, so that it can be passed on byte for byte.

/**
 * Finds the text of a top-level member of a JSON object; with duplicates the last one, as JSON.parse takes it.
 * @param json text that JSON.parse accepts
 */
export function topLevelValue(json: string, key: string): string | undefined {
  let found: string | undefined;
  let at = skipSpace(json, 0) + 1;
  for (;;) {
    at = skipSpace(json, at);
    if (json[at] !== '"') return found;
    const keyEnd = endOfString(json, at);
    const name: unknown = JSON.parse(json.slice(at, keyEnd));
    const start = skipSpace(json, skipSpace(json, keyEnd) + 1);
    const end = endOfValue(json, start);
    if (name === key) found = json.slice(start, end);
    at = skipSpace(json, end) + 1;
  }
}

function skipSpace(json: string, from: number): number {
  let at = from;
  while (at < json.length && " \t\r\n".includes(json[at] ?? "")) at++;
  return at;
}

function endOfString(json: string, from: number): number {
  let at = from + 1;
  while (at < json.length && json[at] !== '"') at += json[at] === "\\" ? 2 : 1;
  return at + 1;
}

function endOfValue(json: string, from: number): number {
  const first = json[from];
  if (first === '"') return endOfString(json, from);
  let at = from;
  if (first !== "{" && first !== "[") {
    while (at < json.length && !",}] \t\r\n".includes(json[at] ?? "")) at++;
    return at;
  }
  let depth = 0;
  while (at < json.length) {
    const character = json[at] ?? "";
    if (character === '"') {
      at = endOfString(json, at);
      continue;
    }
    if ("{[".includes(character)) depth++;
    else if ("}]".includes(character)) depth--;
    at++;
    if (depth === 0) break;
  }
  return at;
}
