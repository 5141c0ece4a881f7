// SPDX-License-Identifier: Apache-2.0
// The clock that tests move: what fires when, and in which order.
import { expect, test } from "vitest";
import { FakeClock } from "../support/fake-clock.ts";

test("timers fire in the order of their time, then of their making, and see their own moment", () => {
  const clock = new FakeClock(100);
  const fired: string[] = [];
  const note = (name: string) => () => void fired.push(`${name} at ${clock.nowMs()}`);
  clock.after(20, note("late"));
  clock.after(10, note("first"));
  clock.after(10, note("second"));
  clock.after(-5, note("at once"));
  expect([clock.pendingCount, clock.nextDueMs()]).toEqual([4, 100]);
  clock.advance(0);
  expect(fired).toEqual(["at once at 100"]);
  clock.advance(19);
  expect(fired.slice(1)).toEqual(["first at 110", "second at 110"]);
  expect([clock.nowMs(), clock.pendingCount, clock.nextDueMs()]).toEqual([119, 1, 120]);
  clock.advance(1);
  expect(fired.at(-1)).toBe("late at 120");
});

test("what is planned while time moves fires in the same move if it is due, and what is cancelled never", () => {
  const clock = new FakeClock();
  const fired: number[] = [];
  const tick = (): void => {
    fired.push(clock.nowMs());
    clock.after(10, tick);
  };
  tick();
  const cancelled = clock.after(25, () => fired.push(-1));
  clock.after(15, () => cancelled.cancel());
  clock.advance(45);
  expect(fired).toEqual([0, 10, 20, 30, 40]);
  cancelled.cancel();
  expect(clock.pendingCount).toBe(1);
});

test("a sleep ends with its time or with its signal", async () => {
  const clock = new FakeClock();
  const stop = new AbortController();
  const slept = clock.sleep(5, stop.signal);
  clock.advance(5);
  await slept;
  const cut = clock.sleep(5, stop.signal);
  stop.abort(new Error("stopped"));
  await expect(cut).rejects.toThrow("stopped");
  await expect(clock.sleep(5, stop.signal)).rejects.toThrow("stopped");
  expect(clock.pendingCount).toBe(0);
});
