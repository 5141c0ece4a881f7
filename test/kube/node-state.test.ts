// SPDX-License-Identifier: Apache-2.0
// Pods of one node and all namespaces: the two watches together, and live requests where they cannot tell.
import { afterEach, expect, test, vi } from "vitest";
import { ApiError } from "../../src/kube/api-error.ts";
import { NodeState, type NodeStateOptions } from "../../src/kube/node-state.ts";
import type { Backup } from "../support/api-server/object-store.ts";
import { waitFor } from "../support/api-server.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { type KubeFixture, pod, recordingLogger, startKube } from "./kube-fixture.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function start(
  prepare: (kube: KubeFixture) => void = () => {},
  options: Partial<NodeStateOptions> = {},
): Promise<KubeFixture & { state: NodeState }> {
  const kube = await startKube();
  cleanups.push(() => kube[Symbol.asyncDispose]());
  kube.server.put("namespaces", {
    metadata: { name: "shop", labels: { team: "a" } },
    spec: { finalizers: ["kubernetes"] },
  });
  prepare(kube);
  const state = new NodeState({
    client: kube.client,
    nodeName: "n1",
    log: recordingLogger(),
    backoff: { baseMs: 10, capMs: 50 },
    ...options,
  });
  cleanups.push(() => state.stop());
  state.start();
  await state.waitForSync();
  await waitFor("both copies are fresh", () => state.isFresh());
  return { ...kube, state };
}

test("pods of this node and namespaces of the cluster are known", async () => {
  const { server, state } = await start((kube) => {
    kube.server.put("pods", pod("a"));
    kube.server.put("pods", pod("far", { nodeName: "n2" }));
  });
  expect([state.pods.synced, state.namespaces.synced]).toEqual([true, true]);
  expect(state.pod("uid-a")?.name).toBe("a");
  expect(state.podByName("shop", "a")?.uid).toBe("uid-a");
  expect(state.podByName("shop", "far")).toBeUndefined();
  expect(state.namespace("shop")?.labels).toMatchObject({ team: "a" });
  expect(server.requestsOf("list", "namespaces")[0]?.accept).toContain("as=PartialObjectMetadataList");
  expect(server.requestsOf("watch", "namespaces")[0]?.accept).toContain("as=PartialObjectMetadata;");
});

test("namespaces are known although the server refuses to send metadata alone", async () => {
  const { state } = await start(({ server }) => {
    server.faults.failures = [{ status: 406, resource: "namespaces", times: 1 }];
  });
  expect(state.namespace("shop")?.labels).toMatchObject({ team: "a" });
});

test("changes of pods and namespaces are told", async () => {
  const { server, state } = await start();
  const told: string[] = [];
  state.onPodChange((change) => told.push(`pod ${change.type}`));
  state.onNamespaceChange((change) => told.push(`namespace ${change.type}`));
  server.put("pods", pod("a"));
  await waitFor("the pod is told", () => told.length === 1);
  server.edit("namespaces", { name: "shop" }, (object) => {
    object.metadata.labels = { "istio.io/dataplane-mode": "ambient" };
  });
  await waitFor("the namespace is told", () => told.length === 2);
  server.delete("namespaces", "shop");
  await waitFor("both deletions are told", () => told.length === 4);
  expect(told.slice(0, 2)).toEqual(["pod set", "namespace set"]);
  expect(told.slice(2).sort()).toEqual(["namespace delete", "pod delete"]);
});

test("a name leads to the newest pod, also when the end of the older one is told late", async () => {
  const { server, state } = await start((kube) => {
    kube.server.put("pods", pod("a", { uid: "first" }));
  });
  server.faults.swapEvents = true;
  server.delete("pods", "a", "shop");
  server.put("pods", pod("a", { uid: "second" }));
  await waitFor(
    "the first is gone",
    () => state.pod("first") === undefined && state.pod("second") !== undefined,
  );
  expect(state.podByName("shop", "a")?.uid).toBe("second");
  server.faults.swapEvents = false;
  server.delete("pods", "a", "shop");
  await waitFor("the second is gone", () => state.pod("second") === undefined);
  expect(state.podByName("shop", "a")).toBeUndefined();
});

test("a name leads to the newest pod, whatever the order of a list", async () => {
  const client = {
    list: async <T>(
      path: string,
      _query: object,
      { convert }: { convert: (raw: unknown) => T | undefined },
    ) => {
      const raw = path.endsWith("/pods") ? [podAt("second", "20"), podAt("first", "10")] : [];
      return { items: raw.flatMap((object) => convert(object) ?? []), resourceVersion: "30" };
    },
    async *watch() {},
    getPod: () => Promise.reject(new Error("not asked")),
    getNamespace: () => Promise.reject(new Error("not asked")),
  };
  const state = new NodeState({ client, nodeName: "n1", log: recordingLogger() });
  cleanups.push(() => state.stop());
  state.start();
  await state.waitForSync();
  expect(state.pods.size).toBe(2);
  expect(state.podByName("shop", "a")?.uid).toBe("second");
});

