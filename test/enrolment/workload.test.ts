// SPDX-License-Identifier: Apache-2.0
// One pod as a value: what each message makes of it, and what its phase says.
import { describe, expect, test } from "vitest";
import {
  absorb,
  adopt,
  createWorkload,
  isEmpty,
  isTouched,
  type LeavingStage,
  type Message,
  newestFacts,
  type Phase,
  reject,
  rulesProved,
  rulesStand,
  type Workload,
} from "../../src/enrolment/workload.ts";
import { podOf, sandboxOf, shop, workloadOf } from "./pure-pod.ts";

const empty = createWorkload("u1");
const captured = workloadOf({ phase: { at: "captured" } });
const nowMs = 1_000;

function leaving(stage: LeavingStage, change: { hadRules?: boolean; wasCaptured?: boolean } = {}): Phase {
  return {
    at: "leaving",
    stage,
    sinceMs: 0,
    hadRules: true,
    wasCaptured: true,
    wasAnnounced: true,
    ...change,
  };
}

function told(workload: Workload, ...messages: readonly Message[]): Workload {
  return messages.reduce((known, message) => absorb(known, message, nowMs), workload);
}

describe("facts", () => {
  test("newer ones are taken over, older ones are not", () => {
    const newer = podOf({ resourceVersion: "10" });
    const older = podOf({ resourceVersion: "9" });
    expect(told(empty, { type: "facts", pod: older }, { type: "facts", pod: newer }).pod).toBe(newer);
    expect(told(empty, { type: "facts", pod: newer }, { type: "facts", pod: older }).pod).toBe(newer);
  });

  test("older ones are, once the store was set back, and those of their namespace", () => {
    const newer = workloadOf({
      pod: podOf({ resourceVersion: "10" }),
      namespaceHint: { ...shop, resourceVersion: "10" },
    });
    const older = podOf({ resourceVersion: "9" });
    const after = told(newer, { type: "set-back" }, { type: "facts", pod: older });
    expect(after.pod).toBe(older);
    expect(newestFacts(after.namespaceHint, shop)).toBe(shop);
    expect(told(workloadOf({ pod: undefined }), { type: "set-back" }).pod).toBeUndefined();
  });

  test.each([
    ["the first ones", undefined, "1", "offered"],
    ["newer ones", "1", "2", "offered"],
    ["equal ones, for what else came with them", "2", "2", "offered"],
    ["older ones", "10", "9", "known"],
    ["ones whose age cannot be told", "1", "", "offered"],
  ])("of %s the newest stay", (_, known, offered, which) => {
    const [a, b] = [
      known === undefined ? undefined : { resourceVersion: known },
      { resourceVersion: offered },
    ];
    expect(newestFacts(a, b)).toBe(which === "offered" ? b : a);
  });

  test("of a deleted pod take its sandbox away, and nothing of it is forgotten to be cleared", () => {
    const gone = told(captured, { type: "facts", pod: undefined });
    expect(gone).toMatchObject({ pod: undefined, sandbox: undefined, phase: { at: "ended" } });
    expect(gone.stale).toEqual([captured.sandbox]);
  });

  test("of a deleted pod that was never touched leave nothing to tell ztunnel", () => {
    expect(told(workloadOf(), { type: "facts", pod: undefined }).phase).toEqual({ at: "outside" });
  });
});

describe("added", () => {
  const added = (key: string, isNew = true): Message => ({
    type: "added",
    pod: podOf({ resourceVersion: "5" }),
    namespace: shop,
    sandbox: sandboxOf(key, { isNew }),
  });

  test("brings pod, namespace and sandbox, and a new one needs no look inside", () => {
    const known = told(empty, added("A"));
    expect(known).toMatchObject({
      pod: { resourceVersion: "5" },
      namespaceHint: shop,
      sandbox: { netns: { key: "A" } },
      isInspected: true,
      phase: { at: "outside" },
    });
  });

  test("of a sandbox in which processes may run is looked into", () => {
    expect(told(empty, added("A", false)).isInspected).toBe(false);
  });

  test("of another sandbox makes the one before it stale, and it counts for nothing", () => {
    const known = told(captured, added("B"));
    expect(known).toMatchObject({ sandbox: { netns: { key: "B" } }, phase: { at: "told" } });
    expect(known.stale).toEqual([captured.sandbox]);
  });

  test("of the same namespace again is one sandbox: what is known of it stays, the second handle is closed", () => {
    const message = added("A");
    const known = told(captured, message);
    expect(known.phase).toEqual({ at: "captured" });
    expect(known.sandbox?.netns).toBe(captured.sandbox?.netns);
    expect(known.sandbox?.isNew).toBe(false);
    expect(known.surplus).toEqual([message.type === "added" ? message.sandbox.netns : undefined]);
    expect(known.stale).toEqual([]);
  });

  test("ends what was believed of an earlier end, and every doubt", () => {
    const before = { ...captured, doubtedMs: 1, ended: { key: "A", atMs: 1 }, isUnseen: true };
    expect(told(before, added("B"))).toMatchObject({
      doubtedMs: undefined,
      ended: undefined,
      isUnseen: false,
    });
  });
});

