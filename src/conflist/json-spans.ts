// SPDX-License-Identifier: Apache-2.0
// Where the parts of JSON text begin and end, so that text can be edited without touching any other byte.

/** A part of a text: `text.slice(start, end)`. */
export interface Span {
  readonly start: number;
  readonly end: number;
}

/** One `"key": value` of an object; the span is the value's. */
export interface Member extends Span {
  readonly key: string;
  /** Where the key's opening quote is. */
  readonly keyStart: number;
}

/** Position of the first character at or after `from` that is no JSON white space. */
export function skipSpace(text: string, from: number): number {
  let at = from;
  while (at < text.length && " \t\r\n".includes(text[at] ?? "")) at++;
  return at;
}

/** Members of the object that begins at `start`, in their order, duplicates included. @param text valid JSON */
export function objectMembers(text: string, start: number): Member[] {
  const members: Member[] = [];
  let at = start + 1;
  for (;;) {
    const keyStart = skipSpace(text, at);
    if (text[keyStart] !== '"') return members;
    const keyEnd = endOfString(text, keyStart);
    const key = String(JSON.parse(text.slice(keyStart, keyEnd)));
    const valueStart = skipSpace(text, skipSpace(text, keyEnd) + 1);
    const end = endOfValue(text, valueStart);
    members.push({ key, keyStart, start: valueStart, end });
    at = skipSpace(text, end) + 1;
  }
}

/** Elements of the array that begins at `start`. @param text valid JSON */
export function arrayElements(text: string, start: number): Span[] {
  const elements: Span[] = [];
  let at = skipSpace(text, start + 1);
  while (at < text.length && text[at] !== "]") {
    const end = endOfValue(text, at);
    elements.push({ start: at, end });
    const next = skipSpace(text, end);
    at = text[next] === "," ? skipSpace(text, next + 1) : next;
  }
  return elements;
}

/** A member of the object at `start`; with duplicates the last one, which is the one every JSON reader takes. */
export function findMember(text: string, start: number, key: string): Member | undefined {
  if (text[start] !== "{") return undefined;
  return objectMembers(text, start).findLast((member) => member.key === key);
}

/** Text of a member of the object that the JSON text holds, so that it can be passed on byte for byte. @param json valid JSON */
export function memberText(json: string, key: string): string | undefined {
  const member = findMember(json, skipSpace(json, 0), key);
  return member && json.slice(member.start, member.end);
}

function endOfString(text: string, from: number): number {
  let at = from + 1;
  while (at < text.length && text[at] !== '"') at += text[at] === "\\" ? 2 : 1;
  return at + 1;
}

function endOfValue(text: string, from: number): number {
  const first = text[from];
  if (first === '"') return endOfString(text, from);
  let at = from;
  if (first !== "{" && first !== "[") {
    while (at < text.length && !",}] \t\r\n".includes(text[at] ?? "")) at++;
    return at;
  }
  let depth = 0;
  do {
    const character = text[at] ?? "";
    if (character === '"') {
      at = endOfString(text, at);
      continue;
    }
    if (character === "{" || character === "[") depth++;
    else if (character === "}" || character === "]") depth--;
    at++;
  } while (depth > 0 && at < text.length);
  return at;
}
