// SPDX-License-Identifier: Apache-2.0
// What an ADD is told that waited for a ztunnel in vain.
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
