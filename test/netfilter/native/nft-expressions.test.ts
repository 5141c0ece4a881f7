// SPDX-License-Identifier: Apache-2.0
// What counts as the same rule: kernels differ in what they add to what they were told.
import { expect, test } from "vitest";
import { addressBytes, addressText } from "../../../src/linux/address.ts";
import { concatBytes, encodeAttribute } from "../../../src/linux/netlink/message.ts";
import {
  compare,
  counter,
  loadMeta,
  sameExpressions,
} from "../../../src/netfilter/native/nft-expressions.ts";

/** An expression with attributes in the order given. */
function expression(name: string, attributes: [type: number, ...bytes: number[]][]): Uint8Array {
  const data = attributes.map(([type, ...bytes]) => encodeAttribute(type, Uint8Array.from(bytes)));
  return encodeAttribute(
    1,
    concatBytes(encodeAttribute(1, Buffer.from(`${name}\0`)), encodeAttribute(2, concatBytes(...data))),
  );
}

const one = expression("bitwise", [
  [1, 0, 0, 0, 1],
  [6, 0, 0, 0, 0],
]);

test.each<[string, boolean, Uint8Array]>([
  [
    "the same",
    true,
    expression("bitwise", [
      [1, 0, 0, 0, 1],
      [6, 0, 0, 0, 0],
    ]),
  ],
  [
    "attributes in another order",
    true,
    expression("bitwise", [
      [6, 0, 0, 0, 0],
      [1, 0, 0, 0, 1],
    ]),
  ],
  [
    "a kernel that does not know an attribute that says nothing",
    true,
    expression("bitwise", [[1, 0, 0, 0, 1]]),
  ],
  [
    "a kernel that adds one that says nothing",
    true,
    expression("bitwise", [
      [1, 0, 0, 0, 1],
      [6, 0, 0, 0, 0],
      [9, 0],
    ]),
  ],
  [
    "one more that says something",
    false,
    expression("bitwise", [
      [1, 0, 0, 0, 1],
      [6, 0, 0, 0, 0],
      [9, 1],
    ]),
  ],
  [
    "one that says something else",
    false,
    expression("bitwise", [
      [1, 0, 0, 0, 1],
      [6, 0, 0, 0, 1],
    ]),
  ],
  ["one that said something and is gone", false, expression("bitwise", [[6, 0, 0, 0, 0]])],
  [
    "another expression",
    false,
    expression("payload", [
      [1, 0, 0, 0, 1],
      [6, 0, 0, 0, 0],
    ]),
  ],
  ["one expression more", false, concatBytes(one, counter())],
  ["none", false, new Uint8Array()],
])("%s", (_, isSame, other) => {
  expect(sameExpressions(one, other)).toBe(isSame);
  expect(sameExpressions(other, one)).toBe(isSame);
});

test("what was counted says nothing", () => {
  const counted = expression("counter", [
    [1, 0, 0, 0, 0, 0, 0, 0, 9],
    [2, 0, 0, 0, 0, 0, 0, 0, 1],
  ]);
  expect(sameExpressions(counter(), counted)).toBe(true);
});

test("a value is compared to its end", () => {
  const [name, longer] = [Buffer.from("vm"), Buffer.from("vm\0\0")];
  expect(sameExpressions(compare("equal", name), compare("equal", longer))).toBe(false);
  expect(sameExpressions(loadMeta("iifname"), loadMeta("oifname"))).toBe(false);
});

test.each([
  "10.0.255.1",
  "::1",
  "::",
  "fd16:9254:7127:1337:ffff:ffff:ffff:ffff",
  "fe80::1:0:0:2",
  "1::",
  "::ffff:10.0.0.1",
])("address %s is the same there and back", (address) => {
  expect(addressText(addressBytes(address))).toBe(address);
});

test("what is no address has no bytes", () => {
  for (const text of ["", "10.0.0", "::1::2", "x::1", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9"])
    expect(() => addressBytes(text), text).toThrow(RangeError);
  expect(() => addressText(new Uint8Array(5))).toThrow(RangeError);
});
