// SPDX-License-Identifier: Apache-2.0
// Exact bytes: ztunnel decodes with a generated protobuf decoder and exits on some of what it does not like.
import { describe, expect, test } from "vitest";
import {
  decodeAnswer,
  decodeHello,
  encodeAdd,
  encodeDel,
  encodeKeep,
  encodeSnapshotSent,
} from "../../src/ztunnel/zds-codec.ts";

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

function bytes(text: string): Uint8Array {
  return Buffer.from(text.replaceAll(" ", ""), "hex");
}

describe("requests", () => {
  const requests: readonly [string, Uint8Array, string][] = [
    [
      "Add",
      encodeAdd("u1", { name: "n", namespace: "d", serviceAccount: "s" }),
      "0a0f 0a027531 1209 0a016e 120164 1a0173",
    ],
    [
      "Add with empty info",
      encodeAdd("u1", { name: "", namespace: "", serviceAccount: "" }),
      "0a06 0a027531 1200",
    ],
    ["Keep", encodeKeep("u1"), "2a04 0a027531"],
    ["Del", encodeDel("u1"), "1204 12027531"],
    ["SnapshotSent", encodeSnapshotSent(), "1a00"],
  ];
  test.each(requests)("%s has ztunnel's bytes", (_name, encoded, expected) => {
    expect(hex(encoded)).toBe(expected.replaceAll(" ", ""));
  });

  test("the longest legal Add fits ztunnel's buffer", () => {
    const uid = "11111111-2222-3333-4444-555555555555";
    const info = { name: "p".repeat(253), namespace: "n".repeat(63), serviceAccount: "s".repeat(253) };
    expect(encodeAdd(uid, info).length).toBe(621);
  });

  test("lengths above 127 take two bytes", () => {
    expect(hex(encodeKeep("x".repeat(200)).subarray(0, 6))).toBe("2acb010ac801");
  });

  test("what ztunnel could not read whole is refused", () => {
    expect(() => encodeKeep("x".repeat(1100))).toThrow(/1024/);
  });

  test("an empty uid is refused", () => {
    expect(() => encodeDel("")).toThrow(/uid is empty/);
  });
});

describe("answers", () => {
  test.each([
    ["an ack", "0a00", { ok: true }],
    ["an ack with an empty error", "0a02 0a00", { ok: true }],
    ["a refusal", "0a03 0a0178", { ok: false, error: "x" }],
    ["unknown fields around the ack", "1005 0a03 0a0178 1a0179", { ok: false, error: "x" }],
    ["a refusal that is no UTF-8", "0a03 0a01ff", { ok: false, error: "ÿ" }],
  ])("%s is understood", (_name, text, expected) => {
    expect(decodeAnswer(bytes(text))).toEqual(expected);
  });

  test("a refusal without end is cut to what anybody reads", () => {
    const field = (bytes: Buffer): Buffer =>
      Buffer.concat([
        Buffer.from([
          0x0a,
          (bytes.length & 0x7f) | 0x80,
          ((bytes.length >> 7) & 0x7f) | 0x80,
          bytes.length >> 14,
        ]),
        bytes,
      ]);
    for (const text of ["é".repeat(30_000), "\xff".repeat(30_000)]) {
      const encoded = Buffer.from(text, text.startsWith("é") ? "utf8" : "latin1");
      const answer = decodeAnswer(field(field(encoded)));
      expect(answer.ok === false && Buffer.byteLength(answer.error)).toBeLessThanOrEqual(1024);
      expect(answer).toMatchObject({ ok: false, error: expect.stringMatching(/^(é+|ÿ+)…$/) });
    }
  });

  test.each([
    ["without an ack", "1005"],
    ["with an ack that is a number", "0801"],
    ["cut off", "0a05 0a01"],
    ["with a cut-off varint", "0a80"],
    ["of an unknown wire type", "0b"],
    ["with field number 0", "0200"],
    ["with a varint without end", "08".padEnd(26, "f")],
  ])("an answer %s is refused", (_name, text) => {
    expect(() => decodeAnswer(bytes(text))).toThrow(RangeError);
  });
});

describe("hello", () => {
  test.each([
    ["version 1", "0801", 1],
    ["version 2 and an unknown field", "0802 1a0178", 2],
    ["no version", "1a0178", 0],
  ])("%s is understood", (_name, text, version) => {
    expect(decodeHello(bytes(text))).toBe(version);
  });

  test.each(["ffff", "0a0131", "08"])("the packet %s is refused", (text) => {
    expect(() => decodeHello(bytes(text))).toThrow(RangeError);
  });
});
