// SPDX-License-Identifier: Apache-2.0
// Whom a namespace's new labels wake, and when: the first pods are not to wait for all others.
import { expect, test } from "vitest";
import { listenToNode, type NodeChangesOptions } from "../../src/enrolment/node-changes.ts";

type NamespaceListener = Parameters<NodeChangesOptions["node"]["onNamespaceChange"]>[0];

function listening(pods: readonly { uid: string; namespace: string }[]) {
  const asked: (readonly [uid: string, inMs: number])[] = [];
  const told: (readonly [uid: string, message: string])[] = [];
  let versionsForgotten = 0;
  let tell: NamespaceListener = () => {};
  const node = {
    pods: {},
    onPodChange: () => {},
    onNamespaceChange: (listener: NamespaceListener) => {
      tell = listener;
    },
    onsetback: () => {},
  };
  const records = pods.map(({ uid, namespace }) => ({ uid, facts: { namespace } }));
  listenToNode({
    ztunnel: {},
    node,
    annotations: { forgetVersions: () => (versionsForgotten += 1) },
    records: { values: () => records.values() },
    queue: {
      request: (uid: string) => asked.push([uid, 0]),
      requestWithin: (uid: string, inMs: number) => asked.push([uid, inMs]),
      isBusy: () => false,
    },
    history: { asked: () => {} },
    clock: {},
    isStarted: () => true,
    tell: (uid: string, { type }: { type: string }) => told.push([uid, type]),
    requestAll: () => {},
  } as unknown as NodeChangesOptions);
  const relabel = (name: string): void =>
    tell({ type: "set", current: { name } } as unknown as Parameters<NamespaceListener>[0]);
  const setBack = (): unknown => {
    node.onsetback();
    return { told, versionsForgotten };
  };
  return { asked, relabel, setBack };
}

test("of a namespace's pods a few are looked at at once, and the others when these are about done", () => {
  const pods = Array.from({ length: 7 }, (_, i) => ({
    uid: `u-${i}`,
    namespace: i === 1 ? "other" : "ours",
  }));
  const { asked, relabel } = listening(pods);
  relabel("ours");
  const [first, later] = [asked.filter(([, ms]) => ms === 0), asked.filter(([, ms]) => ms > 0)];
  expect(first.map(([uid]) => uid)).toEqual(["u-0", "u-2", "u-3", "u-4"]);
  expect(later.map(([uid]) => uid)).toEqual(["u-5", "u-6"]);
  // what a pod takes alone, and nothing that a person could see
  for (const [, ms] of later) expect(ms).toBeLessThanOrEqual(20);
});

test("those of another namespace are left alone", () => {
  const { asked, relabel } = listening([{ uid: "u-0", namespace: "other" }]);
  relabel("ours");
  expect(asked).toEqual([]);
});

test("of an API server's store that was set back all pods are told, before its lists come", () => {
  const { setBack } = listening([
    { uid: "u-0", namespace: "ours" },
    { uid: "u-1", namespace: "other" },
  ]);
  expect(setBack()).toEqual({
    told: [
      ["u-0", "set-back"],
      ["u-1", "set-back"],
    ],
    versionsForgotten: 1,
  });
});
