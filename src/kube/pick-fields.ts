// SPDX-License-Identifier: Apache-2.0
// Reads a few fields out of the JSON of an object: what is not asked for costs a look at its bytes and becomes no value. A pod
// may have 300,000 variables, and a server that is none may send brackets in brackets. Pure.
import { bounds } from "../bounds/bounds.ts";

/** Which fields of an object: all of a field's value, the beginning of a text, some fields or items in turn, or the first fields. */
export interface Fields {
  readonly [name: string]: Wanted;
}

type Wanted = true | Fields | FirstFields | NamedItems | TextStart;

/** So many fields of an object, and as many more of those that matter: 70,000 names cost JSON.parse 100 ms. */
export class FirstFields {
  readonly count: number;
  readonly matters: (name: string) => boolean;

  constructor(count: number, matters: (name: string) => boolean) {
    this.count = count;
    this.matters = matters;
  }
}

/**
 * Of the first objects of a list, the last of each of these names, with some of its fields: 300,000 variables of other names become no
 * value.
 */
export class NamedItems {
  readonly names: readonly string[];
  readonly fields: Fields;

  constructor(names: readonly string[], fields: Fields) {
    this.names = names;
    this.fields = fields;
  }
}

/** A text, or so much of a longer one that it has at least so many bytes: the rest becomes no text that has to be freed. */
export class TextStart {
  readonly bytes: number;

  constructor(bytes: number) {
    this.bytes = bytes;
  }
}

const [quote, backslash, comma, colon] = [0x22, 0x5c, 0x2c, 0x3a];
const [openArray, closeArray, openObject, closeObject] = [0x5b, 0x5d, 0x7b, 0x7d];

/**
 * As JSON.parse, but for fields that are not asked for, of which only the brackets are looked at. A value over its bound is
 * left out. Names of fields are taken as they are written, without escapes.
 * @throws SyntaxError for what is no JSON, as far as that is seen
 */
export function pickFields(bytes: Buffer, fields: Fields): unknown {
  const start = skipSpace(bytes, 0);
  const { value, end } = readValue(bytes, start, fields);
  if (skipSpace(bytes, end) < bytes.length) throw new SyntaxError(`more than one value, at byte ${end}`);
  return value;
}

interface Read {
  readonly value: unknown;
  readonly end: number;
}

function readValue(bytes: Buffer, start: number, wanted: Wanted): Read {
  const isShort = wanted instanceof TextStart;
  if (wanted instanceof NamedItems) {
    if (bytes[start] === openArray) return readItems(bytes, start, wanted);
    return { value: undefined, end: endOfValue(bytes, start) };
  }
  if (wanted !== true && !isShort && bytes[start] === openObject) return readObject(bytes, start, wanted);
  const end = endOfValue(bytes, start);
  if (isShort && bytes[start] === quote) {
    const cut = endOfStart(bytes, { start: start + 1, end: end - 1, bytes: wanted.bytes });
    return { value: JSON.parse(`"${bytes.toString("utf8", start + 1, cut)}"`) as unknown, end };
  }
  const isOver = end - start > bounds.field.bytes;
  return { value: isOver ? undefined : (JSON.parse(bytes.toString("utf8", start, end)) as unknown), end };
}

/** Where a text may be cut so that what stands before has enough bytes: an escape has six for one, and is not cut in two. */
function endOfStart(
  bytes: Buffer,
  { start, end, bytes: wanted }: { readonly start: number; readonly end: number; readonly bytes: number },
): number {
  const last = start + 6 * wanted;
  if (end <= last) return end;
  let at = start;
  while (at < last) {
    if (bytes[at] !== backslash) at++;
    else at += bytes[at + 1] === 0x75 ? 6 : 2;
  }
  while (((bytes[at] ?? 0) & 0xc0) === 0x80) at++;
  return Math.min(at, end);
}

/** Says what is wanted of a field. */
type Choice = (name: string) => Wanted | undefined;

function choiceOf(fields: Fields | FirstFields): Choice {
  if (!(fields instanceof FirstFields))
    return (name) => (Object.hasOwn(fields, name) ? fields[name] : undefined);
  const taken = { those: 0, others: 0 };
  return (name) => (++taken[fields.matters(name) ? "those" : "others"] > fields.count ? undefined : true);
}

const nameField = Buffer.from('"name"');

