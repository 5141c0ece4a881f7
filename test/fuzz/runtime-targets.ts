// SPDX-License-Identifier: Apache-2.0
// What the container runtime says over its NRI socket.
import assert from "node:assert/strict";
import { fits } from "../../src/bounds/bounded.ts";
import { bounds } from "../../src/bounds/bounds.ts";
import {
  decodeGreeting,
  decodeSandboxRequest,
  decodeStateChange,
  decodeSynchronization,
  type RuntimeSandbox,
} from "../../src/nri/messages.ts";
import { muxPiece, muxReader, pluginConnection } from "../../src/nri/mux.ts";
import {
  decodeRequest,
  decodeResponse,
  encodeRequest,
  encodeResponse,
  ttrpcReader,
} from "../../src/nri/ttrpc.ts";
import { greeting, sandbox, sandboxRequest, stateChange, synchronization } from "../nri/words.ts";
import { type FuzzTarget, parsed } from "./fuzz-target.ts";

const isRange = (error: unknown) => error instanceof RangeError;

/** Frames in frames, whole and byte by byte: both give the same, or both refuse. */
function runFrames(input: Uint8Array): void {
  const whole = parsed(() => framesIn([input]), isRange);
  const bytes = Array.from(input, (byte) => Uint8Array.of(byte));
  assert.deepEqual(
    parsed(() => framesIn(bytes), isRange),
    whole,
  );
}

function framesIn(pieces: readonly Uint8Array[]): string[] {
  const [trunk, inner] = [muxReader(), ttrpcReader()];
  const found: string[] = [];
  for (const piece of pieces)
    for (const { head, body } of trunk.push(piece))
      for (const { head: message, body: text } of inner.push(body)) {
        assert(text.length <= bounds.nriMessage.bytes);
        assert(message.stream % 2 === 1);
        found.push(`${head.connection} ${message.type} ${message.stream} ${text.toString("hex")}`);
      }
  return found;
}

function runEnvelopes(input: Uint8Array): void {
  const request = parsed(() => decodeRequest(input), isRange);
  if (request !== undefined) {
    // a byte that is no UTF-8 is three bytes in the text that stands for it
    assert(Buffer.byteLength(request.service) <= 3 * bounds.nriMethod.bytes);
    assert(request.payload.length <= input.length);
  }
  const response = parsed(() => decodeResponse(input), isRange);
  if (response !== undefined && !response.ok) assert(fits(response.message, bounds.nriRefusal));
}

function runMessages(input: Uint8Array): void {
  const { sandboxes = [] } = parsed(() => decodeSynchronization(input), isRange) ?? {};
  assert(sandboxes.length <= bounds.nriSandboxes.count);
  const change = parsed(() => decodeStateChange(input), isRange);
  const asked = parsed(() => decodeSandboxRequest(input), isRange);
  for (const each of [...sandboxes, change?.sandbox, asked]) if (each !== undefined) holds(each);
  const runtime = parsed(() => decodeGreeting(input), isRange);
  if (runtime === undefined) return;
  assert(fits(runtime.name, bounds.nriRuntime) && fits(runtime.version, bounds.nriRuntime));
  assert(runtime.requestTimeoutMs >= 0);
}

function holds({ id, uid, namespace, name, netnsPath, ips }: RuntimeSandbox): void {
  assert(fits(id, bounds.nriId) && fits(netnsPath, bounds.nriPath));
  for (const word of [uid, namespace, name]) assert(fits(word, bounds.nriName));
  assert(ips.length <= bounds.nriAddresses.count);
  for (const ip of ips) assert(ip !== "" && fits(ip, bounds.nriAddresses));
}

const call = { service: "nri.pkg.api.v1alpha1.Plugin", method: "StateChange", timeoutMs: 2000 };
const request = encodeRequest(1, { ...call, payload: stateChange(1, sandbox) });

/** Parsers of what the runtime says. */
export const runtimeTargets: readonly FuzzTarget[] = [
  {
    name: "nri-frames",
    whose: "the runtime's NRI connection",
    seeds: () => [
      muxPiece(pluginConnection, request),
      Buffer.concat([
        muxPiece(1, request.subarray(0, 20)),
        muxPiece(1, request.subarray(20)),
        muxPiece(2, request),
      ]),
      Buffer.from("000000010040000b", "hex"),
      muxPiece(1, Buffer.from("00000000000000010100", "hex")),
    ],
    words: [
      "\0\0\0\x01",
      "\0\0\0\x02",
      "\0\0\0\0",
      "\xff\xff\xff\xff",
      "\x01\0",
      "\x02\0",
      "\x03\0",
      "\0\0\0\x0a",
    ],
    run: runFrames,
  },
  {
    name: "nri-envelopes",
    whose: "the runtime's calls and answers",
    seeds: () => [
      request.subarray(10),
      encodeResponse(1, { ok: false, code: 2, message: "é".repeat(2000) }).subarray(10),
      encodeResponse(1, { ok: true, payload: Uint8Array.of(1) }).subarray(10),
    ],
    words: ["\x0a", "\x12", "\x1a", "\x20", "\x08\x02", "\x80\x80", "\xff\xff\xff\xff\x0f", "\xc3"],
    run: runEnvelopes,
  },
  {
    name: "nri-messages",
    whose: "the runtime's word of sandboxes",
    seeds: () => [
      synchronization([sandbox, { ...sandbox, netnsPath: "" }], true),
      stateChange(2, sandbox),
      sandboxRequest({ ...sandbox, ips: ["x".repeat(46)] }),
      greeting(),
    ],
    words: [
      "\x0a",
      "\x42",
      "\x2a",
      "\x0a\x07network",
      "\x12",
      "\x52",
      "\x18\x01",
      "\x80\x80",
      "\xff\xff\xff\xff\x0f",
    ],
    run: runMessages,
  },
];
