// SPDX-License-Identifier: Apache-2.0
// When the agent's own DaemonSet counts as deleted, and when nothing may be concluded.
import { setTimeout as delay } from "node:timers/promises";
import { afterEach, expect, test } from "vitest";
import { NodeState } from "../../src/kube/node-state.ts";
import { OwnDaemonSet } from "../../src/kube/own-daemonset.ts";
import { silentLogger } from "../../src/log/logger.ts";
import { systemClock } from "../../src/loop/clock.ts";
import type { KubeObject } from "../support/api-server/objects.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { type KubeFixture, startKube } from "./kube-fixture.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

function agentPod(owner: object | null): KubeObject {
  return {
    metadata: {
      name: "ambient-cni-node-x7k2p",
      namespace: "istio-system",
      uid: "uid-agent",
      ...(owner === null ? {} : { ownerReferences: [owner] }),
    },
    spec: { nodeName: "n1" },
  } as KubeObject;
}

const reference = {
  apiVersion: "apps/v1",
  kind: "DaemonSet",
  name: "ambient-cni-node",
  uid: "uid-ds",
  controller: true,
};

function daemonSet(uid = "uid-ds"): KubeObject {
  return { metadata: { name: "ambient-cni-node", namespace: "istio-system", uid } };
}

interface Fixture extends KubeFixture {
  readonly own: OwnDaemonSet;
  /** What the agent's own watch of pods says. */
  readonly watched: { hasOwnPod: boolean };
}

async function start(owner: object | null = reference): Promise<Fixture> {
  const kube = await startKube();
  cleanups.push(() => kube[Symbol.asyncDispose]());
  kube.server.put("pods", agentPod(owner));
  const watched = { hasOwnPod: true };
  const own = new OwnDaemonSet({
    client: kube.client,
    podNamespace: "istio-system",
    podName: "ambient-cni-node-x7k2p",
    nodeName: "n1",
    hasOwnPod: () => watched.hasOwnPod,
  });
  return { ...kube, own, watched };
}

test("a DaemonSet that is there is present, one that is gone is deleted", async () => {
  const { server, own } = await start();
  server.put("daemonsets", daemonSet());
  expect(await own.state({ deadlineMs: 1000 })).toBe("present");
  server.delete("daemonsets", "ambient-cni-node", "istio-system");
  expect(await own.state({ deadlineMs: 1000 })).toBe("deleted");
});

test("a DaemonSet that is being deleted in the foreground is deleted", async () => {
  const { server, own } = await start();
  const marked = daemonSet();
  server.put("daemonsets", {
    ...marked,
    metadata: { ...marked.metadata, deletionTimestamp: "2026-01-01T00:00:00Z" },
  });
  expect(await own.state({ deadlineMs: 1000 })).toBe("deleted");
});

const zone = (value: string) => ({
  requiredDuringSchedulingIgnoredDuringExecution: {
    nodeSelectorTerms: [{ matchExpressions: [{ key: "zone", operator: "In", values: [value] }] }],
  },
});

test.each<[string, object, string]>([
  ["a node affinity that matches", { affinity: { nodeAffinity: zone("a") } }, "present"],
  ["a node affinity that matches no more", { affinity: { nodeAffinity: zone("b") } }, "elsewhere"],
  ["a node selector that matches", { nodeSelector: { zone: "a" } }, "present"],
  ["a node selector that matches no more", { nodeSelector: { zone: "b" } }, "elsewhere"],
])("a DaemonSet with %s is %s", async (_what, spec, state) => {
  const { server, own } = await start();
  server.put("nodes", { metadata: { name: "n1", labels: { zone: "a" } } });
  server.put("daemonsets", { ...daemonSet(), spec: { template: { spec } } } as KubeObject);
  expect(await own.state({ deadlineMs: 1000 })).toBe(state);
});

test.each([403, 404])("a node that cannot be looked at (%s) is the DaemonSet's", async (status) => {
  const { server, own } = await start();
  const spec = { nodeSelector: { zone: "b" } };
  server.put("daemonsets", { ...daemonSet(), spec: { template: { spec } } } as KubeObject);
  server.faults.failures.push({ status, resource: "nodes" });
  expect(await own.state({ deadlineMs: 1000 })).toBe("present");
});

test("a successor that has no place for this node does not keep it", async () => {
  const { server, own } = await start();
  server.put("nodes", { metadata: { name: "n1", labels: {} } });
  const spec = { nodeSelector: { zone: "b" } };
  server.put("daemonsets", { ...daemonSet("uid-of-another"), spec: { template: { spec } } } as KubeObject);
  expect(await own.state({ deadlineMs: 1000 })).toBe("elsewhere");
});

test("a successor of the same name keeps the node", async () => {
  const { server, own } = await start();
  server.put("daemonsets", daemonSet("uid-of-another"));
  expect(await own.state({ deadlineMs: 1000 })).toBe("present");
});

test("the owner is remembered when the pod's object is gone", async () => {
  const { server, own } = await start();
  expect(await own.owner()).toEqual({ namespace: "istio-system", name: "ambient-cni-node", uid: "uid-ds" });
  server.delete("pods", "ambient-cni-node-x7k2p", "istio-system");
  expect(await own.state({ deadlineMs: 1000 })).toBe("deleted");
});

test.each([
  ["a bare pod", null],
  ["a pod of a ReplicaSet", { ...reference, kind: "ReplicaSet" }],
])("%s has no DaemonSet that could be deleted", async (_, owner) => {
  const { own } = await start(owner);
  expect(await own.owner()).toBeUndefined();
  expect(await own.state({ deadlineMs: 1000 })).toBe("present");
});

