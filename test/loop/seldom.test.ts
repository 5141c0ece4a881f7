// SPDX-License-Identifier: Apache-2.0
import { expect, test } from "vitest";
import { Seldom } from "../../src/loop/seldom.ts";
import { FakeClock } from "../support/fake-clock.ts";

test("it is told at once, then not before the pause is over, with how often it was", () => {
  const clock = new FakeClock();
  const seldom = new Seldom({ pauseMs: 100, clock });
  expect([seldom.count(), seldom.count(), seldom.count()]).toEqual([1, undefined, undefined]);
  clock.advance(99);
  expect(seldom.count()).toBeUndefined();
  clock.advance(1);
  expect([seldom.count(), seldom.count()]).toEqual([4, undefined]);
  clock.advance(1_000);
  expect(seldom.count()).toBe(2);
});
