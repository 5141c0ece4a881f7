// SPDX-License-Identifier: Apache-2.0
// Writes our chain entry in the style of the file it goes into: its indentation, line ends, or none at all.
import type { ConfText } from "./conf-text.ts";
import { objectMembers, type Span } from "./json-spans.ts";

/** White space of an object in a file; each field is what stands at that place. */
interface ObjectStyle {
  readonly open: string;
  readonly colon: string;
  readonly comma: string;
  readonly close: string;
}

/** Renders an object like the `model` object of the same file. The result is ASCII. */
export function renderLike(text: ConfText, model: Span, value: object): string {
  const style = styleOf(text, model);
  const inner = style.colon === "" ? "" : " ";
  const members = Object.entries(value).map(([key, item]) => {
    const shown = Array.isArray(item)
      ? `[${item.map((element) => asciiJson(element)).join(`,${inner}`)}]`
      : asciiJson(item);
    return `${asciiJson(key)}:${style.colon}${shown}`;
  });
  return `{${style.open}${members.join(`,${style.comma}`)}${style.close}}`;
}

/** White space between the element at `model` and what comes before it, for use in front of one more element. */
export function separatorLike(text: ConfText, model: Span): string {
  let start = model.start;
  while (start > 0 && " \t\r\n".includes(text[start - 1] ?? "")) start--;
  const space = text.slice(start, model.start);
  const isFirst = text[start - 1] === "[";
  // `[{` on one line, with members on lines of their own: the next element follows as `}, {`
  return space === "" && isFirst && /[\r\n]/.test(text.slice(model.start, model.end)) ? " " : space;
}

function styleOf(text: ConfText, model: Span): ObjectStyle {
  const members = text[model.start] === "{" ? objectMembers(text, model.start) : [];
  const first = members[0];
  const last = members.at(-1);
  if (first === undefined || last === undefined) return { open: "", colon: "", comma: "", close: "" };
  const open = text.slice(model.start + 1, first.keyStart);
  const close = text.slice(last.end, model.end - 1);
  const colon = /[ \t]$/.test(text.slice(0, first.start)) ? " " : "";
  const second = members[1];
  const between = second === undefined ? undefined : afterComma(text.slice(first.end, second.keyStart));
  return { open, colon, comma: between ?? (/[\r\n]/.test(open) ? open : colon), close };
}

function afterComma(between: string): string {
  return between.slice(between.indexOf(",") + 1);
}

/** JSON without any character outside ASCII, so that it is the same in every encoding of the file. */
function asciiJson(value: unknown): string {
  return JSON.stringify(value).replaceAll(
    /[\u007f-\uffff]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
