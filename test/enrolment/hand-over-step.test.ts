// SPDX-License-Identifier: Apache-2.0
// A pod's namespace goes to ztunnel once, whether somebody waits for the answer at once or only when the rules stand.
import { expect, test } from "vitest";
import { callOff, handOver, tellZtunnel } from "../../src/enrolment/hand-over-step.ts";
import { PodHistory } from "../../src/enrolment/pod-history.ts";
import { PodRecord } from "../../src/enrolment/pod-record.ts";
import { systemClock } from "../../src/loop/clock.ts";
import type { RosterEntry } from "../../src/ztunnel/workload.ts";
import { ZdsError } from "../../src/ztunnel/zds-error.ts";
import { podOf, sandboxOf, shop } from "./pure-pod.ts";

const pod = podOf({ phase: "Pending" });
const sandbox = sandboxOf("A", { isNew: true });
const other = sandboxOf("B", { isNew: true });

/** Whatever is under way without a wait is done. */
const settled = () => new Promise((done) => setImmediate(done));

/** A ztunnel that answers when the test says so. */
function scripted({ isUp = true } = {}) {
  const asked: { key: string | undefined; answer: PromiseWithResolvers<void> }[] = [];
  const ztunnel = {
    add: ({ netns }: RosterEntry) => {
      const answer = Promise.withResolvers<void>();
      asked.push({ key: netns?.key, answer });
      return answer.promise;
    },
  };
  const up = Promise.withResolvers<void>();
  if (isUp) up.resolve();
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
    up,
    callOff: () => callOff(record),
    tell: async (to = sandbox) => {
      tellZtunnel({ do: "tell", pod, sandbox: to }, record, {
        ztunnel,
        redirection: { untilUp: () => up.promise },
      });
      await settled();
    },
    handOver: (to = sandbox) => handOver({ do: "hand-over", pod, sandbox: to }, record, parts),
  };
}

test("who was told is not told again: the answer is waited for", async () => {
  const { asked, tell, handOver } = scripted();
  await tell();
  const done = handOver();
  asked[0]?.answer.resolve();
  await done;
  expect(asked.map(({ key }) => key)).toEqual(["A"]);
});

test("a refusal reaches whoever waits, and the next time is asked anew", async () => {
  const { asked, tell, handOver } = scripted();
  await tell();
  asked[0]?.answer.reject(new ZdsError("NACK", "ztunnel refused: no"));
  await expect(handOver()).rejects.toMatchObject({ code: "NACK" });
  const again = handOver();
  asked[1]?.answer.resolve();
  await again;
  expect(asked).toHaveLength(2);
});

test("what was said of another namespace is no answer", async () => {
  const { asked, tell, handOver } = scripted();
  await tell();
  asked[0]?.answer.resolve();
  const done = handOver(other);
  asked[1]?.answer.resolve();
  await done;
  expect(asked.map(({ key }) => key)).toEqual(["A", "B"]);
});

test("a ztunnel that has acknowledged and gone meanwhile is asked again, each time", async () => {
  const { asked, tell, handOver } = scripted();
  await tell();
  asked[0]?.answer.resolve();
  await handOver();
  const again = handOver();
  asked[1]?.answer.reject(new ZdsError("NO_CONNECTION", "no ztunnel connection"));
  await expect(again).rejects.toMatchObject({ code: "NO_CONNECTION" });
});

test("nobody is told of a namespace whose loopback device is down: ztunnel would refuse it", async () => {
  const { asked, up, tell, handOver } = scripted({ isUp: false });
  await tell();
  const done = handOver();
  await settled();
  expect(asked).toEqual([]);
  up.resolve();
  await settled();
  asked[0]?.answer.resolve();
  await done;
  expect(asked).toHaveLength(1);
});

test("what is given up before it was told is never told", async () => {
  const { asked, up, tell, callOff } = scripted({ isUp: false });
  await tell();
  callOff();
  up.resolve();
  await settled();
  expect(asked).toEqual([]);
});

test("a loopback device that stays down is what the ADD fails with", async () => {
  const { up, tell, handOver } = scripted({ isUp: false });
  await tell();
  up.reject(new Error("ENETDOWN"));
  await expect(handOver()).rejects.toThrow("ENETDOWN");
});
