// SPDX-License-Identifier: Apache-2.0
// ZDS as the stand-in reads and writes it: a strict decoder of its own, so that the agent's codec is checked by
// something that shares no code with it.
// Source: istio/istio pkg/zdsapi/zds.proto; istio/ztunnel src/inpod/protocol.rs.

/** What an Add says about its pod. */
export interface StandInWorkloadInfo {
  readonly name: string;
  readonly namespace: string;
  readonly serviceAccount: string;
}

/** One WorkloadRequest. `info` of an Add is undefined when the field is absent, which ztunnel does not survive. */
export type ZdsMessage =
  | { readonly kind: "add"; readonly uid: string; readonly info: StandInWorkloadInfo | undefined }
  | { readonly kind: "keep"; readonly uid: string }
  | { readonly kind: "del"; readonly uid: string }
  | { readonly kind: "snapshot-sent" };

/** The bytes are not the one message they should be. */
export class DecodeError extends Error {
  override readonly name = "DecodeError";
}

const hello = Uint8Array.of(0x08, 0x01);
const ack = Uint8Array.of(0x0a, 0x00);
const utf8 = new TextDecoder("utf-8", { fatal: true });
const maxFieldNumber = 2 ** 29 - 1;

/** `ZdsHello{version: V1}`. */
export function helloBytes(): Uint8Array {
  return hello;
}

/** `WorkloadResponse{ack{error}}`; without a text it is the plain ack. */
export function responseBytes(error?: string): Uint8Array {
  if (error === undefined || error === "") return ack;
  const text = Buffer.from(error);
  const field = Buffer.concat([Uint8Array.of(0x0a), lengthPrefix(text.length), text]);
  return Buffer.concat([Uint8Array.of(0x0a), lengthPrefix(field.length), field]);
}

function lengthPrefix(length: number): Uint8Array {
  const bytes: number[] = [];
  let rest = length;
  for (; rest > 0x7f; rest >>>= 7) bytes.push((rest & 0x7f) | 0x80);
  bytes.push(rest);
  return Uint8Array.from(bytes);
}

/**
 * Decodes one WorkloadRequest.
 * Stricter than protobuf asks: unknown fields, fields given twice and varints longer than needed are errors too,
 * as no correct agent has a reason to send them.
 * @throws DecodeError
 */
export function decodeRequest(bytes: Uint8Array): ZdsMessage {
  const fields = readFields(bytes, { what: "WorkloadRequest", known: [1, 2, 3, 5] });
  if (fields.size === 0) throw new DecodeError("no payload");
  if (fields.size > 1) throw new DecodeError("more than one payload");
  const [[number, body]] = [...fields] as [[number, Uint8Array]];
  if (number === 1) return decodeAdd(body);
  if (number === 5) return { kind: "keep", uid: stringField(body, { what: "KeepWorkload", number: 1 }) };
  if (number === 2) return { kind: "del", uid: stringField(body, { what: "DelWorkload", number: 2 }) };
  readFields(body, { what: "SnapshotSent", known: [] });
  return { kind: "snapshot-sent" };
}

function decodeAdd(body: Uint8Array): ZdsMessage {
  const fields = readFields(body, { what: "AddWorkload", known: [1, 2] });
  const info = fields.get(2);
  return { kind: "add", uid: text(fields.get(1)), info: info === undefined ? undefined : decodeInfo(info) };
}

function decodeInfo(body: Uint8Array): StandInWorkloadInfo {
  const fields = readFields(body, { what: "WorkloadInfo", known: [1, 2, 3] });
  return { name: text(fields.get(1)), namespace: text(fields.get(2)), serviceAccount: text(fields.get(3)) };
}

function stringField(body: Uint8Array, { what, number }: { what: string; number: number }): string {
  return text(readFields(body, { what, known: [number] }).get(number));
}

function text(bytes: Uint8Array | undefined): string {
  if (bytes === undefined) return "";
  try {
    return utf8.decode(bytes);
  } catch {
    throw new DecodeError("a string is not UTF-8");
  }
}

/** Reads a message all of whose fields are length-delimited, as everything the agent sends is. */
function readFields(
  bytes: Uint8Array,
  { what, known }: { what: string; known: readonly number[] },
): Map<number, Uint8Array> {
  const fields = new Map<number, Uint8Array>();
  let at = 0;
  while (at < bytes.length) {
    const tag = readVarint(bytes, at);
    const number = Math.floor(tag.value / 8);
    if (number < 1 || number > maxFieldNumber)
      throw new DecodeError(`${what}: field number ${number} is out of range`);
    if (!known.includes(number)) throw new DecodeError(`${what}: unknown field ${number}`);
    if (tag.value % 8 !== 2) throw new DecodeError(`${what}: field ${number} has wire type ${tag.value % 8}`);
    if (fields.has(number)) throw new DecodeError(`${what}: field ${number} is given twice`);
    const length = readVarint(bytes, tag.end);
    at = length.end + length.value;
    if (at > bytes.length) throw new DecodeError(`${what}: field ${number} is cut off`);
    fields.set(number, bytes.subarray(length.end, at));
  }
  return fields;
}

function readVarint(bytes: Uint8Array, start: number): { value: number; end: number } {
  let value = 0;
  for (let at = start; at < start + 5; at++) {
    const byte = bytes[at];
    if (byte === undefined) throw new DecodeError("a varint is cut off");
    value += (byte & 0x7f) * 2 ** (7 * (at - start));
    if (byte > 0x7f) continue;
    if (byte === 0 && at > start) throw new DecodeError("a varint is longer than needed");
    return { value, end: at + 1 };
  }
  throw new DecodeError("a varint is longer than 5 bytes");
}
