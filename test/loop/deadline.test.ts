// SPDX-License-Identifier: Apache-2.0
// Waits that end: in time, too late, given up.
import { expect, test } from "vitest";
import { DeadlineError, unlessLate, within } from "../../src/loop/deadline.ts";
import { FakeClock } from "../support/fake-clock.ts";

const never = new Promise<string>(() => {});

test("what comes in time is given, and no timer is left", async () => {
  const clock = new FakeClock();
  expect(await within(Promise.resolve("here"), { ms: 5, clock })).toBe("here");
  expect(await unlessLate(Promise.resolve("here"), { ms: 5, clock })).toBe("here");
  await expect(within(Promise.reject(new Error("no")), { ms: 5, clock })).rejects.toThrow("no");
  expect(clock.pendingCount).toBe(0);
});

test("what is late is an error with the message, or nothing", async () => {
  const clock = new FakeClock();
  const waits = [
    within(never, { ms: 5, clock, message: "the pod did not answer" }),
    unlessLate(never, { ms: 5, clock }),
  ];
  clock.advance(4);
  expect(clock.pendingCount).toBe(2);
  clock.advance(1);
  const [first, second] = await Promise.allSettled(waits);
  expect(first).toEqual({ status: "rejected", reason: new DeadlineError("the pod did not answer") });
  expect(second).toEqual({ status: "fulfilled", value: undefined });
});

test("a failure that comes too late is nobody's", async () => {
  const clock = new FakeClock();
  const slow = Promise.withResolvers<void>();
  const waited = unlessLate(slow.promise, { ms: 5, clock });
  clock.advance(5);
  await waited;
  slow.reject(new Error("unheard"));
  await new Promise((resolve) => setImmediate(resolve));
});

test("a signal ends the wait with its reason, also when it came first", async () => {
  const clock = new FakeClock();
  const stop = new AbortController();
  const waited = within(never, { ms: 5, clock, signal: stop.signal });
  stop.abort(new Error("stopping"));
  await expect(waited).rejects.toThrow("stopping");
  await expect(unlessLate(never, { ms: 5, clock, signal: stop.signal })).rejects.toThrow("stopping");
  expect(clock.pendingCount).toBe(0);
});

test("the machine's clock is the default", async () => {
  await expect(within(never, { ms: 1 })).rejects.toThrow("within 1 ms");
});
