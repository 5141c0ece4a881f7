// SPDX-License-Identifier: Apache-2.0
// Looks at the host: as often as was asked for, and less often where they take long.
import { expect, test } from "vitest";
import { KeepTrue } from "../../src/loop/keep-true.ts";
import { LookPace } from "../../src/probes/look-pace.ts";
import { FakeClock } from "../support/fake-clock.ts";

const INTERVAL_MS = 3_000;

/** A loop whose looks take as long as the test says; each told by when it began. */
function looking(takesMs: () => number) {
  const clock = new FakeClock();
  const pace = new LookPace({ intervalMs: INTERVAL_MS, clock });
  const begun: number[] = [];
  const look = async () => {
    begun.push(clock.nowMs());
    await clock.sleep(takesMs(), new AbortController().signal);
  };
  const runs = new KeepTrue({
    work: async () => {
      if (pace.isDue("any")) await pace.time("any", look);
    },
    longestMs: () => pace.pauseMs,
    clock,
  });
  /** Lets time pass in steps, so that what is due begins in its time. */
  const pass = async (ms: number) => {
    for (const endMs = clock.nowMs() + ms; clock.nowMs() < endMs; ) {
      clock.advance(Math.max(1, Math.min(endMs, clock.nextDueMs() ?? endMs) - clock.nowMs()));
      await turns();
    }
  };
  /** Asks for a run, and waits for its end. */
  const ask = async () => {
    let isDone = false;
    void runs.request().then(() => {
      isDone = true;
    });
    await turns();
    while (!isDone) await pass(1);
  };
  return { pace, runs, begun, pass, ask };
}

function turns(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

test.each([
  [2, INTERVAL_MS],
  [149, INTERVAL_MS],
  [250, 5_000],
  [1_000, 20_000],
  [60_000, 30_000],
])("after looks of %d ms there are pauses of %d ms", async (takesMs, pauseMs) => {
  const { runs, begun, pass, ask } = looking(() => takesMs);
  await ask();
  await pass(5 * (takesMs + pauseMs));
  expect(begun.slice(0, 5)).toEqual([0, 1, 2, 3, 4].map((round) => round * (takesMs + pauseMs)));
  await runs.stop();
});

test("one long look among quick ones is none to be spared", async () => {
  const takesMs = [5, 900, 5, 5];
  const { runs, begun, pass, ask } = looking(() => takesMs.shift() ?? 5);
  await ask();
  await pass(13_000);
  expect(begun).toEqual([0, 3_005, 6_905, 9_910, 12_915]);
  await runs.stop();
});

test("who comes for another reason waits for no long look that was made just now", async () => {
  const { pace, runs, begun, pass, ask } = looking(() => 1_000);
  await ask();
  await pass(10_000);
  await ask();
  expect(begun).toEqual([0]);
  // unless something else is wanted, or what was seen holds no more
  expect(pace.isDue("uid 7")).toBe(true);
  pace.forget();
  await ask();
  expect(begun).toHaveLength(2);
  await runs.stop();
});

test("however often somebody comes, looks are not put off", async () => {
  const { runs, begun, pass, ask } = looking(() => 1_000);
  await ask();
  for (let second = 0; second < 60; second++) {
    await pass(1_000);
    await ask();
  }
  expect(begun.length).toBeGreaterThanOrEqual(3);
  await runs.stop();
});

test("quick looks are made whenever somebody comes", async () => {
  const { runs, begun, ask } = looking(() => 5);
  for (let round = 0; round < 4; round++) await ask();
  expect(begun).toHaveLength(4);
  await runs.stop();
});
