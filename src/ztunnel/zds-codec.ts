// SPDX-License-Identifier: Apache-2.0
// The bytes of ZDS: requests the agent may send, answers ztunnel may give. Pure, no I/O.
// Source: istio/istio pkg/zdsapi/zds.proto; istio/ztunnel src/inpod/protocol.rs.
import { cutText } from "../bounds/bounded.ts";
import { bounds } from "../bounds/bounds.ts";
import type { WorkloadInfo } from "./workload.ts";

/** ztunnel reads into a buffer of this many bytes. Source: istio/ztunnel src/inpod/protocol.rs. */
export const maxRequestBytes = 1024;

const lengthDelimited = 2;
const utf8 = new TextDecoder("utf-8", { fatal: true });

/** What ztunnel said about one request; `error` is the beginning of its text when it refused. */
export type ZdsAnswer = { readonly ok: true } | { readonly ok: false; readonly error: string };

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

function message(field: number, body: Uint8Array): Uint8Array {
  const head = [...varint((field << 3) | lengthDelimited), ...varint(body.length)];
  const bytes = new Uint8Array(head.length + body.length);
  bytes.set(head);
  bytes.set(body, head.length);
  return bytes;
}

/** proto3: an empty string is the default and is left out. */
function text(field: number, value: string): Uint8Array {
  return value === "" ? new Uint8Array() : message(field, new TextEncoder().encode(value));
}

function request(field: number, body: Uint8Array): Uint8Array {
  const bytes = message(field, body);
  if (bytes.length >= maxRequestBytes) {
    throw new RangeError(
      `Cannot encode a ZDS request of ${bytes.length} bytes: ztunnel reads at most ${maxRequestBytes}`,
    );
  }
  return bytes;
}

function named(uid: string): string {
  if (uid === "") throw new RangeError("Cannot encode a ZDS request: the pod's uid is empty");
  return uid;
}

/**
 * Add: hand over a pod; travels with exactly one namespace descriptor.
 * `workload_info` is always written, even when all its strings are empty: ztunnel exits without it.
 */
export function encodeAdd(uid: string, workload: WorkloadInfo): Uint8Array {
  const info = Buffer.concat([
    text(1, workload.name),
    text(2, workload.namespace),
    text(3, workload.serviceAccount),
  ]);
  return request(1, Buffer.concat([text(1, named(uid)), message(2, info)]));
}

/** Keep: the pod stays as ztunnel has it; only valid before SnapshotSent. */
export function encodeKeep(uid: string): Uint8Array {
  return request(5, text(1, named(uid)));
}

/** Del: forget a pod. Its uid is field 2 of the message. */
export function encodeDel(uid: string): Uint8Array {
  return request(2, text(2, named(uid)));
}

/** SnapshotSent: everything has been named; exactly once a connection. */
export function encodeSnapshotSent(): Uint8Array {
  return request(3, new Uint8Array());
}

interface Field {
  readonly number: number;
  /** A varint's value, or the bytes of a length-delimited field; fixed-width values are skipped. */
  readonly value: number | Uint8Array | undefined;
}

/** Walks the fields of one protobuf message. @throws RangeError when the bytes are no protobuf */
function* fieldsOf(bytes: Uint8Array): Generator<Field> {
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

/**
 * Reads ztunnel's first packet. @returns the protocol version it names, 0 when it names none
 * @throws RangeError when the packet is not a ZdsHello
 */
export function decodeHello(bytes: Uint8Array): number {
  let version = 0;
  for (const field of fieldsOf(bytes)) {
    if (field.number !== 1) continue;
    if (typeof field.value !== "number") throw new RangeError("the version of the hello is not a number");
    version = field.value;
  }
  return version;
}

/** Reads ztunnel's answer to one request. @throws RangeError when it is no WorkloadResponse with an ack */
export function decodeAnswer(bytes: Uint8Array): ZdsAnswer {
  let ack: Uint8Array | undefined;
  for (const field of fieldsOf(bytes)) {
    if (field.number !== 1) continue;
    if (!(field.value instanceof Uint8Array)) throw new RangeError("the ack is not a message");
    ack = field.value;
  }
  if (ack === undefined) throw new RangeError("the answer holds no ack");
  let error = "";
  for (const field of fieldsOf(ack)) {
    if (field.number !== 1) continue;
    if (!(field.value instanceof Uint8Array)) throw new RangeError("the error of the ack is not text");
    error = decodeText(field.value);
  }
  return error === "" ? { ok: true } : { ok: false, error };
}

/** Text for people alone: what can be shown of it, and not more than anybody reads. */
export function decodeText(bytes: Uint8Array): string {
  return cutText(readText(bytes), bounds.nack);
}

function readText(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes);
  } catch {
    // rather than dropping the connection
    return Buffer.from(bytes).toString("latin1");
  }
}
