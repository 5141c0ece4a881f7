// SPDX-License-Identifier: Apache-2.0
// ttrpc's frames and the envelopes in them, as far as unary calls need them. Pure, no I/O.
// Source: containerd/ttrpc PROTOCOL.md, request.proto; google/rpc/status.proto.
import { cutText } from "../bounds/bounded.ts";
import { bounds } from "../bounds/bounds.ts";
import { bytesField, fieldsOf, numberField, textField } from "../protobuf/wire.ts";
import { FrameReader } from "./frames.ts";

const headBytes = 10;
const requestType = 1;
const responseType = 2;

/** What stands before each message. */
export interface TtrpcHead {
  readonly stream: number;
  readonly type: "request" | "response";
}

/** A call that somebody makes. */
export interface TtrpcRequest {
  readonly service: string;
  readonly method: string;
  readonly payload: Uint8Array;
}

/** An answer: what was asked for, or a status with a sentence. */
export type TtrpcResponse =
  | { readonly ok: true; readonly payload: Uint8Array }
  | { readonly ok: false; readonly code: number; readonly message: string };

/** Codes of a status. Source: google/rpc/code.proto. */
export const statusCodes = { unknown: 2, unimplemented: 12 } as const;

/** Reads what comes over one connection. */
export function ttrpcReader(): FrameReader<TtrpcHead> {
  return new FrameReader({
    what: "a ttrpc message",
    headBytes,
    maxBodyBytes: bounds.nriMessage.bytes,
    readHead,
  });
}

function readHead(head: Buffer): TtrpcHead & { readonly bodyBytes: number } {
  const [bodyBytes, stream, type, flags] = [
    head.readUInt32BE(0),
    head.readUInt32BE(4),
    head.readUInt8(8),
    head.readUInt8(9),
  ];
  if (type !== requestType && type !== responseType)
    throw new RangeError(`a ttrpc message has the type ${type}, which no unary call has`);
  // NRI has no streams
  if (type === requestType && flags !== 0)
    throw new RangeError(`a ttrpc request has the flags ${flags}, which no unary call has`);
  // Source: PROTOCOL.md: whoever asks has the odd numbers
  if (stream % 2 === 0) throw new RangeError(`a ttrpc message is of stream ${stream}, which nobody begins`);
  return { stream, type: type === requestType ? "request" : "response", bodyBytes };
}

function message(type: number, stream: number, body: Uint8Array): Buffer {
  if (body.length > bounds.nriMessage.bytes)
    throw new RangeError(
      `Cannot encode a ttrpc message of ${body.length} bytes: it may have ${bounds.nriMessage.bytes}`,
    );
  const bytes = Buffer.alloc(headBytes + body.length);
  bytes.writeUInt32BE(body.length, 0);
  bytes.writeUInt32BE(stream, 4);
  bytes.writeUInt8(type, 8);
  bytes.set(body, headBytes);
  return bytes;
}

/** A call, as bytes. @param stream odd, and higher than any before it */
export function encodeRequest(
  stream: number,
  { service, method, payload, timeoutMs }: TtrpcRequest & { readonly timeoutMs: number },
): Buffer {
  const body = [textField(1, service), textField(2, method), bytesField(3, payload)];
  return message(requestType, stream, Buffer.concat([...body, numberField(4, timeoutMs * 1e6)]));
}

/** An answer, as bytes. */
export function encodeResponse(stream: number, response: TtrpcResponse): Buffer {
  if (response.ok) return message(responseType, stream, bytesField(2, response.payload));
  const { code, message: text } = response;
  const status = Buffer.concat([numberField(1, code), textField(2, cutText(text, bounds.nriRefusal))]);
  return message(responseType, stream, bytesField(1, status));
}

/** Reads a call. @throws RangeError when it is none */
export function decodeRequest(body: Uint8Array): TtrpcRequest {
  let [service, method, payload] = ["", "", new Uint8Array() as Uint8Array];
  for (const { number, value } of fieldsOf(body)) {
    if (!(value instanceof Uint8Array)) continue;
    if (number === 1) service = nameIn(value);
    else if (number === 2) method = nameIn(value);
    else if (number === 3) payload = value;
  }
  return { service, method, payload };
}

/** Reads an answer. @throws RangeError when it is none */
export function decodeResponse(body: Uint8Array): TtrpcResponse {
  let payload: Uint8Array = new Uint8Array();
  let status: { readonly code: number; readonly message: string } = { code: 0, message: "" };
  for (const { number, value } of fieldsOf(body)) {
    if (!(value instanceof Uint8Array)) continue;
    if (number === 1) status = decodeStatus(value);
    else if (number === 2) payload = value;
  }
  return status.code === 0 ? { ok: true, payload } : { ok: false, ...status };
}

function decodeStatus(body: Uint8Array): { readonly code: number; readonly message: string } {
  let [code, text] = [0, ""];
  for (const { number, value } of fieldsOf(body)) {
    if (number === 1 && typeof value === "number") code = value;
    if (number === 2 && value instanceof Uint8Array) text = Buffer.from(value).toString();
  }
  return { code, message: cutText(text, bounds.nriRefusal) };
}

/** @throws RangeError for what is longer than any name of a service or a method */
function nameIn(value: Uint8Array): string {
  if (value.length > bounds.nriMethod.bytes)
    throw new RangeError(
      `a name in a ttrpc request has ${value.length} bytes, and may have ${bounds.nriMethod.bytes}`,
    );
  return Buffer.from(value).toString();
}