function podAt(uid: string, resourceVersion: string): object {
  const object = pod("a", { uid });
  return { ...object, metadata: { ...object.metadata, resourceVersion } };
}

test("a fresh copy answers without a request, everything else is asked live", async () => {
  const { server, state } = await start((kube) => {
    kube.server.put("pods", pod("a"));
    kube.server.put("pods", pod("far", { nodeName: "n2" }));
  });
  const gets = () => server.requests.filter(({ verb }) => verb === "get").length;
  expect(await state.findPod({ namespace: "shop", name: "a" })).toMatchObject({
    source: "cache",
    facts: { uid: "uid-a" },
  });
  expect(await state.findNamespace("shop")).toMatchObject({ source: "cache", facts: { name: "shop" } });
  expect(gets()).toBe(0);
  expect(await state.findPod({ namespace: "shop", name: "far" })).toMatchObject({
    source: "live",
    facts: { uid: "uid-far" },
  });
  expect(await state.findPod({ namespace: "shop", name: "a", uid: "newer" })).toMatchObject({
    source: "live",
  });
  expect(await state.findPod({ namespace: "shop", name: "none" })).toEqual({
    source: "live",
    facts: undefined,
  });
  expect(await state.findNamespace("none")).toEqual({ source: "live", facts: undefined });
  expect(gets()).toBe(4);
});

test("a stale copy is not believed: live, and an error when nobody can know", async () => {
  const { server, state } = await start((kube) => {
    kube.server.put("pods", pod("a"));
  });
  server.faults.failures = [{ status: 500, verb: "watch" }];
  server.dropWatches();
  await waitFor(
    "both copies are stale",
    () => !state.pods.isFresh(60_000) && !state.namespaces.isFresh(60_000),
  );
  server.edit("namespaces", { name: "shop" }, (object) => {
    object.metadata.labels = { team: "b" };
  });
  expect(await state.findNamespace("shop")).toMatchObject({
    source: "live",
    facts: { labels: { team: "b" } },
  });
  expect(await state.findPod({ namespace: "shop", name: "a" })).toMatchObject({ source: "live" });
  server.faults.hang = true;
  const looked = state.findPod({ namespace: "shop", name: "a" }, { signal: AbortSignal.timeout(100) });
  await expect(looked).rejects.toBeInstanceOf(ApiError);
});

/** A state that has seen three pods more than the backup has. */
async function startBehindBackup() {
  let backup: Backup | undefined;
  const started = await start(({ server }) => {
    server.put("pods", pod("a"));
    backup = server.store.backup();
    for (const name of ["b", "c", "d"]) server.put("pods", pod(name));
  });
  return { ...started, backup: backup as Backup };
}

test("a server whose store was set back is found out when it takes the watches again, and listed anew", async () => {
  const { server, state, backup } = await startBehindBackup();
  let count = 0;
  state.onsetback = () => (count += 1);
  server.store.restore(backup);
  server.edit("namespaces", { name: "shop" }, (object) => {
    object.metadata.labels = { team: "b" };
  });
  server.put("pods", pod("new"));
  server.dropWatches();
  await waitFor("the pod to be known", () => state.podByName("shop", "new") !== undefined);
  await waitFor("the label to be known", () => state.namespace("shop")?.labels.team === "b");
  await waitFor("both watches", () => state.isFresh());
  expect(count).toBe(1);
  expect([...state.pods.values()].map(({ name }) => name).sort()).toEqual(["a", "new"]);
  server.put("pods", pod("newer"));
  await waitFor("the watch to tell again", () => state.podByName("shop", "newer") !== undefined);
});

test("a server that was away and has the same store is asked for its version once, and for no list", async () => {
  const { server, state } = await start((kube) => kube.server.put("pods", pod("a")));
  let count = 0;
  state.onsetback = () => (count += 1);
  server.dropWatches();
  const asked = () => server.requestsOf("list", "namespaces");
  await waitFor("the version to be asked for", () => asked().length > 1);
  await waitFor("both watches", () => state.isFresh());
  server.put("pods", pod("b"));
  await waitFor("the watch to tell", () => state.podByName("shop", "b") !== undefined);
  expect([count, server.requestsOf("list", "pods").length]).toEqual([0, 1]);
  for (const { query } of asked().slice(1)) expect(query.fieldSelector).toBe("metadata.name=kube-system");
  expect(asked().length).toBeLessThanOrEqual(3);
});

