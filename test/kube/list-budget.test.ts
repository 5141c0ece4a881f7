// SPDX-License-Identifier: Apache-2.0
// Lists without measure: each is told in one line, what was known stays, and the first good list is taken.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { ApiClient } from "../../src/kube/api-client.ts";
import { ApiError } from "../../src/kube/api-error.ts";
import { clusterBudget, type ListBudget, ListSpending, nodePodsBudget } from "../../src/kube/list-budget.ts";
import { NodeState } from "../../src/kube/node-state.ts";
import { toPodFacts } from "../../src/kube/pod-facts.ts";
import { Reflector } from "../../src/kube/reflector.ts";
import { Backoff } from "../../src/loop/backoff.ts";
import { writeKubeconfig } from "../support/api-server/kubeconfig.ts";
import { HostileApiServer, type ListMode, rawPod } from "../support/hostile-api-server.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { recordingLogger } from "./kube-fixture.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function hostile() {
  const server = await HostileApiServer.start();
  const folder = mkdtempSync(join(tmpdir(), "list-budget-"));
  const client = ApiClient.load({ kubeconfigPath: writeKubeconfig(join(folder, "kubeconfig"), server.url) });
  cleanups.push(
    () => rmSync(folder, { recursive: true }),
    () => server.close(),
    () => client.close(),
  );
  return { server, client };
}

/** Pods of node-1, as the agent watches them, with pauses that fit a test. */
function watchPods(client: ApiClient, budget: ListBudget) {
  const log = recordingLogger();
  const reflector = new Reflector({
    client,
    what: "pods of this node",
    path: "/api/v1/pods",
    convert: (raw) => {
      const pod = toPodFacts(raw);
      return pod?.nodeName === "node-1" ? pod : undefined;
    },
    log,
    budget,
    backoff: new Backoff({ baseMs: 20, capMs: 50 }),
  });
  cleanups.push(() => reflector.stop());
  reflector.start();
  return { reflector, log };
}

const inTime: ListBudget = { ...nodePodsBudget, ms: 300 };

test.each<[ListMode, RegExp, ListBudget]>([
  ["endless-pages", /more than (64 pages|1000 objects that were not asked for)/, nodePodsBudget],
  ["empty-pages", /more than 64 pages/, nodePodsBudget],
  ["drip", /the list as a whole took longer than 300 ms/, inTime],
  ["200-mb", /more than 1000 objects that were not asked for/, nodePodsBudget],
  [
    "200-mb",
    /more than 1048576 bytes of objects that were not/,
    { ...nodePodsBudget, droppedBytes: 1 << 20 },
  ],
  ["one-huge-object", /an object is longer than 10485760 bytes/, nodePodsBudget],
  ["foreign", /more than 1000 objects that were not asked for/, nodePodsBudget],
])(
  "after a list that is %s (%s) what was known stays, and a good list is taken",
  async (mode, reason, budget) => {
    const { server, client } = await hostile();
    server.pods = [rawPod("a"), rawPod("b")];
    const { reflector, log } = watchPods(client, budget);
    await waitFor("a watch", () => server.watchCount === 1);
    const changes: string[] = [];
    reflector.subscribe((change) =>
      changes.push(`${change.type} ${(change.current ?? change.previous).name}`),
    );
    server.mode = mode;
    server.expire();
    // the end of the watch, and two lists
    await waitFor("two failed lists", () => reflector.counts.failures >= 3);
    expect({ changes, size: reflector.size, isFresh: reflector.isFresh(60_000) }).toEqual({
      changes: [],
      size: 2,
      isFresh: false,
    });
    const warned = log.lines.filter(({ level }) => level === "warn");
    // the end of the watch, and the first list
    expect(warned.length).toBeLessThanOrEqual(2);
    const failures = log.lines.map(({ fields }) => (fields.err as Error | undefined)?.message ?? "");
    expect(failures.some((each) => reason.test(each))).toBe(true);
    server.pods = [rawPod("a"), rawPod("c", { version: 7 })];
    server.mode = "good";
    await waitFor("the good list", () => changes.length === 2);
    expect(changes).toEqual(["delete b", "set c"]);
  },
);

test("a failed list says that what was known stays, and keeps to one line", async () => {
  const { server, client } = await hostile();
  server.mode = "empty-pages";
  const failed = client.list("/api/v1/pods", {}, { convert: toPodFacts, budget: nodePodsBudget });
  const error = await failed.then(
    () => expect.unreachable(),
    (reason: unknown) => reason as ApiError,
  );
  expect(error).toBeInstanceOf(ApiError);
  expect(error).toMatchObject({ status: 0, reason: "OverBudget" });
  expect(error.message).toMatch(
    /^Cannot GET "\/api\/v1\/pods" at API server ".*": .*what was known before stays/,
  );
  expect(server.lists).toBe(64);
});

test("objects of other nodes are dropped from lists and events, in few words", async () => {
  const { server, client } = await hostile();
  const others = Array.from({ length: 900 }, (_, index) => rawPod(`far${index}`, { nodeName: "other" }));
  server.pods = [rawPod("a"), ...others];
  const log = recordingLogger();
  const state = new NodeState({ client, nodeName: "node-1", log });
  cleanups.push(() => state.stop());
  state.start();
  await state.waitForSync();
  expect([...state.pods.values()].map(({ name }) => name)).toEqual(["a"]);
  await waitFor("a watch", () => server.watchCount === 1);
  const events = others.map((object) => ({ type: "MODIFIED", object }));
  await server.send([...events, { type: "ADDED", object: rawPod("b", { version: 9 }) }]);
  await waitFor("the last event", () => state.pods.size === 2);
  const warned = log.lines.filter(({ level }) => level === "warn");
  expect(warned.map(({ fields }) => fields.count)).toEqual([1, 2, 3, 10, 100]);
});

test("a list of a tenant's largest pods is taken: their size is theirs, the others' are seen", async () => {
  const { server, client } = await hostile();
  const annotations = {
    "istio.io/reroute-virtual-interfaces": "<".repeat(256 << 10),
    other: "é".repeat(1 << 20),
  };
  server.pods = Array.from({ length: 40 }, (_, index) => rawPod(`p${index}`, { annotations }));
  const { items } = await client.list("/api/v1/pods", {}, { convert: toPodFacts, budget: nodePodsBudget });
  expect(items).toHaveLength(40);
  expect(JSON.stringify(items).length).toBeLessThan(40 * 3000);
});

test.each<[string, (spending: ListSpending) => void, RegExp]>([
  ["bytes", (spending) => spending.bytes(11), /more than 10 bytes/],
  ["objects", (spending) => spending.item({ bytes: 1, isKept: true }), /more than 0 objects/],
  [
    "a continue token",
    (spending) => spending.page("x".repeat(8193)),
    /continue token has more than 8192 bytes/,
  ],
])("%s over the budget are an error", (_, spend, reason) => {
  using spending = new ListSpending({ ...clusterBudget, bytes: 10, items: 0 });
  expect(() => spend(spending)).toThrow(reason);
});
