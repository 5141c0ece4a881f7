// SPDX-License-Identifier: Apache-2.0
// Pods that were broken together go at once; what comes in their place, when it is broken too, ever more slowly.
import { expect, test } from "vitest";
import { DeletionPace } from "../../src/repair/deletion-pace.ts";
import { FakeClock } from "../support/fake-clock.ts";

test("pods of the first generation wait for nothing, however many went before", () => {
  const clock = new FakeClock();
  const pace = new DeletionPace(clock);
  const generations = Array.from({ length: 100 }, () => pace.generationOf("web"));
  for (const generation of generations) {
    expect(pace.pauseMs("web", generation)).toBe(0);
    pace.deleted("web", generation);
  }
  expect(pace.generationOf("web")).toBe(1);
  expect(pace.generationOf("db")).toBe(0);
});

test("their successors wait 10 s, then twice as long each time, up to 10 min", () => {
  const clock = new FakeClock();
  const pace = new DeletionPace(clock);
  const pauses: number[] = [];
  for (let round = 0; round < 10; round++) {
    const generation = pace.generationOf("web");
    const pauseMs = pace.pauseMs("web", generation);
    pauses.push(pauseMs / 1000);
    clock.advance(pauseMs);
    expect(pace.pauseMs("web", generation)).toBe(0);
    pace.deleted("web", generation);
  }
  expect(pauses).toEqual([0, 10, 20, 40, 80, 160, 320, 600, 600, 600]);
});

test("after an hour without a deletion a fault is a new one", () => {
  const clock = new FakeClock();
  const pace = new DeletionPace(clock);
  pace.deleted("web", 0);
  clock.advance(3_599_000);
  expect(pace.generationOf("web")).toBe(1);
  clock.advance(1_000);
  expect(pace.generationOf("web")).toBe(0);
});

test("a pod that nobody makes anew has no successor", () => {
  const pace = new DeletionPace(new FakeClock());
  pace.deleted("", 0);
  expect(pace.generationOf("")).toBe(0);
});

test("a million owners are not remembered", () => {
  const pace = new DeletionPace(new FakeClock());
  for (let index = 0; index < 2_000; index++) pace.deleted(`owner-${index}`, 0);
  expect(pace.generationOf("owner-0")).toBe(0);
  expect(pace.generationOf("owner-975")).toBe(0);
  expect(pace.generationOf("owner-976")).toBe(1);
});
