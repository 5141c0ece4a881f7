// SPDX-License-Identifier: Apache-2.0
// Cuts a list of the API into its items while it arrives: a list as a whole may be larger than anybody wants to hold. Pure.
import { bounds } from "../bounds/bounds.ts";
import { badJson } from "./http-exchange.ts";
import { Scratch } from "./scratch.ts";

const [quote, backslash, comma] = [0x22, 0x5c, 0x2c];
const [openArray, closeArray, openObject, closeObject] = [0x5b, 0x5d, 0x7b, 0x7d];
/** The field that holds the items, as a list's JSON has it. */
const itemsField = '"items"';

/**
 * Finds the items of `{…, "items": […], …}` in pieces of its bytes. Whether it is JSON is told by parsing what comes out: each
 * item, and the rest of the list with an empty `items`.
 */
export class ListSplitter implements Disposable {
  #depth = 0;
  #isText = false;
  #isEscaped = false;
  /** Bytes of the text last seen beside `items`, as long as it may be that name. */
  #word = "";
  #isInItems = false;
  #count = 0;
  readonly #item = new Scratch(bounds.object.bytes);
  readonly #head: Buffer[] = [];
  #headBytes = 0;

  /** Items that end in this piece, in order; each is good until the next one is asked for. @throws Error with code BAD_RESPONSE for what cannot be a list's */
  *push(chunk: Buffer): Generator<Buffer, void, void> {
    let start = 0;
    for (let at = 0; at < chunk.length; at++) {
      const byte = chunk[at] as number;
      if (this.#isText) {
        if (this.#depth > 1) at = this.#skipText(chunk, at);
        else this.#takeText(byte);
        continue;
      }
      if (this.#isInItems && this.#depth === 2 && (byte === comma || byte === closeArray)) {
        this.#keepItem(chunk.subarray(start, at));
        start = byte === comma ? at + 1 : at;
        const item = this.#endItem(byte);
        if (item !== undefined) yield item;
        this.#item.clear();
      }
      if (this.#take(byte)) {
        this.#keepHead(chunk.subarray(start, at + 1));
        start = at + 1;
      }
    }
    const rest = chunk.subarray(start);
    if (this.#isInItems) this.#keepItem(rest);
    else this.#keepHead(rest);
  }

  /** The list without its items. @throws Error with code BAD_RESPONSE when it breaks off */
  end(): string {
    if (this.#depth !== 0 || this.#isText) throw badJson(new Error("it ends in the middle"));
    return Buffer.concat(this.#head).toString();
  }

  /** Gives its memory back. */
  [Symbol.dispose](): void {
    this.#item[Symbol.dispose]();
  }

  /** A text beside the items, byte by byte, for it may be their name. */
  #takeText(byte: number): void {
    if (this.#isEscaped) this.#isEscaped = false;
    else if (byte === backslash) this.#isEscaped = true;
    else if (byte === quote) this.#isText = false;
    if (this.#word.length < itemsField.length + 1) this.#word += String.fromCharCode(byte);
  }

  /** A text in an item, of which only its end matters. @returns its last byte in this piece */
  #skipText(chunk: Buffer, start: number): number {
    const found = chunk.indexOf(quote, start);
    const end = found < 0 ? chunk.length : found;
    let escapes = end;
    while (escapes > start && chunk[escapes - 1] === backslash) escapes--;
    const isOdd = (end - escapes) % 2 === 1;
    // what escapes the first byte of this stretch stands before it
    const isEscaped = escapes === start && this.#isEscaped ? !isOdd : isOdd;
    this.#isEscaped = found < 0 && isEscaped;
    this.#isText = found < 0 || isEscaped;
    return Math.min(end, chunk.length - 1);
  }

  /** @returns true where the items begin */
  #take(byte: number): boolean {
    switch (byte) {
      case quote:
        this.#isText = true;
        if (this.#depth === 1) this.#word = '"';
        return false;
      case openArray:
        this.#depth++;
        if (this.#depth !== 2 || this.#word !== itemsField) return false;
        this.#isInItems = true;
        this.#count = 0;
        return true;
      case openObject:
        this.#depth++;
        return false;
      case closeArray:
      case closeObject:
        this.#depth--;
        if (this.#depth === 1) this.#isInItems = false;
        return false;
      case comma:
        if (this.#depth === 1) this.#word = "";
        return false;
      default:
        return false;
    }
  }

  #endItem(end: number): Buffer | undefined {
    const item = this.#item.view();
    this.#count++;
    const isBlank = item.every((byte) => byte === 0x20 || (byte >= 0x09 && byte <= 0x0d));
    if (!isBlank) return item;
    if (end === closeArray && this.#count === 1) return undefined;
    throw badJson(new Error("an item is missing"));
  }

  #keepItem(bytes: Buffer): void {
    if (!this.#item.append(bytes))
      throw badJson(new Error(`an object is longer than ${bounds.object.bytes} bytes`));
  }

  #keepHead(bytes: Buffer): void {
    this.#headBytes += bytes.length;
    if (this.#headBytes > bounds.listHead.bytes)
      throw badJson(new Error(`a list is longer than ${bounds.listHead.bytes} bytes beside its items`));
    // a copy: the piece that it is part of is large, and may hold nothing else that is kept
    if (bytes.length > 0) this.#head.push(Buffer.from(bytes));
  }
}
