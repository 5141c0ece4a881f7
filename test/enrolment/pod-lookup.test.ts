// SPDX-License-Identifier: Apache-2.0
// What ADD hears of a pod from an API server that is asked live: the pod, or why it cannot be known, in time.
import { afterEach, expect, test } from "vitest";
import { PodLookup } from "../../src/enrolment/pod-lookup.ts";
import { NodeState } from "../../src/kube/node-state.ts";
import { silentLogger } from "../../src/log/logger.ts";
import { pod, startKube } from "../kube/kube-fixture.ts";
import type { FailRule } from "../support/api-server/faults.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** Nothing is watched, so that everything is asked live. */
async function start(timeoutMs: number) {
  const kube = await startKube();
  cleanups.push(() => kube[Symbol.asyncDispose]());
  const { server, client } = kube;
  server.put("namespaces", { metadata: { name: "shop" } });
  server.put("pods", pod("a"));
  const node = new NodeState({ client, nodeName: "n1", log: silentLogger });
  const lookup = new PodLookup({ node, log: silentLogger, timeoutMs });
  const find = () => lookup.find({ uid: "uid-a", namespace: "shop", name: "a" });
  return { server, find };
}

test.each<[string, FailRule]>([
  ["too many requests", { status: 429 }],
  ["a server that is about to end", { status: 503 }],
])("an API server that says when to ask again is asked again then (%s)", async (_, rule) => {
  const { server, find } = await start(5_000);
  for (const resource of ["pods", "namespaces"] as const)
    server.faults.failures.push({ ...rule, verb: "get", resource, retryAfterSeconds: 0.3, times: 2 });
  const fromMs = performance.now();
  const found = await find();
  expect([found.pod.uid, found.namespace.name]).toEqual(["uid-a", "shop"]);
  expect(performance.now() - fromMs).toBeGreaterThan(1_190);
});

test.each<[string, FailRule]>([
  ["later than the call may last", { status: 429, retryAfterSeconds: 30 }],
  ["of which it says nothing", { status: 500 }],
  ["that refuses", { status: 403 }],
])("kubelet is told at once of an answer %s", async (_, rule) => {
  const { server, find } = await start(2_000);
  server.faults.failures.push({ ...rule, verb: "get" });
  await expect(find()).rejects.toThrow(/cannot know whether pod "shop\/a" belongs.*it is held/);
  expect(server.requestsOf("get", "pods")).toHaveLength(1);
});

test("a server that says so for ever is asked until the call's time is over", async () => {
  const { server, find } = await start(1_000);
  server.faults.failures.push({ status: 429, verb: "get", retryAfterSeconds: 0.2 });
  await expect(find()).rejects.toThrow(/429/);
  const count = server.requestsOf("get", "pods").length;
  expect([count > 1, count <= 5]).toEqual([true, true]);
});
