// SPDX-License-Identifier: Apache-2.0
// Keeping to a bound: sizes in bytes whatever the text holds, and few words about many things alike.
import { expect, test } from "vitest";
import { cutText, firstFew, fits, isTold } from "../../src/bounds/bounded.ts";

test.each([
  ["", 0, true],
  ["abc", 3, true],
  ["abcd", 3, false],
  ["é", 1, false],
  ["é", 2, true],
  ["€€", 6, true],
  ["€€", 5, false],
  ["😀", 4, true],
  ["😀", 3, false],
])("whether %j has at most %d bytes: %s", (text, bytes, expected) => {
  expect(fits(text, { bytes })).toBe(expected);
});

test.each([
  ["abcdef", 6, "abcdef"],
  ["abcdefg", 6, "abc…"],
  ["ééé", 5, "é…"],
  ["€€€", 8, "€…"],
  ["a😀b", 5, "a…"],
  ["😀😀😀", 7, "😀…"],
])("%j cut to %d bytes is %j", (text, bytes, expected) => {
  expect(cutText(text, { bytes })).toBe(expected);
});

test("a cut text fits, whatever it holds", () => {
  const units = ["a", "é", "€", "😀", "\ud800", "\udc00", "\n", "\0"];
  for (let seed = 0; seed < 500; seed += 1) {
    const text = Array.from({ length: 40 }, (_, index) => units[(seed * 7 + index * (seed % 5)) % 8]).join(
      "",
    );
    const cut = cutText(text, { bytes: 20 });
    expect(Buffer.byteLength(cut)).toBeLessThanOrEqual(20);
  }
});

test("the first few of many are followed by how many more there are", () => {
  const more = (rest: number) => `and ${rest} more`;
  expect(firstFew(["a", "b"], { count: 2, more })).toEqual(["a", "b"]);
  expect(firstFew(["a", "b", "c", "d"], { count: 2, more })).toEqual(["a", "b", "and 2 more"]);
});

test("of a million alike nine are told", () => {
  const told = Array.from({ length: 1_000_000 }, (_, index) => index + 1).filter(isTold);
  expect(told).toEqual([1, 2, 3, 10, 100, 1000, 10_000, 100_000, 1_000_000]);
});
