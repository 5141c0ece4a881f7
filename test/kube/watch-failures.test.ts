// SPDX-License-Identifier: Apache-2.0
// How long a failed watch waits: what it is woken by, what it is not, and how often.
import { beforeEach, expect, test } from "vitest";
import { ApiError } from "../../src/kube/api-error.ts";
import { WatchFailures } from "../../src/kube/watch-failures.ts";
import { Backoff } from "../../src/loop/backoff.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { recordingLogger } from "./kube-fixture.ts";

/** Knows which sleeps were asked for. */
class ManualClock extends FakeClock {
  readonly asked: number[] = [];

  override sleep(ms: number, signal: AbortSignal): Promise<void> {
    this.asked.push(Math.round(ms));
    return super.sleep(ms, signal);
  }

  /** Lets the sleep under way last its whole time. */
  async wake(): Promise<void> {
    this.advance((this.nextDueMs() ?? this.nowMs()) - this.nowMs());
    await settle();
  }
}

const settle = () => new Promise<void>((resolve) => setImmediate(resolve));
const refused = new ApiError("x", { reason: "Unreachable", cause: { code: "ECONNREFUSED" } });
const unavailable = new ApiError("x", { status: 503, reason: "ServiceUnavailable" });
const busy = new ApiError("x", { status: 429, reason: "TooManyRequests", retryAfterMs: 3_000 });

let clock: ManualClock;
let failures: WatchFailures;
let random: number;
const stop = new AbortController();

function make(baseMs: number): void {
  clock = new ManualClock();
  random = 1;
  const backoff = new Backoff({ baseMs, capMs: 30_000, random: () => 1 });
  failures = new WatchFailures({
    what: "pods",
    log: recordingLogger(),
    clock,
    random: () => random,
    backoff,
  });
}
beforeEach(() => make(20_000));

/** Begins a pause. @returns whether it has ended */
function pause(error: unknown): () => boolean {
  let isOver = false;
  void failures.pauseAfter(error, stop.signal).then(() => {
    isOver = true;
  });
  return () => isOver;
}

test.each([
  ["a refused connection", "ECONNREFUSED", 10_000],
  ["a host without a way to it", "EHOSTUNREACH", 10_000],
  ["a certificate that has expired", "CERT_HAS_EXPIRED", 30_000],
])("after %s pauses grow to their own cap", async (_, code, capMs) => {
  make(250);
  for (let times = 0; times < 9; times++) {
    const isOver = pause(new ApiError("x", { reason: "Unreachable", cause: { code } }));
    await clock.wake();
    expect(isOver()).toBe(true);
  }
  expect(Math.max(...clock.asked)).toBe(capMs);
});

test.each([0, 0.25, 1])(
  "a pause that is cut lasts up to a second more, spread over the nodes (%d)",
  async (part) => {
    random = part;
    const isOver = pause(unavailable);
    failures.retrySoon();
    await settle();
    expect(clock.asked).toEqual([20_000, 1000 * part]);
    expect(isOver()).toBe(false);
    await clock.wake();
    expect(isOver()).toBe(true);
  },
);

test("two pauses within 10 s are not both cut", async () => {
  pause(unavailable);
  failures.retrySoon();
  await settle();
  await clock.wake();
  const second = pause(unavailable);
  clock.advance(8_000);
  failures.retrySoon();
  await settle();
  expect(clock.asked).toEqual([20_000, 1_000, 30_000]);
  clock.advance(1_000);
  failures.retrySoon();
  await settle();
  expect(clock.asked).toEqual([20_000, 1_000, 30_000, 1_000]);
  await clock.wake();
  expect(second()).toBe(true);
});

test("a word that comes during a try cuts the pause after it", async () => {
  pause(refused);
  await clock.wake();
  failures.retrySoon();
  const isOver = pause(refused);
  await settle();
  expect(clock.asked).toEqual([10_000, 1_000]);
  await clock.wake();
  expect(isOver()).toBe(true);
});

test("a word that comes while all is well is none about the next failure", async () => {
  failures.retrySoon();
  pause(unavailable);
  await clock.wake();
  failures.retrySoon();
  failures.noteSuccess();
  pause(unavailable);
  await settle();
  expect(clock.asked).toEqual([20_000, 20_000]);
});

test("what the server asked for is waited for, the rest can be cut", async () => {
  const isOver = pause(busy);
  failures.retrySoon();
  await settle();
  expect(clock.asked).toEqual([3_000]);
  await clock.wake();
  expect(clock.asked).toEqual([3_000, 1_000]);
  await clock.wake();
  expect(isOver()).toBe(true);
  make(250);
  const short = pause(busy);
  await clock.wake();
  expect(short()).toBe(true);
  expect(clock.asked).toEqual([3_000]);
});

test("a pause ends at once when everything ends", async () => {
  const ending = new AbortController();
  const pausing = failures.pauseAfter(unavailable, ending.signal);
  ending.abort();
  await pausing;
  expect(clock.asked).toEqual([20_000]);
});
