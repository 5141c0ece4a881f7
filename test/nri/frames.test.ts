// SPDX-License-Identifier: Apache-2.0
// The runtime's bytes, cut up: whatever pieces they come in, they are the same frames, and too much of them is refused.
import { describe, expect, test } from "vitest";
import { muxPiece, muxReader } from "../../src/nri/mux.ts";
import { ttrpcReader } from "../../src/nri/ttrpc.ts";

const piece = (connection: number, text: string) => muxPiece(connection, Buffer.from(text));
const stream = Buffer.concat([piece(1, "hello"), piece(2, ""), piece(7, "x".repeat(3000)), piece(1, "end")]);
const expected = [
  [1, "hello"],
  [2, ""],
  [7, "x".repeat(3000)],
  [1, "end"],
];

/** What comes out when the stream is put in by pieces of that size. */
function cut(size: number): (number | string)[][] {
  const reader = muxReader();
  const found: (number | string)[][] = [];
  for (let at = 0; at < stream.length; at += size)
    for (const { head, body } of reader.push(stream.subarray(at, at + size)))
      found.push([head.connection, body.toString()]);
  expect(reader.pendingBytes).toBe(0);
  return found;
}

test("a piece of a multiplexed connection has eight bytes before it: connection and length, the highest byte first", () => {
  expect(piece(2, "ab")).toEqual(Buffer.from("0000000200000002" + "6162", "hex"));
});

test.each([1, 2, 3, 7, 8, 9, 100, 3016, 1 << 20])("pieces of %d bytes give the same frames", (size) => {
  expect(cut(size)).toEqual(expected);
});

test("half a frame is kept, and says how much of it there is", () => {
  const reader = muxReader();
  expect([...reader.push(stream.subarray(0, 10))]).toEqual([]);
  expect(reader.pendingBytes).toBe(10);
});

test("a large frame in many pieces costs no more than its bytes a few times", () => {
  const body = Buffer.alloc(4 << 20, 7);
  const bytes = muxPiece(1, body);
  const reader = muxReader();
  const began = performance.now();
  let frames = 0;
  for (let at = 0; at < bytes.length; at += 512)
    for (const frame of reader.push(bytes.subarray(at, at + 512))) {
      frames += 1;
      expect(frame.body.length).toBe(body.length);
    }
  expect(frames).toBe(1);
  // joined at each piece it would be 16 GiB to copy
  expect(performance.now() - began).toBeLessThan(3_000);
});

describe("what is refused", () => {
  test("a piece that is larger than any, before its bytes are there", () => {
    const head = Buffer.from("00000001" + "0040000b", "hex");
    expect(() => [...muxReader().push(head)]).toThrow("has 4194315 bytes, and may have 4194314");
  });

  test.each([
    [
      "a message that is too long",
      "00400001" + "00000001" + "0100",
      "has 4194305 bytes, and may have 4194304",
    ],
    ["a message of a stream", "00000000" + "00000001" + "0300", "has the type 3, which no unary call has"],
    ["a request that goes on", "00000000" + "00000001" + "0102", "has the flags 2, which no unary call has"],
    [
      "a stream that the server begins",
      "00000000" + "00000002" + "0100",
      "is of stream 2, which nobody begins",
    ],
  ])("%s", (_name, hex, message) => {
    expect(() => [...ttrpcReader().push(Buffer.from(hex, "hex"))]).toThrow(message);
  });
});
