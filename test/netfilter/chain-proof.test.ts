// SPDX-License-Identifier: Apache-2.0
import { expect, test } from "vitest";
import { isProven } from "../../src/netfilter/chain-proof.ts";

const proof = [[Uint8Array.of(1, 1), Uint8Array.of(2, 2)], [Uint8Array.of(9)]];
const rule = (...bytes: number[]) => Uint8Array.from(bytes);
const whole = (...rules: Uint8Array[]) => ({ rules, isComplete: true });

test.each([
  ["a rule has one value of each list", true, [whole(rule(0, 1, 1, 9))]],
  ["another value of a list", true, [whole(rule(9, 2, 2))]],
  ["one chain of the table shows it", true, [whole(rule(5)), whole(rule(5), rule(1, 1, 9))]],
  ["a list has no value in it", false, [whole(rule(1, 1))]],
  ["the values stand in two rules", false, [whole(rule(1, 1), rule(9))]],
  ["a value is cut in two", false, [whole(rule(1, 9, 1))]],
  ["chains are there without rules", true, [whole(), whole()]],
  ["one of them has somebody else's", false, [whole(), whole(rule(5))]],
  ["no chain is there", true, []],
  ["there is more than is seen", true, [{ rules: [rule(5)], isComplete: false }]],
])("chains of our names are judged where %s: %s", (_, expected, chains) => {
  expect(isProven({ proof }, chains)).toBe(expected);
});

test("chains of names that nobody else has need no proof", () => {
  expect(isProven({}, [whole(rule(5))])).toBe(true);
});