test("a server whose store was set back is found out by the next pod, where it does not tell its version", async () => {
  const { server, state, backup } = await startBehindBackup();
  server.store.restore(backup);
  server.faults.failures = [{ status: 500, verb: "list", resource: "namespaces" }];
  server.dropWatches();
  const resources = ["pods", "namespaces"] as const;
  const areOpen = (times: number) =>
    resources.every((of) => server.requestsOf("watch", of).length === times) && state.isFresh();
  await waitFor("both watches to be taken as they were left", () => areOpen(2));
  await waitFor("the version to be refused", () =>
    server.requestsOf("list", "namespaces").some(({ status }) => status === 500),
  );
  server.faults.failures = [];
  server.put("pods", pod("new"));
  server.edit("namespaces", { name: "shop" }, (object) => {
    object.metadata.labels = { team: "b" };
  });
  expect(await state.findPod({ namespace: "shop", name: "new" })).toMatchObject({ source: "live" });
  // from here on nothing of the copies is believed
  expect(await state.findNamespace("shop")).toMatchObject({
    source: "live",
    facts: { labels: { team: "b" } },
  });
  await waitFor("the pod to be known", () => state.podByName("shop", "new") !== undefined);
  await waitFor("the label to be known", () => state.namespace("shop")?.labels.team === "b");
  await waitFor("both watches", () => areOpen(3));
  server.put("pods", pod("newer"));
  await waitFor("the watch to tell again", () => state.podByName("shop", "newer") !== undefined);
  const lists = (of: (typeof resources)[number]) =>
    server
      .requestsOf("list", of)
      .filter(({ status, query }) => status === 200 && query.fieldSelector !== "metadata.name=kube-system");
  expect(resources.map((of) => lists(of).length)).toEqual([2, 2]);
});

test("a pod of another node, or one that the copy has, is no sign of a server that was set back", async () => {
  const { server, state } = await start((kube) => {
    kube.server.put("pods", pod("a"));
    kube.server.put("pods", pod("far", { nodeName: "n2" }));
    kube.server.put("pods", pod("last"));
  });
  for (const name of ["a", "far", "none"]) await state.livePod("shop", name);
  expect(state.isFresh()).toBe(true);
  expect(server.requestsOf("list", "pods")).toHaveLength(1);
});

/** Pauses far longer than any test: what comes back earlier was woken. */
const patient = { baseMs: 100_000, capMs: 100_000 };

test("an answer to a live question wakes the watches after an outage", async () => {
  const { server, state } = await start((kube) => kube.server.put("pods", pod("a")), { backoff: patient });
  await server.refuse();
  await waitFor(
    "both breaks are noticed",
    () => !state.pods.isFresh(60_000) && !state.namespaces.isFresh(60_000),
  );
  await expect(state.livePod("shop", "a")).rejects.toMatchObject({ reason: "Unreachable" });
  await server.listenAgain();
  expect(await state.livePod("shop", "nobody")).toBeUndefined();
  await waitFor("both watch again", () => state.isFresh());
});

test("a watch that is accepted, and an answer about a pod or a namespace, wake the watches", async () => {
  const { server, state } = await start(undefined, { watchSeconds: 1 });
  const woken = (kind: "pods" | "namespaces") => vi.spyOn(state[kind], "retrySoon");
  const [pods, namespaces] = [woken("pods"), woken("namespaces")];
  await waitFor(
    "both watches to be opened again",
    () => pods.mock.calls.length > 0 && namespaces.mock.calls.length > 0,
  );
  // from now on nothing is accepted but questions
  server.faults.failures = [{ status: 500, verb: "watch", times: 1000 }];
  server.dropWatches();
  await waitFor(
    "both breaks are noticed",
    () => !state.pods.isFresh(60_000) && !state.namespaces.isFresh(60_000),
  );
  for (const ask of [() => state.livePod("shop", "nobody"), () => state.liveNamespace("shop")]) {
    pods.mockClear();
    namespaces.mockClear();
    await ask();
    expect([pods.mock.calls.length, namespaces.mock.calls.length]).toEqual([1, 1]);
  }
  pods.mockClear();
  server.faults.failures.push({ status: 503, verb: "get", resource: "pods", times: 1 });
  await expect(state.livePod("shop", "nobody")).rejects.toMatchObject({ status: 503 });
  expect(pods).not.toHaveBeenCalled();
});

test("watches that are accepted and then fail do not drive each other", async () => {
  const clock = new FakeClock();
  const { server } = await start(undefined, {
    clock,
    random: () => 0.1,
    backoff: { baseMs: 4_000, capMs: 4_000 },
    watchSeconds: 1,
  });
  server.faults.goneAs = "event";
  server.faults.goneOnWatch = 1000;
  server.dropWatches();
  const isPausing = (): boolean => clock.pendingCount === 2;
  await waitFor("both breaks are noticed", isPausing);
  const before = server.requestsOf("list", "pods").length;
  const endMs = clock.nowMs() + 8_000;
  while (clock.nowMs() < endMs) {
    clock.advance((clock.nextDueMs() ?? 0) - clock.nowMs());
    await waitFor("both to have tried again and failed", isPausing);
  }
  // own pauses are 2.2 s, and one of them was cut
  expect(server.requestsOf("list", "pods").length - before).toBeLessThanOrEqual(6);
});
