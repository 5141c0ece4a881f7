// SPDX-License-Identifier: Apache-2.0
// Waiting for parallel work to the end, and queueing work on the same thing.
import { expect, test } from "vitest";
import { allDone } from "../../src/loop/all-done.ts";
import { KeyedMutex } from "../../src/loop/keyed-mutex.ts";

test("allDone gives all results in order", async () => {
  expect(await allDone([Promise.resolve(1), Promise.resolve("two")])).toEqual([1, "two"]);
});

test("allDone settles after the last, with the first failure of the list", async () => {
  const slow = Promise.withResolvers<void>();
  let settled = false;
  const all = allDone([slow.promise, Promise.reject(new Error("one")), Promise.reject(new Error("two"))]);
  const watched = all.catch((error: Error) => {
    settled = true;
    return error.message;
  });
  await new Promise(setImmediate);
  expect(settled).toBe(false);
  slow.resolve();
  expect(await watched).toBe("one");
});

test("work with one key runs in turn, past failures, and other keys do not wait", async () => {
  const queue = new KeyedMutex();
  const first = Promise.withResolvers<void>();
  const log: string[] = [];
  const work =
    (name: string, until: Promise<void> = Promise.resolve()) =>
    async () => {
      log.push(`${name} starts`);
      await until;
      log.push(`${name} ends`);
    };
  const fails = async () => {
    log.push("fails");
    throw new Error("no");
  };
  const a1 = queue.run("a", work("a1", first.promise));
  const a2 = queue.run("a", fails);
  const a3 = queue.run("a", work("a3"));
  await queue.run("b", work("b"));
  expect(log).toEqual(["a1 starts", "b starts", "b ends"]);
  first.resolve();
  await expect(a2).rejects.toThrow("no");
  await Promise.all([a1, a3]);
  expect(log.slice(3)).toEqual(["a1 ends", "fails", "a3 starts", "a3 ends"]);
});
