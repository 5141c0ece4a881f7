// SPDX-License-Identifier: Apache-2.0
// Netlink messages as bytes, without a kernel.
import { expect, test } from "vitest";
import {
  concatBytes,
  decodeAttributes,
  decodeString,
  decodeUint32,
  eachMessage,
  encodeAttribute,
  encodeRequests,
  encodeUint32Attribute,
  sortAnswers,
} from "../../../src/linux/netlink/message.ts";

function bytes(hex: string): Uint8Array {
  return Uint8Array.from(Buffer.from(hex.replaceAll(" ", ""), "hex"));
}

function hex(data: Uint8Array): string {
  return Buffer.from(data).toString("hex");
}

test("requests are numbered, marked as requests and padded to four bytes", () => {
  const encoded = encodeRequests([
    { type: 0x22, flags: 0x300, body: Uint8Array.of(2) },
    { type: 0x1234, flags: 4, body: new Uint8Array(4).fill(0xee) },
  ]);
  expect(hex(encoded)).toBe(
    ["11000000 2200 0103 01000000 00000000 02 000000", "14000000 3412 0500 02000000 00000000 eeeeeeee"]
      .join("")
      .replaceAll(" ", ""),
  );
});

test("no request is no byte", () => {
  expect(encodeRequests([])).toEqual(new Uint8Array());
});

test.each([
  { type: 1, value: "", encoded: "04000100" },
  { type: 2, value: "aa", encoded: "05000200aa000000" },
  { type: 3, value: "aabbccdd", encoded: "08000300aabbccdd" },
  { type: 0x8004, value: "aabbccddee", encoded: "09000480aabbccddee000000" },
])("attribute $type with value $value encodes to $encoded", ({ type, value, encoded }) => {
  expect(hex(encodeAttribute(type, bytes(value)))).toBe(encoded);
});

test("a number in an attribute is in host order and any 32 bits", () => {
  expect(hex(encodeUint32Attribute(10, 0x111))).toBe("08000a0011010000");
  expect(hex(encodeUint32Attribute(10, 0xffffffff))).toBe("08000a00ffffffff");
  expect(decodeUint32(bytes("ffffffff"))).toBe(0xffffffff);
});

test.each([
  { what: "absent", value: undefined },
  { what: "too short", value: bytes("0102") },
  { what: "too long", value: bytes("0102030405") },
])("a number that is $what is undefined", ({ value }) => {
  expect(decodeUint32(value)).toBeUndefined();
});

test("attributes decode by type without flag bits, the last of a type wins, and order does not matter", () => {
  const found = decodeAttributes(
    concatBytes(bytes("ffff"), bytes("05000280aa000000 0400 0700 05000200bb000000")),
    2,
  );
  expect([...found].map(([type, value]) => [type, hex(value)])).toEqual([
    [2, "bb"],
    [7, ""],
  ]);
});

test.each([
  { what: "a length of zero", data: "0000 0100 aabbccdd" },
  { what: "a length below the header's", data: "0300 0100 aabbccdd" },
  { what: "a length beyond the end", data: "0900 0100 aabbccdd" },
  { what: "half a header", data: "0800" },
])("attributes end at $what", ({ data }) => {
  expect(decodeAttributes(bytes(`05000900cc000000 ${data}`)).size).toBe(1);
});

test("the last attribute may lack its padding", () => {
  expect(decodeAttributes(bytes("05000900cc")).get(9)).toEqual(Uint8Array.of(0xcc));
});

test.each([
  { data: "6c6f00", text: "lo" },
  { data: "6c6f", text: "lo" },
  { data: "6c006f00", text: "l" },
  { data: "", text: "" },
])("text $data reads as $text", ({ data, text }) => {
  expect(decodeString(bytes(data))).toBe(text);
});

test.each([
  { what: "a length below the header's", data: "0f000000 1000 0000 01000000 00000000" },
  { what: "a length beyond the end", data: "11000000 1000 0000 01000000 00000000" },
])("a datagram with $what is an error", ({ data }) => {
  expect(() => [...eachMessage(bytes(data))]).toThrow(RangeError);
});

test("what is left after the last message is ignored when it is shorter than a header", () => {
  expect([...eachMessage(bytes("10000000 1000 0000 01000000 00000000 ffff"))]).toHaveLength(1);
});

const ack = "24000000 0200 0000 01000000 00000000 00000000 14000000 2000 0506 01000000 00000000";

test("an acknowledgement is error zero and unanswered requests have none", () => {
  expect(sortAnswers(2, bytes(ack))).toEqual([
    { error: 0, reason: undefined, interrupted: false, messages: [] },
    { error: undefined, reason: undefined, interrupted: false, messages: [] },
  ]);
});

test("a refusal carries the kernel's words when the request is left out of it (NETLINK_CAP_ACK)", () => {
  const refusal =
    "34000000 0200 0003 01000000 00000000 eaffffff 14000000 2000 0506 01000000 00000000 0d000100 6e6f20676f6f6400 00000000";
  expect(sortAnswers(1, bytes(refusal))[0]).toMatchObject({ error: -22, reason: "no good" });
});

test("a refusal carries the kernel's words when the request is repeated in it", () => {
  const refusal =
    "38000000 0200 0002 01000000 00000000 eaffffff 14000000 2000 0506 01000000 00000000 aabbccdd 0d000100 6e6f20676f6f6400 00000000";
  expect(sortAnswers(1, bytes(refusal))[0]).toMatchObject({ error: -22, reason: "no good" });
});

test("the end of a dump may carry an error, and any part may say that the dump was interrupted", () => {
  const part = "14000000 2000 0200 01000000 00000000 aabbccdd";
  const interrupted = "14000000 2000 1200 01000000 00000000 aabbccdd";
  const done = "14000000 0300 0200 01000000 00000000 fcffffff";
  expect(sortAnswers(1, bytes(part + interrupted + done))[0]).toMatchObject({
    error: -4,
    interrupted: true,
    messages: [{ type: 0x20 }, { type: 0x20 }],
  });
});

test("messages with a number nobody used are ignored", () => {
  expect(sortAnswers(1, bytes(`10000000 1000 0000 09000000 00000000 ${ack}`))[0]).toMatchObject({
    error: 0,
    messages: [],
  });
});
