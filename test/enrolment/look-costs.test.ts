// SPDX-License-Identifier: Apache-2.0
import { expect, test } from "vitest";
import { heardPauseMs, LookCosts, lookIntervalMs, lookPauseMs } from "../../src/enrolment/look-costs.ts";

function costsOf(looks: readonly number[]): LookCosts {
  const costs = new LookCosts();
  for (const ms of looks) costs.took([ms]);
  return costs;
}

const usual = Array<number>(20).fill(5);
const busy = Array<number>(20).fill(300);

test.each([
  ["three that are long make a pod slow", usual, [500, 400, 600], 400],
  ["one that is long does not", usual, [5, 5, 900], undefined],
  ["two that are long do not", usual, [900, 5, 900], undefined],
  ["two are too few", usual, [900, 900], undefined],
  ["the last three count", usual, [5, 400, 400, 400], 400],
  ["one that is as others again ends it", usual, [900, 900, 5], undefined],
  ["those that are a little longer do not", usual, [49, 49, 49], undefined],
  ["none is slow where all take as long", busy, [900, 900, 900], undefined],
  ["they are all the same where they are longer by far", busy, [2_400, 2_400, 2_400], 2_400],
  ["many slow pods do not make themselves usual", [...usual, ...Array(43).fill(900)], [900, 900, 900], 900],
  ["the first of all are not slow", [], [5_000, 5_000, 5_000], undefined],
])("of looks %s", (_, before, looks, slow) => {
  expect(costsOf(before).took(looks)).toBe(slow);
});

test("what was long ago is not what is usual", () => {
  const costs = costsOf([...usual, ...Array<number>(64).fill(300)]);
  expect(costs.took([400, 400, 400])).toBeUndefined();
});

test.each([
  [30_000, undefined, 30_000],
  [30_000, 200, 120_000],
  [1_000, 2_000, 40_000],
  [500, 100, 2_000],
  [30_000, 3_600_000, 900_000],
  [3_600_000, 400, 3_600_000],
])("a pause of %d ms after a slow look of %s ms is one of %d ms", (pauseMs, slowMs, expected) => {
  expect(lookPauseMs(pauseMs, slowMs)).toBe(expected);
});

test("a pod that is tried again is stretched to its share alone", () => {
  expect(lookPauseMs(30_000, 200, { stretch: 1 })).toBe(30_000);
  expect(lookPauseMs(500, 200, { stretch: 1 })).toBe(4_000);
});

test("what is announced is looked at soon, unless the pod is slow to look at or cannot be seen to be right", () => {
  expect(heardPauseMs(50, {})).toBe(50);
  expect(heardPauseMs(50, { failures: 0 })).toBe(50);
  expect(heardPauseMs(50, { failures: 1 })).toBe(8_000);
  expect(heardPauseMs(50, { slowLookMs: 100 })).toBe(8_000);
  expect(heardPauseMs(50, { slowLookMs: 1_000 })).toBe(20_000);
  expect(heardPauseMs(30_000, { slowLookMs: 100, failures: 3 })).toBe(30_000);
});

test("a pod that nobody hears of is looked at after its own pause, more or less", () => {
  const pauses = [0, 0.5, 1].map((random) => lookIntervalMs(30_000, {}, { nowMs: 7, random }));
  expect(pauses).toEqual([22_500, 30_000, 37_500]);
  expect(lookIntervalMs(30_000, { slowLookMs: 200 }, { nowMs: 7, random: 0.5 })).toBe(120_000);
});

test.each([30_000, 1_000])(
  "pods that are heard of are looked at seldom, and then all at once, with an interval of %d ms",
  (intervalMs) => {
    const at = { random: 0.5 };
    const togetherMs = 10 * intervalMs;
    for (const nowMs of [0, 1, 29_999.5, 30_000, 12_345_678]) {
      const pauseMs = lookIntervalMs(intervalMs, { isHeard: true }, { ...at, nowMs });
      expect((nowMs + pauseMs) % togetherMs).toBeCloseTo(0);
      expect(pauseMs).toBeGreaterThanOrEqual(0.25 * togetherMs);
      expect(pauseMs).toBeLessThan(1.25 * togetherMs);
    }
    // one that was looked at with the others is looked at with the others again
    expect(lookIntervalMs(intervalMs, { isHeard: true }, { ...at, nowMs: 3 * togetherMs + 20 })).toBeCloseTo(
      togetherMs - 20,
    );
    const slow = { isHeard: true, slowLookMs: 20_000 };
    expect(lookIntervalMs(intervalMs, slow, { ...at, nowMs: 0 })).toBeGreaterThanOrEqual(
      400_000 - 0.75 * togetherMs,
    );
  },
);
