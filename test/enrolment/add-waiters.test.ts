// SPDX-License-Identifier: Apache-2.0
// What they are told that waited for a pod's capture in vain: ADDs, and the runtime's word, which does not wait for a ztunnel.
import { expect, test } from "vitest";
import { AddWaiters } from "../../src/enrolment/add-waiters.ts";
import { failureOf } from "../../src/enrolment/failure.ts";
import type { PodRecord } from "../../src/enrolment/pod-record.ts";
import { FakeClock } from "../support/fake-clock.ts";

const ztunnel = /^no ztunnel connection for 20 s; check the ztunnel pod of this node/;
const started =
  /^the agent has just started and has not gone through the pods of this node yet for 20 s; the log/;
const lists =
  /^the agent has not got the lists of pods and namespaces from the API server yet for 20 s; the log/;

test.each([
  { isStarted: true, isFresh: true, expected: ztunnel },
  { isStarted: true, isFresh: false, expected: ztunnel },
  // no ztunnel may connect before that: looking at its pod would not help
  { isStarted: false, isFresh: true, expected: started },
  { isStarted: false, isFresh: false, expected: lists },
])("with started $isStarted and lists $isFresh", async ({ isStarted, isFresh, expected }) => {
  const clock = new FakeClock();
  const waiters = new AddWaiters({
    ...{ clock, ztunnelWaitMs: 20_000, ztunnel: { connectionCount: 0 } },
    ...{ node: { isFresh: () => isFresh }, isStarted: () => isStarted, onlate: () => {} },
  });
  const { answer } = waiters.wait({ waiters: new Set() } as unknown as PodRecord, "4:1");
  const failure = answer.then(
    () => "",
    (error: unknown) => `${failureOf(error).message}${failureOf(error).remedy}`,
  );
  clock.advance(20_000);
  expect(await failure).toMatch(expected);
});

test.each([
  [1_000, "it is not captured within 1 s"],
  // granted nothing, for there was no ztunnel when it came; one has connected since
  [0, "it is not captured yet"],
])("whose sandbox goes on after %d ms", async (waitMs, expected) => {
  const clock = new FakeClock();
  const waiters = new AddWaiters({
    ...{ clock, ztunnelWaitMs: 20_000, ztunnel: { connectionCount: 1 } },
    ...{ node: { isFresh: () => true }, isStarted: () => true, onlate: () => {} },
  });
  const { answer } = waiters.wait({ waiters: new Set() } as unknown as PodRecord, "4:1", { waitMs });
  const failure = expect(answer).rejects.toThrow(new Error(expected));
  clock.advance(waitMs);
  await failure;
});
