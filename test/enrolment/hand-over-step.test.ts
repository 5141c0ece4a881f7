// SPDX-License-Identifier: Apache-2.0
// A pod's namespace goes to ztunnel once, whether somebody waits for the answer at once or only when the rules stand.
import { expect, test } from "vitest";
import { handOver, tell } from "../../src/enrolment/hand-over-step.ts";
import { PodHistory } from "../../src/enrolment/pod-history.ts";
import { PodRecord } from "../../src/enrolment/pod-record.ts";
import { systemClock } from "../../src/loop/clock.ts";
import type { RosterEntry } from "../../src/ztunnel/workload.ts";
import { ZdsError } from "../../src/ztunnel/zds-error.ts";
import { podOf, sandboxOf, shop } from "./pure-pod.ts";

const pod = podOf({ phase: "Pending" });
const sandbox = sandboxOf("A", { isNew: true });
const other = sandboxOf("B", { isNew: true });

/** A ztunnel that answers when the test says so. */
function scripted() {
  const asked: { key: string | undefined; answer: PromiseWithResolvers<void> }[] = [];
  const ztunnel = {
    add: ({ netns }: RosterEntry) => {
      const answer = Promise.withResolvers<void>();
      asked.push({ key: netns?.key, answer });
      return answer.promise;
    },
  };
  const record = new PodRecord(pod.uid);
  record.put({ type: "added", pod, namespace: shop, sandbox });
  record.read(0);
  const parts = {
    ztunnel,
    record,
    history: new PodHistory(),
    clock: systemClock,
    annotations: { set: () => {} },
    portHolders: async () => [],
  } as unknown as Parameters<typeof handOver>[2];
  return {
    asked,
    tell: (to = sandbox) => tell({ do: "tell", pod, sandbox: to }, record, parts),
    handOver: (to = sandbox) => handOver({ do: "hand-over", pod, sandbox: to }, record, parts),
  };
}

test("who was told is not told again: the answer is waited for", async () => {
  const { asked, tell, handOver } = scripted();
  tell();
  const done = handOver();
  asked[0]?.answer.resolve();
  await done;
  expect(asked.map(({ key }) => key)).toEqual(["A"]);
});

test("a refusal reaches whoever waits, and the next time is asked anew", async () => {
  const { asked, tell, handOver } = scripted();
  tell();
  asked[0]?.answer.reject(new ZdsError("NACK", "ztunnel refused: no"));
  await expect(handOver()).rejects.toMatchObject({ code: "NACK" });
  const again = handOver();
  asked[1]?.answer.resolve();
  await again;
  expect(asked).toHaveLength(2);
});

test("what was said of another namespace is no answer", async () => {
  const { asked, tell, handOver } = scripted();
  tell();
  asked[0]?.answer.resolve();
  const done = handOver(other);
  asked[1]?.answer.resolve();
  await done;
  expect(asked.map(({ key }) => key)).toEqual(["A", "B"]);
});

test("a ztunnel that has acknowledged and gone meanwhile is asked again, each time", async () => {
  const { asked, tell, handOver } = scripted();
  tell();
  asked[0]?.answer.resolve();
  await handOver();
  const again = handOver();
  asked[1]?.answer.reject(new ZdsError("NO_CONNECTION", "no ztunnel connection"));
  await expect(again).rejects.toMatchObject({ code: "NO_CONNECTION" });
});
