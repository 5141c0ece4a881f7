// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { Descriptors, openFilesLimit, ownDescriptors } from "../../src/ports/descriptors.ts";
import { FakeClock } from "../support/fake-clock.ts";

test("what is kept in reserve is not given, and counted are those that were given since the last look", () => {
  const clock = new FakeClock();
  let open = 90;
  let looks = 0;
  const count = () => {
    looks++;
    return open;
  };
  const descriptors = new Descriptors({ limit: 100, reserve: 8, count, clock });
  expect([descriptors.take(), descriptors.take(), descriptors.take()]).toEqual([true, true, false]);
  open = 10;
  expect([descriptors.take(), looks]).toEqual([false, 1]);
  clock.advance(100);
  expect([descriptors.take(), looks]).toEqual([true, 2]);
});

test("a process without a limit has always more", () => {
  const count = () => 1_000_000;
  const descriptors = new Descriptors({ limit: Number.POSITIVE_INFINITY, reserve: 512, count });
  expect(descriptors.take()).toBe(true);
});

test("without /proc nobody can count, and everybody is let in", () => {
  expect(ownDescriptors("/nowhere").take()).toBe(true);
});

test.each([
  ["Max open files            4096                 8192                 files     \n", 4096],
  [
    "Max cpu time  1 1 seconds\nMax open files            unlimited            unlimited            files\n",
    Infinity,
  ],
])("the limit of %j is %i", (text, limit) => {
  expect(openFilesLimit(text)).toBe(limit);
});

test("a limit that is not there is an error with what is there", () => {
  expect(() => openFilesLimit("nothing")).toThrow('"nothing"');
});

test("this process has its hard limit, and something left", () => {
  const [, soft, hard] =
    /^Max open files +(\d+) +(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8")) ?? [];
  expect(soft).toBe(hard);
  expect(ownDescriptors().take()).toBe(true);
});
