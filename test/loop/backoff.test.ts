// SPDX-License-Identifier: Apache-2.0
// Pauses between tries: they grow, stay below the cap, and start anew after a success.
import { expect, test } from "vitest";
import { Backoff } from "../../src/loop/backoff.ts";

test("pauses double up to the cap when nothing is random", () => {
  const backoff = new Backoff({ baseMs: 250, capMs: 30_000, random: () => 1 });
  const pauses = Array.from({ length: 10 }, () => backoff.nextMs());
  expect(pauses).toEqual([250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
});

test("a pause can be given a lower cap, never a higher one", () => {
  const backoff = new Backoff({ baseMs: 1000, capMs: 3000, random: () => 1 });
  expect([1500, 1500, 9000, undefined].map((capMs) => backoff.nextMs(capMs))).toEqual([
    1000, 1500, 3000, 3000,
  ]);
});

test("a pause is between half and all of its length", () => {
  const shortest = new Backoff({ random: () => 0 });
  expect([shortest.nextMs(), shortest.nextMs()]).toEqual([125, 250]);
  const random = new Backoff();
  for (let index = 0; index < 2000; index += 1) expect(random.nextMs()).toBeLessThanOrEqual(30_000);
  expect(random.failures).toBe(2000);
});

test("pauses start anew after a reset", () => {
  const backoff = new Backoff({ random: () => 1 });
  backoff.nextMs();
  backoff.nextMs();
  backoff.reset();
  expect(backoff.failures).toBe(0);
  expect(backoff.nextMs()).toBe(250);
});