test.each([
  ["failing", (kube: KubeFixture) => kube.server.faults.failures.push({ status: 503 })],
  [
    "forbidden",
    (kube: KubeFixture) => kube.server.faults.failures.push({ status: 403, resource: "daemonsets" }),
  ],
  ["silent", (kube: KubeFixture) => Object.assign(kube.server.faults, { hang: true })],
])("nothing is known from an API server that is %s", async (_, spoil) => {
  const fixture = await start();
  await fixture.own.owner();
  spoil(fixture);
  const startMs = performance.now();
  expect(await fixture.own.state({ deadlineMs: 1500 })).toBe("unknown");
  expect(performance.now() - startMs).toBeLessThan(3500);
});

test("a passing failure is asked past", async () => {
  const { server, own } = await start();
  server.faults.failures.push({ status: 500, resource: "daemonsets", times: 2 });
  expect(await own.state({ deadlineMs: 5000 })).toBe("deleted");
});

test.each([401, 403])(
  "rights that were taken away before the agent was stopped mean an uninstall (%s)",
  async (status) => {
    const { server, own } = await start();
    server.put("daemonsets", daemonSet());
    await own.remember();
    server.faults.failures.push({ status });
    expect(await own.state({ deadlineMs: 1000 })).toBe("deleted");
  },
);

/** Just started: requests are refused until its roles are read, and it is not ready until all is. */
function restart({ faults }: KubeFixture["server"], unready: 500 | 403): void {
  faults.unready = unready;
  faults.failures.push({ status: 403 });
}

test.each([500, 403] as const)(
  "an API server that refuses all because it has just started (/readyz %s) is asked until it knows",
  async (unready) => {
    const { server, own } = await start();
    server.put("daemonsets", daemonSet());
    await own.remember();
    restart(server, unready);
    const asked = server.requests.length;
    const state = own.state({ deadlineMs: 10_000 });
    await waitFor("two refusals", () => server.requests.length >= asked + 2);
    server.faults.failures.length = 0;
    server.faults.unready = undefined;
    expect(await state).toBe("present");
  },
);

test("an API server that refuses all and is not ready until the deadline knows nothing", async () => {
  const { server, own } = await start();
  server.put("daemonsets", daemonSet());
  await own.remember();
  restart(server, 500);
  expect(await own.state({ deadlineMs: 500 })).toBe("unknown");
});

test("a refusal from before the API server was ready is not held against one from after it", async () => {
  const { server, own } = await start();
  server.put("daemonsets", daemonSet());
  await own.remember();
  // its roles were read between the refusal and the question whether it is ready
  server.faults.failures.push({ status: 403, times: 1 });
  expect(await own.state({ deadlineMs: 1000 })).toBe("present");
});

test.each([
  ["404, in a balancer's words", { status: 404, text: "404 page not found\n" }],
  ["404, in a gateway's words", { status: 404, text: '{"message":"no Route matched with those values"}' }],
  ["503 with a code of its own", { status: 503, text: '{"code":404,"reason":"NotFound"}' }],
  ["403, from a proxy", { status: 403, text: "<html><h1>403 Forbidden</h1></html>" }],
  ["401, from a proxy", { status: 401, text: "Unauthorized" }],
])("what stands before an API server that is away knows nothing of the DaemonSet (%s)", async (_, answer) => {
  const { server, own } = await start();
  server.put("daemonsets", daemonSet());
  await own.remember();
  server.faults.failures.push({ ...answer, resource: "daemonsets" });
  expect(await own.state({ deadlineMs: 500 })).toBe("unknown");
});

test("a refusal says nothing once the own pod is gone, for the token goes with it", async () => {
  const { server, own, watched } = await start();
  server.put("daemonsets", daemonSet());
  await own.remember();
  watched.hasOwnPod = false;
  server.faults.failures.push({ status: 401 });
  expect(await own.state({ deadlineMs: 1000 })).toBe("unknown");
});

test("an agent that was refused for minutes, its signing key being replaced, knows nothing when it is stopped", async () => {
  const kube = await startKube({ token: "old", tokens: ["old"] });
  cleanups.push(() => kube[Symbol.asyncDispose]());
  const { server, client } = kube;
  server.put("pods", agentPod(reference));
  server.put("daemonsets", daemonSet());
  let lateMs = 0;
  const clock = {
    ...systemClock,
    nowMs: () => performance.now() + lateMs,
    sleep: (ms: number) => delay(Math.min(ms, 20)),
  };
  const node = new NodeState({ client, nodeName: "n1", log: silentLogger, clock, watchSeconds: 1 });
  cleanups.push(() => node.stop());
  node.start();
  await node.waitForSync();
  const own = new OwnDaemonSet({
    client,
    podNamespace: "istio-system",
    podName: "ambient-cni-node-x7k2p",
    nodeName: "n1",
    hasOwnPod: () => node.wasToldOf("istio-system", "ambient-cni-node-x7k2p"),
  });
  await own.remember();
  server.tokens = ["new"];
  await waitFor("the watch to be refused", () => !node.isFresh());
  // right after it, the rights were taken away before the agent was stopped
  expect(await own.state({ deadlineMs: 1000 })).toBe("deleted");
  lateMs = 10 * 60_000;
  expect(await own.state({ deadlineMs: 1000 })).toBe("unknown");
});
