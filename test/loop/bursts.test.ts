// SPDX-License-Identifier: Apache-2.0
// How soon what goes on and on is answered, against a clock that the test moves.
import { expect, test } from "vitest";
import { Bursts } from "../../src/loop/bursts.ts";

const options = { most: 3, everyMs: 1_000, gatherMs: 50 };

function make() {
  const time = { nowMs: 0 };
  const bursts = new Bursts(options, { nowMs: () => time.nowMs });
  return { time, bursts };
}

test("the first few are answered as soon as what belongs together has come", () => {
  const { bursts } = make();
  expect([1, 2, 3].map(() => bursts.pauseMs())).toEqual([50, 50, 50]);
});

test("what goes on is answered once in the interval, however long it goes on", () => {
  const { time, bursts } = make();
  let answers = 0;
  // as it is used: what happens while an answer is awaited is part of that
  while (time.nowMs < 600_000) {
    time.nowMs += bursts.pauseMs();
    answers++;
  }
  expect(answers).toBeGreaterThan(590);
  expect(answers).toBeLessThan(610);
});

test("what we make happen ourselves takes nothing from what others may", () => {
  const { bursts } = make();
  const pauses = Array.from({ length: 6 }, (_, i) => bursts.pauseMs({ isOurs: i % 2 === 1 }));
  expect(pauses).toEqual([50, 50, 50, 50, 50, 50]);
  expect(bursts.pauseMs()).toBe(1_000);
});

test("a quiet time gives back what was taken, one in the interval and no more than there was", () => {
  const { time, bursts } = make();
  for (let i = 0; i < 4; i++) bursts.pauseMs();
  time.nowMs += 2_000;
  expect([1, 2].map(() => bursts.pauseMs())).toEqual([50, 1_000]);
  time.nowMs += 3_600_000;
  expect([1, 2, 3, 4].map(() => bursts.pauseMs())).toEqual([50, 50, 50, 1_000]);
});
