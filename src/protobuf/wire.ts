// SPDX-License-Identifier: Apache-2.0
// Protobuf's wire format, as much of it as the messages of ztunnel and of the container runtime need. Pure, no I/O.
// Source: protobuf.dev "Encoding".

const lengthDelimited = 2;

/** One field of a message. */
export interface Field {
  readonly number: number;
  /** A varint's value, or the bytes of a length-delimited field; fixed-width values are skipped. */
  readonly value: number | Uint8Array | undefined;
}

function varint(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  while (rest > 0x7f) {
    bytes.push((rest & 0x7f) | 0x80);
    rest = Math.floor(rest / 128);
  }
  bytes.push(rest);
  return bytes;
}

/** A field that holds a message, or bytes; one that is empty is written too. */
export function bytesField(field: number, body: Uint8Array): Uint8Array {
  const head = [...varint((field << 3) | lengthDelimited), ...varint(body.length)];
  const bytes = new Uint8Array(head.length + body.length);
  bytes.set(head);
  bytes.set(body, head.length);
  return bytes;
}

/** proto3: an empty string is the default and is left out. */
export function textField(field: number, value: string): Uint8Array {
  return value === "" ? new Uint8Array() : bytesField(field, new TextEncoder().encode(value));
}

/** proto3: 0 is the default and is left out. @param value an integer from 0 to 2^53 */
export function numberField(field: number, value: number): Uint8Array {
  return value === 0 ? new Uint8Array() : Uint8Array.from([...varint(field << 3), ...varint(value)]);
}

/** Walks the fields of one protobuf message. @throws RangeError when the bytes are no protobuf */
export function* fieldsOf(bytes: Uint8Array): Generator<Field> {
  let at = 0;
  const readVarint = (): number => {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = bytes[at++];
      if (byte === undefined) throw new RangeError("a varint is cut off");
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    throw new RangeError("a varint is longer than 10 bytes");
  };
  const take = (length: number): Uint8Array => {
    if (length > bytes.length - at) throw new RangeError("a field is cut off");
    at += length;
    return bytes.subarray(at - length, at);
  };
  while (at < bytes.length) {
    const tag = readVarint();
    const number = Math.floor(tag / 8);
    if (number === 0) throw new RangeError("a field has number 0");
    const wire = tag % 8;
    if (wire === 0) yield { number, value: readVarint() };
    else if (wire === 1) yield { number, value: void take(8) };
    else if (wire === lengthDelimited) yield { number, value: take(readVarint()) };
    else if (wire === 5) yield { number, value: void take(4) };
    else throw new RangeError(`a field has the unknown wire type ${wire}`);
  }
}
