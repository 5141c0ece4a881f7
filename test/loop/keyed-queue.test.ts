// SPDX-License-Identifier: Apache-2.0
// Runs of a queue: never twice at once for a key, shared, bounded, and planned on a clock.
import { expect, test } from "vitest";
import { KeyedQueue } from "../../src/loop/keyed-queue.ts";
import { FakeClock } from "../support/fake-clock.ts";

/** A run that ends when the test says so. */
class Runs {
  readonly started: string[] = [];
  readonly #pending: PromiseWithResolvers<string>[] = [];
  active = 0;
  maxActive = 0;

  run = async (key: string): Promise<string> => {
    this.started.push(key);
    this.active++;
    this.maxActive = Math.max(this.maxActive, this.active);
    const pending = Promise.withResolvers<string>();
    this.#pending.push(pending);
    try {
      return await pending.promise;
    } finally {
      this.active--;
    }
  };

  end(outcome: string | Error): Promise<void> {
    const pending = this.#pending.shift();
    if (outcome instanceof Error) pending?.reject(outcome);
    else pending?.resolve(outcome);
    return new Promise((resolve) => setImmediate(resolve));
  }
}

test("a key never runs twice at once, and requests during a run become one more run", async () => {
  const runs = new Runs();
  const queue = new KeyedQueue({ concurrency: 8, run: runs.run });
  const first = queue.run("a");
  const second = queue.run("a");
  const third = queue.run("a");
  expect(runs.started).toEqual(["a"]);
  await runs.end("one");
  expect(await first).toBe("one");
  expect(runs.started).toEqual(["a", "a"]);
  await runs.end("two");
  expect(await Promise.all([second, third])).toEqual(["two", "two"]);
  expect(runs.maxActive).toBe(1);
});

test("a request made before the first run has begun shares that run", async () => {
  const runs = new Runs();
  const queue = new KeyedQueue({ concurrency: 1, run: runs.run });
  const blocker = queue.run("z");
  const waiting = [queue.run("a"), queue.run("a")];
  await runs.end("done");
  await blocker;
  await runs.end("a once");
  expect(await Promise.all(waiting)).toEqual(["a once", "a once"]);
  expect(runs.started).toEqual(["z", "a"]);
});

test("no more keys run at once than allowed, and all come to their turn", async () => {
  const runs = new Runs();
  const queue = new KeyedQueue({ concurrency: 2, run: runs.run });
  const all = ["a", "b", "c", "d", "e"].map((key) => queue.run(key));
  for (const _ of all) await runs.end("ok");
  await Promise.all(all);
  expect(runs.maxActive).toBe(2);
  expect(runs.started).toEqual(["a", "b", "c", "d", "e"]);
});

test("a failure reaches those who wait and nobody else", async () => {
  const runs = new Runs();
  const queue = new KeyedQueue({ concurrency: 2, run: runs.run });
  queue.request("silent");
  await runs.end(new Error("unheard"));
  const waited = queue.run("loud");
  await Promise.all([expect(waited).rejects.toThrow("heard"), runs.end(new Error("heard"))]);
});

test("a planned run begins at its time, and the newest plan counts", async () => {
  const runs = new Runs();
  const clock = new FakeClock();
  const queue = new KeyedQueue({ concurrency: 2, run: runs.run, clock });
  queue.requestAfter("a", 5);
  queue.requestAfter("a", 10);
  clock.advance(9);
  expect(runs.started).toEqual([]);
  clock.advance(1);
  expect(runs.started).toEqual(["a"]);
  // planned by the run itself, as most are
  queue.requestAfter("a", 7);
  await runs.end("ok");
  clock.advance(7);
  expect(runs.started).toEqual(["a", "a"]);
  await runs.end("ok");
  expect(clock.pendingCount).toBe(0);
});

