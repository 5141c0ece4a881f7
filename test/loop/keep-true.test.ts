// SPDX-License-Identifier: Apache-2.0
// What keeps something true: runs are shared and never overlap, and come when asked, after a while and after failures.
import { expect, test } from "vitest";
import { Backoff } from "../../src/loop/backoff.ts";
import { KeepTrue, type KeepTrueOptions } from "../../src/loop/keep-true.ts";
import { FakeClock } from "../support/fake-clock.ts";

/** Work whose runs end when the test says so. */
function controlled(options: Omit<KeepTrueOptions, "work"> = {}) {
  const clock = new FakeClock();
  const begun: (PromiseWithResolvers<void> & { signal: AbortSignal; atMs: number })[] = [];
  const runs = new KeepTrue({
    work: (signal) => {
      const run = Promise.withResolvers<void>();
      begun.push({ ...run, signal, atMs: clock.nowMs() });
      return run.promise;
    },
    clock,
    ...options,
  });
  /** Ends the run under way. */
  const end = async (failure?: Error): Promise<void> => {
    if (failure === undefined) begun.at(-1)?.resolve();
    else begun.at(-1)?.reject(failure);
    await turns();
  };
  const times = (): number[] => begun.map(({ atMs }) => atMs);
  return { runs, begun, clock, end, times };
}

/** Lets everything happen that waits for nothing. */
function turns(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

test("all who ask during a run share one run after it", async () => {
  const { runs, begun, end } = controlled();
  const first = runs.request();
  expect(begun).toHaveLength(1);
  const later = [runs.request(), runs.request(), runs.request()];
  expect(runs.isNextRequested).toBe(true);
  await end();
  await first;
  expect(begun).toHaveLength(2);
  await end();
  await Promise.all(later);
  expect(begun).toHaveLength(2);
  expect(runs.isNextRequested).toBe(false);
});

test("who asks when a run has ended begins the next one at once", async () => {
  const { runs, begun } = controlled();
  const first = runs.request();
  begun[0]?.resolve();
  await first;
  const second = runs.request();
  expect(begun).toHaveLength(2);
  begun[1]?.reject(new Error("no"));
  await second.catch(() => void runs.request());
  expect(begun).toHaveLength(3);
});

test("a run that fails fails those who share it, and the next one begins all the same", async () => {
  const { runs, end } = controlled();
  const first = runs.request();
  const [second, third] = [runs.request(), runs.request()];
  const refused = expect(first).rejects.toThrow("no");
  await end(new Error("no"));
  await refused;
  const refusals = [expect(second).rejects.toThrow("still"), expect(third).rejects.toThrow("still")];
  await end(new Error("still"));
  await Promise.all(refusals);
  const fourth = runs.request();
  await end();
  await fourth;
});

test("other work waits for the run under way, and the next run waits for it", async () => {
  const { runs, begun, end } = controlled();
  const first = runs.request();
  const events: string[] = [];
  const other = Promise.withResolvers<string>();
  const exclusive = runs.exclusively(() => {
    events.push("other");
    return other.promise;
  });
  await turns();
  expect(events).toEqual([]);
  await end();
  await first;
  await turns();
  expect(events).toEqual(["other"]);
  const second = runs.request();
  await turns();
  expect(begun).toHaveLength(1);
  other.resolve("answer");
  expect(await exclusive).toBe("answer");
  await turns();
  await end();
  await second;
  await runs.idle();
});

test("other work that fails is its caller's failure and holds up nothing", async () => {
  const { runs, end } = controlled();
  const failed = runs.exclusively(() => Promise.reject(new Error("no")));
  const run = runs.request();
  await expect(failed).rejects.toThrow("no");
  await turns();
  await end();
  await run;
});

test("a run comes by itself after the longest interval, counted from the end of the last", async () => {
  const { runs, clock, end, times } = controlled({ longestMs: 100 });
  clock.advance(1_000);
  expect(times()).toEqual([]);
  void runs.request();
  clock.advance(40);
  await end();
  clock.advance(99);
  expect(times()).toEqual([1_000]);
  clock.advance(1);
  expect(times()).toEqual([1_000, 1_140]);
  await end();
  // a run in between puts the next one off
  clock.advance(60);
  void runs.request();
  await end();
  clock.advance(99);
  expect(times()).toEqual([1_000, 1_140, 1_200]);
  clock.advance(1);
  expect(times()).toEqual([1_000, 1_140, 1_200, 1_300]);
});

test("the longest interval is cut at random by the part that is allowed", async () => {
  let random = 1;
  const { runs, clock, end } = controlled({ longestMs: 100, jitter: 0.25, random: () => random });
  void runs.request();
  await end();
  expect(clock.nextDueMs()).toBe(75);
  random = 0;
  clock.advance(75);
  await end();
  expect(clock.nextDueMs()).toBe(175);
});

test("a run that is asked for too early waits for the shortest interval, with all who ask meanwhile", async () => {
  const { runs, clock, end, times } = controlled({ shortestMs: 50, longestMs: 20 });
  void runs.request();
  await end();
  clock.advance(10);
  const waiting = [runs.request(), runs.request()];
  runs.requestIn(5);
  clock.advance(39);
  await turns();
  expect(times()).toEqual([0]);
  clock.advance(1);
  await turns();
  expect(times()).toEqual([0, 50]);
  await end();
  await Promise.all(waiting);
  expect(clock.nextDueMs()).toBe(100);
});

test("what is asked for in a while is not put off by who asks later, and a run comes in its place", async () => {
  const { runs, clock, end, times } = controlled();
  runs.requestIn(50);
  clock.advance(30);
  runs.requestIn(50);
  clock.advance(20);
  expect(times()).toEqual([50]);
  // from within the work: the one after it
  runs.requestIn(10);
  await end();
  clock.advance(5);
  void runs.request();
  await turns();
  expect(times()).toEqual([50, 55]);
  await end();
  clock.advance(1_000);
  expect(times()).toEqual([50, 55]);
});

test("after failures the pauses grow up to the longest interval, and a success ends them", async () => {
  const backoff = new Backoff({ baseMs: 10, capMs: 1_000, random: () => 1 });
  const { runs, clock, end } = controlled({ longestMs: 35, backoff });
  runs.request().catch(() => {});
  const pauses: number[] = [];
  for (const failure of [new Error("1"), new Error("2"), new Error("3"), undefined, new Error("4")]) {
    await end(failure);
    const pauseMs = (clock.nextDueMs() ?? 0) - clock.nowMs();
    pauses.push(pauseMs);
    clock.advance(pauseMs);
    await turns();
  }
  expect(pauses).toEqual([10, 20, 35, 35, 10]);
});

test("a stop refuses what has not begun, tells what runs, and waits for it", async () => {
  const { runs, begun, clock, end } = controlled({ longestMs: 10 });
  const first = runs.request();
  const second = runs.request();
  runs.requestIn(5);
  const reason = new Error("stopping");
  let isOver = false;
  const stopped = runs.stop(reason).then(() => {
    isOver = true;
  });
  await expect(second).rejects.toBe(reason);
  await expect(runs.request()).rejects.toBe(reason);
  expect([isOver, begun[0]?.signal.aborted, begun[0]?.signal.reason, clock.pendingCount]).toEqual([
    false,
    true,
    reason,
    0,
  ]);
  await end();
  await Promise.all([first, stopped]);
  runs.requestIn(1);
  expect([begun.length, clock.pendingCount]).toEqual([1, 0]);
  // the last things to do may come after it
  expect(await runs.exclusively(() => Promise.resolve("removed"))).toBe("removed");
});