function readItems(bytes: Buffer, start: number, { names, fields }: NamedItems): Read {
  const last = new Map<string, unknown>();
  const texts = names.map((name) => ({ name, text: Buffer.from(JSON.stringify(name)) }));
  const is = (text: Buffer, from: number, end: number) =>
    end - from === text.length && bytes.compare(text, 0, text.length, from, end) === 0;
  let named: string | undefined;
  const look: TakeField = (field, value) => {
    const end = endOfValue(bytes, value);
    if (is(nameField, field.start, field.end)) named = texts.find(({ text }) => is(text, value, end))?.name;
    return end;
  };
  let at = skipSpace(bytes, start + 1);
  if (bytes[at] === closeArray) return { value: [], end: at + 1 };
  for (let count = 1; ; count++) {
    named = undefined;
    const isLookedAt = bytes[at] === openObject && count <= bounds.namedItems.count;
    const end = isLookedAt ? eachField(bytes, at, look) : endOfValue(bytes, at);
    if (named !== undefined) {
      last.delete(named);
      last.set(named, readValue(bytes, at, fields).value);
    }
    at = skipSpace(bytes, end);
    if (bytes[at] === closeArray) return { value: [...last.values()], end: at + 1 };
    if (bytes[at] !== comma) throw unexpected(bytes, at);
    at = skipSpace(bytes, at + 1);
  }
}

/** Makes of a value what it wants. @param field its name, with the quotes @returns where the value ends */
type TakeField = (field: { readonly start: number; readonly end: number }, value: number) => number;

/** Walks over an object. @returns where it ends */
function eachField(bytes: Buffer, start: number, take: TakeField): number {
  let at = skipSpace(bytes, start + 1);
  if (bytes[at] === closeObject) return at + 1;
  for (;;) {
    if (bytes[at] !== quote) throw unexpected(bytes, at);
    const field = { start: at, end: endOfText(bytes, at) };
    at = skipSpace(bytes, field.end);
    if (bytes[at] !== colon) throw unexpected(bytes, at);
    at = skipSpace(bytes, take(field, skipSpace(bytes, at + 1)));
    if (bytes[at] === closeObject) return at + 1;
    if (bytes[at] !== comma) throw unexpected(bytes, at);
    at = skipSpace(bytes, at + 1);
  }
}

function readObject(bytes: Buffer, start: number, fields: Fields | FirstFields): Read {
  const value: Record<string, unknown> = {};
  const choose = choiceOf(fields);
  const end = eachField(bytes, start, (field, at) => {
    const name = bytes.toString("utf8", field.start + 1, field.end - 1);
    const wanted = choose(name);
    if (wanted === undefined) return endOfValue(bytes, at);
    const read = readValue(bytes, at, wanted);
    // an own field, whatever its name
    Object.defineProperty(value, name, {
      value: read.value,
      enumerable: true,
      configurable: true,
      writable: true,
    });
    return read.end;
  });
  return { value, end };
}

/** Where the value that begins here ends; iterative, for it may be as deep as it is long. */
function endOfValue(bytes: Buffer, start: number): number {
  if (bytes[start] === quote) return endOfText(bytes, start);
  let depth = 0;
  for (let at = start; at < bytes.length; at++) {
    switch (bytes[at]) {
      case quote:
        at = endOfText(bytes, at) - 1;
        break;
      case openArray:
      case openObject:
        depth++;
        break;
      case closeArray:
      case closeObject:
        if (depth === 0 && at > start) return at;
        if (--depth === 0) return at + 1;
        if (depth < 0) throw unexpected(bytes, at);
        break;
      case comma:
        if (depth > 0) break;
        if (at === start) throw unexpected(bytes, at);
        return at;
    }
  }
  if (depth > 0 || start === bytes.length) throw unexpected(bytes, bytes.length);
  return bytes.length;
}

/**
 * By a search for quotes rather than a look at each byte: while a new agent's code is not compiled yet that is a tenth of the work.
 * @param start of the quote that opens it
 */
function endOfText(bytes: Buffer, start: number): number {
  for (let from = start + 1; ; ) {
    const at = bytes.indexOf(quote, from);
    if (at < 0) throw unexpected(bytes, bytes.length);
    let escapes = at;
    while (escapes > from && bytes[escapes - 1] === backslash) escapes--;
    if ((at - escapes) % 2 === 0) return at + 1;
    from = at + 1;
  }
}

function skipSpace(bytes: Buffer, from: number): number {
  let at = from;
  while (bytes[at] === 0x20 || bytes[at] === 0x0a || bytes[at] === 0x0d || bytes[at] === 0x09) at++;
  return at;
}

function unexpected(bytes: Buffer, at: number): SyntaxError {
  const byte = bytes[at];
  return new SyntaxError(
    byte === undefined ? "it ends in the middle" : `byte ${byte} is unexpected at ${at}`,
  );
}