test("a planned run gives way to an earlier request", async () => {
  const runs = new Runs();
  const clock = new FakeClock();
  const queue = new KeyedQueue({ concurrency: 2, run: runs.run, clock });
  queue.requestAfter("a", 5);
  const now = queue.run("a");
  expect(clock.pendingCount).toBe(0);
  await runs.end("ok");
  await now;
  clock.advance(1_000);
  expect(runs.started).toEqual(["a"]);
});

test("a queue that is stopped plans nothing", async () => {
  const runs = new Runs();
  const clock = new FakeClock();
  const queue = new KeyedQueue({ concurrency: 2, run: runs.run, clock });
  queue.requestAfter("a", 5);
  await queue.stop();
  queue.requestAfter("b", 5);
  expect(clock.pendingCount).toBe(0);
});

test("stop refuses what is planned and waits for what runs", async () => {
  const runs = new Runs();
  const queue = new KeyedQueue({ concurrency: 1, run: runs.run });
  const running = queue.run("a");
  const planned = queue.run("b");
  const stopped = queue.stop();
  await expect(planned).rejects.toThrow("stopping");
  await expect(queue.run("c")).rejects.toThrow("stopping");
  await runs.end("ok");
  await Promise.all([running, stopped]);
  expect(runs.started).toEqual(["a"]);
});

test("an urgent run waits for none that is not, and has places that no other takes", async () => {
  const runs = new Runs();
  const queue = new KeyedQueue({ concurrency: 2, run: runs.run });
  for (const key of ["slow1", "slow2", "slow3"]) queue.request(key);
  queue.request("add1", { isUrgent: true });
  queue.request("add2", { isUrgent: true });
  queue.request("add3", { isUrgent: true });
  expect(runs.started).toEqual(["slow1", "slow2", "add1", "add2"]);
  // the places of those that are not stay theirs
  for (let index = 0; index < 2; index++) await runs.end("slow");
  expect(runs.started).toEqual(["slow1", "slow2", "add1", "add2", "slow3"]);
  await runs.end("add");
  expect(runs.started.at(-1)).toBe("add3");
  expect(runs.maxActive).toBe(4);
});

test("what waits for a place becomes urgent with who asks for it so, and is one run", async () => {
  const runs = new Runs();
  const queue = new KeyedQueue({ concurrency: 1, run: runs.run });
  queue.request("slow");
  const waiting = queue.run("a");
  expect(runs.started).toEqual(["slow"]);
  const urgent = queue.run("a", { isUrgent: true });
  expect(runs.started).toEqual(["slow", "a"]);
  await runs.end("slow's");
  await runs.end("a's");
  expect(await Promise.all([waiting, urgent])).toEqual(["a's", "a's"]);
  queue.request("a", { isUrgent: false });
  expect(runs.started).toEqual(["slow", "a", "a"]);
  await runs.end("again");
  await queue.stop();
});

test("an urgent request during a run of the key is urgent when that has ended", async () => {
  const runs = new Runs();
  const queue = new KeyedQueue({ concurrency: 1, run: runs.run });
  queue.request("a");
  queue.request("b");
  queue.request("a", { isUrgent: true });
  expect(runs.started).toEqual(["a"]);
  await runs.end("first");
  expect(runs.started.sort()).toEqual(["a", "a", "b"]);
});

test("a key is busy from the request to the end of its last run, and not while a run is only planned", async () => {
  const runs = new Runs();
  const clock = new FakeClock();
  const queue = new KeyedQueue({ concurrency: 1, run: runs.run, clock });
  queue.request("a");
  queue.request("b");
  expect([queue.isBusy("a"), queue.isBusy("b"), queue.isBusy("c")]).toEqual([true, true, false]);
  queue.request("a");
  await runs.end("first");
  expect(queue.isBusy("a")).toBe(true);
  await runs.end("b");
  expect([queue.isBusy("a"), queue.isBusy("b")]).toEqual([true, false]);
  await runs.end("second");
  queue.requestAfter("a", 1_000);
  expect(queue.isBusy("a")).toBe(false);
});