describe.each(["ended", "doubted"] as const)("%s", (type) => {
  const isHeard = (workload: Workload): boolean =>
    type === "ended" ? workload.sandbox === undefined : workload.doubtedMs === nowMs;

  test.each([
    ["its container", "container-A", undefined, true],
    ["its namespace", "", "A", true],
    ["its container, whatever the namespace is now", "container-A", "B", true],
    ["another container", "container-B", undefined, false],
    ["another namespace", "container-B", "B", false],
    ["nothing", "", undefined, false],
  ])("that names %s counts: %#", (_, containerId, netnsKey, counts) => {
    expect(isHeard(told(captured, { type, containerId, netnsKey }))).toBe(counts);
  });

  test("of an earlier sandbox does not take the newer one away", () => {
    const newer = adopt(captured, sandboxOf("B"));
    expect(told(newer, { type, containerId: "container-A", netnsKey: "A" })).toBe(newer);
  });

  test("of a sandbox whose container is not known is not taken for its own by an empty name", () => {
    const found = workloadOf({ sandbox: sandboxOf("A", { containerId: "" }) });
    expect(told(found, { type, containerId: "", netnsKey: "B" })).toBe(found);
  });

  test("of a pod without a sandbox changes nothing", () => {
    expect(told(empty, { type, containerId: "container-A", netnsKey: "A" })).toBe(empty);
  });
});

test("an end by a CNI call is remembered with its time, for the namespace may live on", () => {
  const known = told(captured, { type: "ended", containerId: "container-A", netnsKey: undefined });
  expect(known.ended).toEqual({ key: "A", atMs: nowMs });
  expect(known.phase).toEqual({ at: "ended" });
  expect(known.stale).toEqual([captured.sandbox]);
});

test("a doubt leaves the sandbox as it is until somebody looks", () => {
  const known = told(captured, { type: "doubted", containerId: "container-A", netnsKey: undefined });
  expect(known).toEqual({ ...captured, doubtedMs: nowMs });
});

test("a resync says that nobody has looked yet", () => {
  expect(told(empty, { type: "resync" })).toEqual({ ...empty, isUnseen: true });
});

test("no message changes the value that it is given", () => {
  const frozen = Object.freeze({ ...captured, stale: Object.freeze([]), surplus: Object.freeze([]) });
  const messages: Message[] = [
    { type: "facts", pod: undefined },
    { type: "added", pod: podOf(), namespace: shop, sandbox: sandboxOf("B") },
    { type: "ended", containerId: "container-A", netnsKey: "A" },
    { type: "doubted", containerId: "container-A", netnsKey: "A" },
    { type: "resync" },
  ];
  for (const message of messages) expect(absorb(frozen, message, nowMs)).not.toBe(frozen);
  expect(frozen).toEqual(captured);
});

describe("what a phase says", () => {
  test.each<[Phase, { stand: boolean; proved: boolean; touched: boolean }]>([
    [{ at: "outside" }, { stand: false, proved: false, touched: false }],
    [{ at: "told" }, { stand: false, proved: false, touched: true }],
    [
      { at: "held", isProved: false },
      { stand: true, proved: false, touched: true },
    ],
    [
      { at: "held", isProved: true },
      { stand: true, proved: true, touched: true },
    ],
    [{ at: "captured" }, { stand: true, proved: true, touched: true }],
    [{ at: "ended" }, { stand: false, proved: false, touched: true }],
    [leaving("concealing"), { stand: true, proved: true, touched: true }],
    [leaving("concealed"), { stand: true, proved: true, touched: true }],
    [leaving("concealed", { wasCaptured: false }), { stand: true, proved: false, touched: true }],
    [
      leaving("concealed", { hadRules: false, wasCaptured: false }),
      { stand: false, proved: false, touched: true },
    ],
    [leaving("opened"), { stand: false, proved: false, touched: true }],
    [leaving("withdrawn"), { stand: false, proved: false, touched: true }],
  ])("%j", (phase, { stand, proved, touched }) => {
    expect(rulesStand(phase)).toBe(stand);
    expect(rulesProved(phase)).toBe(proved);
    expect(isTouched({ phase })).toBe(touched);
  });
});

test.each<[string, Partial<Workload>, boolean]>([
  ["nothing", {}, true],
  ["a pod", { pod: podOf() }, false],
  ["a sandbox", { sandbox: sandboxOf("A") }, false],
  ["a sandbox to clear", { stale: [sandboxOf("A")] }, false],
  ["a handle to close", { surplus: [sandboxOf("A").netns] }, false],
  ["something to tell ztunnel", { phase: { at: "ended" } }, false],
])("with %s a workload is empty: %#", (_, change, isNothing) => {
  expect(isEmpty({ ...empty, ...change })).toBe(isNothing);
});

test("the pod's own handle is never taken for a surplus one", () => {
  const { sandbox } = captured;
  if (sandbox === undefined) throw new Error("there is no sandbox");
  expect(reject(captured, sandbox)).toBe(captured);
  expect(reject(captured, sandboxOf("A")).surplus).toHaveLength(1);
});
