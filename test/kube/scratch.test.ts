// SPDX-License-Identifier: Apache-2.0
// Memory for what arrives in pieces: whole, bounded, and given back.
import { expect, test } from "vitest";
import { Scratch } from "../../src/kube/scratch.ts";

test("pieces are whole again, one object after the other", () => {
  using scratch = new Scratch(100);
  for (const words of [["a", "bc", ""], [], ["é".repeat(20), "x"]]) {
    for (const word of words) expect(scratch.append(Buffer.from(word))).toBe(true);
    expect(scratch.view().toString()).toBe(words.join(""));
    scratch.clear();
  }
});

test("what does not fit is not taken", () => {
  using scratch = new Scratch(5);
  expect(scratch.append(Buffer.from("abcd"))).toBe(true);
  expect(scratch.append(Buffer.from("ef"))).toBe(false);
  expect(scratch.append(Buffer.from("e"))).toBe(true);
  expect(scratch.view().toString()).toBe("abcde");
});

test("a large one is given back, however often", () => {
  using scratch = new Scratch(64 << 20);
  const piece = Buffer.alloc(1 << 20, "x");
  const beforeMb = process.memoryUsage.rss() / 2 ** 20;
  for (let round = 0; round < 5; round += 1) {
    for (let count = 0; count < 64; count += 1) scratch.append(piece);
    expect(scratch.view().at(-1)).toBe(0x78);
    scratch.clear();
  }
  expect(process.memoryUsage.rss() / 2 ** 20 - beforeMb).toBeLessThan(32);
});
