// SPDX-License-Identifier: Apache-2.0
// The bytes of ZDS: requests the agent may send, answers ztunnel may give. Pure, no I/O.
// Source: istio/istio pkg/zdsapi/zds.proto; istio/ztunnel src/inpod/protocol.rs.
import { cutText } from "../bounds/bounded.ts";
import { bounds } from "../bounds/bounds.ts";
import { bytesField, fieldsOf, textField } from "../protobuf/wire.ts";
import type { WorkloadInfo } from "./workload.ts";

/** ztunnel reads into a buffer of this many bytes. Source: istio/ztunnel src/inpod/protocol.rs. */
export const maxRequestBytes = 1024;

const utf8 = new TextDecoder("utf-8", { fatal: true });

/** What ztunnel said about one request; `error` is the beginning of its text when it refused. */
export type ZdsAnswer = { readonly ok: true } | { readonly ok: false; readonly error: string };

function request(field: number, body: Uint8Array): Uint8Array {
  const bytes = bytesField(field, body);
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
    textField(1, workload.name),
    textField(2, workload.namespace),
    textField(3, workload.serviceAccount),
  ]);
  return request(1, Buffer.concat([textField(1, named(uid)), bytesField(2, info)]));
}

/** Keep: the pod stays as ztunnel has it; only valid before SnapshotSent. */
export function encodeKeep(uid: string): Uint8Array {
  return request(5, textField(1, named(uid)));
}

/** Del: forget a pod. Its uid is field 2 of the message. */
export function encodeDel(uid: string): Uint8Array {
  return request(2, textField(2, named(uid)));
}

/** SnapshotSent: everything has been named; exactly once a connection. */
export function encodeSnapshotSent(): Uint8Array {
  return request(3, new Uint8Array());
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
