// SPDX-License-Identifier: Apache-2.0
// So many at a time, in order, and nobody keeps a place.
import { expect, test } from "vitest";
import { forEachLimited, Limit } from "../../src/loop/limit.ts";

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Work that ends when the test says so. */
function works(count: number): {
  begun: number[];
  ends: PromiseWithResolvers<void>[];
  work: (index: number) => Promise<void>;
} {
  const begun: number[] = [];
  const ends = Array.from({ length: count }, () => Promise.withResolvers<void>());
  const work = (index: number): Promise<void> => {
    begun.push(index);
    return ends[index]?.promise ?? Promise.resolve();
  };
  return { begun, ends, work };
}

test("no more run than there are places, and who waits is served in order", async () => {
  const { begun, ends, work } = works(4);
  const limit = new Limit(2);
  const all = [0, 1, 2, 3].map((index) => limit.run(() => work(index)));
  await turn();
  expect(begun).toEqual([0, 1]);
  ends[1]?.resolve();
  await turn();
  expect(begun).toEqual([0, 1, 2]);
  ends[0]?.reject(new Error("no"));
  await expect(all[0]).rejects.toThrow("no");
  await turn();
  expect(begun).toEqual([0, 1, 2, 3]);
  ends[2]?.resolve();
  ends[3]?.resolve();
  await Promise.all(all.slice(1));
});

test("who gives up waiting takes no place, and the one behind moves up", async () => {
  const { begun, ends, work } = works(3);
  const limit = new Limit(1);
  const stop = new AbortController();
  const first = limit.run(() => work(0));
  const given = limit.run(() => work(1), { signal: stop.signal });
  const last = limit.run(() => work(2), { signal: stop.signal });
  await turn();
  const refused = expect(given).rejects.toThrow("enough");
  const alsoRefused = expect(last).rejects.toThrow("enough");
  stop.abort(new Error("enough"));
  await Promise.all([refused, alsoRefused]);
  await expect(limit.run(() => work(1), { signal: stop.signal })).rejects.toThrow("enough");
  ends[0]?.resolve();
  await first;
  expect(await limit.run(() => Promise.resolve("free again"))).toBe("free again");
  expect(begun).toEqual([0]);
});

test("a signal that comes during the work leaves it alone", async () => {
  const { ends, work } = works(1);
  const limit = new Limit(1);
  const stop = new AbortController();
  const running = limit.run(() => work(0), { signal: stop.signal });
  await turn();
  stop.abort();
  ends[0]?.resolve();
  await running;
});

test("each item is worked on once, and all end before the first failure is told", async () => {
  const { begun, ends, work } = works(3);
  const done = forEachLimited([0, 1, 2], work, { places: 2 });
  let isOver = false;
  done
    .catch(() => {})
    .finally(() => {
      isOver = true;
    });
  await turn();
  ends[1]?.reject(new Error("one"));
  await turn();
  ends[0]?.reject(new Error("zero"));
  await turn();
  expect([begun, isOver]).toEqual([[0, 1, 2], false]);
  ends[2]?.resolve();
  await expect(done).rejects.toThrow("zero");
});
