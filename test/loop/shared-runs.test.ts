// SPDX-License-Identifier: Apache-2.0
// Runs are shared and never overlap.
import { expect, test } from "vitest";
import { SharedRuns } from "../../src/loop/shared-runs.ts";

/** Work whose runs end when the test says so. */
function controlled(): { runs: SharedRuns; begun: PromiseWithResolvers<void>[] } {
  const begun: PromiseWithResolvers<void>[] = [];
  const runs = new SharedRuns(() => {
    const run = Promise.withResolvers<void>();
    begun.push(run);
    return run.promise;
  });
  return { runs, begun };
}

async function turns(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
}

test("all who ask during a run share one run after it", async () => {
  const { runs, begun } = controlled();
  const first = runs.request();
  const later = [runs.request(), runs.request(), runs.request()];
  expect(runs.isNextRequested).toBe(true);
  begun[0]?.resolve();
  await first;
  await turns();
  expect(begun).toHaveLength(2);
  begun[1]?.resolve();
  await Promise.all(later);
  expect(begun).toHaveLength(2);
  expect(runs.isNextRequested).toBe(false);
});

test("a run that fails fails those who share it, and the next one begins all the same", async () => {
  const { runs, begun } = controlled();
  const first = runs.request();
  const second = runs.request();
  begun[0]?.reject(new Error("no"));
  await expect(first).rejects.toThrow("no");
  await turns();
  begun[1]?.resolve();
  await second;
});

test("other work waits for the run under way, and the next run waits for it", async () => {
  const { runs, begun } = controlled();
  const first = runs.request();
  const events: string[] = [];
  const other = Promise.withResolvers<string>();
  const exclusive = runs.exclusively(() => {
    events.push("other");
    return other.promise;
  });
  await turns();
  expect(events).toEqual([]);
  begun[0]?.resolve();
  await first;
  await turns();
  expect(events).toEqual(["other"]);
  const second = runs.request();
  await turns();
  expect(begun).toHaveLength(1);
  other.resolve("answer");
  expect(await exclusive).toBe("answer");
  await turns();
  begun[1]?.resolve();
  await second;
  await runs.idle();
});
