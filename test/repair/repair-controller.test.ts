// SPDX-License-Identifier: Apache-2.0
// The repair over real sockets: each of its modes, pods that change under its hands, and API servers that refuse or are away.
import { afterEach, expect, test } from "vitest";
import type { PodEvent } from "../../src/kube/event-recorder.ts";
import type { Netns } from "../../src/linux/netns.ts";
import { Backoff } from "../../src/loop/backoff.ts";
import { systemClock } from "../../src/loop/clock.ts";
import { RepairController, type RepairControllerOptions } from "../../src/repair/repair-controller.ts";
import type { InPlacePod } from "../../src/repair/repair-in-place.ts";
import type { RepairMode } from "../../src/settings/repair-settings.ts";
import { readRepairSettings } from "../../src/settings/repair-settings.ts";
import { SettingsReader } from "../../src/settings/settings-reader.ts";
import { type KubeFixture, recordingLogger, startKube } from "../kube/kube-fixture.ts";
import { waitFor } from "../support/api-server.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { type BrokenPodOptions, brokenPod, noRules } from "./broken-pod.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function start(): Promise<KubeFixture> {
  const kube = await startKube();
  cleanups.push(() => kube[Symbol.asyncDispose]());
  return kube;
}

interface Repairing {
  readonly controller: RepairController;
  /** "mode result" of each attempt. */
  readonly results: string[];
  readonly events: (PodEvent & { readonly pod: string })[];
  readonly log: ReturnType<typeof recordingLogger>;
}

const modeSettings = {
  repair: "REPAIR_REPAIR_PODS",
  delete: "REPAIR_DELETE_PODS",
  label: "REPAIR_LABEL_PODS",
};
const noNetns = { findNetns: () => Promise.resolve(undefined), repairInPlace: () => Promise.resolve() };

function repair(
  { client }: Pick<KubeFixture, "client">,
  mode: RepairMode,
  {
    env = {},
    nodeName = "n1",
    ...options
  }: Partial<RepairControllerOptions> & { env?: Record<string, string>; nodeName?: string } = {},
): Repairing {
  const reader = new SettingsReader({ [modeSettings[mode]]: "true", ...env });
  const settings = { ...readRepairSettings(reader, nodeName), mode };
  expect([...reader.faults, ...reader.warnings]).toEqual([]);
  const [results, events, log] = [[] as string[], [] as Repairing["events"], recordingLogger()];
  const controller = new RepairController({
    client,
    settings,
    inPlace: noNetns,
    events: { record: ({ name }, event) => events.push({ pod: name, ...event }) },
    onresult: (type, result) => results.push(`${type} ${result}`),
    log,
    watch: { backoff: new Backoff({ baseMs: 10, capMs: 50 }) },
    ...options,
  });
  controller.start();
  cleanups.push(() => controller.stop());
  return { controller, results, events, log };
}

const isEnding = ({ server }: KubeFixture, name: string) =>
  server.store.find("pods", name, "shop")?.metadata.deletionTimestamp !== undefined;
const labelsOf = ({ server }: KubeFixture, name: string) =>
  server.store.get("pods", name, "shop").metadata.labels;
const watching = ({ server }: KubeFixture, count = 1) =>
  waitFor("the pods are watched", () => server.watches.size === count);
const said = ({ log }: Repairing, level: "warn" | "info" | "debug") =>
  log.lines.filter((line) => line.level === level).map(({ message }) => message);

/** Another end of the check, as its next start brings it. */
function failAgain({ server }: KubeFixture, name: string, id: string): void {
  server.edit("pods", { name, namespace: "shop" }, (object) => {
    const options: BrokenPodOptions = { lastState: { terminated: { ...noRules, containerID: id } } };
    object.status = brokenPod(name, options).status as Record<string, unknown>;
  });
}

/** Time stands still for the repair, and runs for the watch' deadlines. */
function stoppedClock(): FakeClock {
  const clock = new FakeClock();
  clock.sleep = (ms, signal) => systemClock.sleep(ms, signal);
  return clock;
}

// --- deleting

test("broken pods are deleted, those that come later too, and no others", async () => {
  const kube = await start();
  kube.server.put("pods", brokenPod("before"));
  kube.server.put("pods", brokenPod("healthy", { state: { terminated: { exitCode: 0 } } }));
  kube.server.put("pods", brokenPod("elsewhere", { nodeName: "n2" }));
  const repairing = repair(kube, "delete");
  await watching(kube);
  kube.server.put("pods", brokenPod("fresh", { lastState: {} }));
  failAgain(kube, "fresh", "containerd://c2");
  await waitFor("both are deleted", () => repairing.results.length === 2);
  expect(["before", "fresh", "healthy", "elsewhere"].map((name) => isEnding(kube, name))).toEqual([
    true,
    true,
    false,
    false,
  ]);
  expect(repairing.results).toEqual(["delete success", "delete success"]);
  const reason = "DeleteBrokenPod";
  const message = "This pod started while nobody wrote its sidecar's rules: it was deleted";
  expect(repairing.events).toEqual([
    { pod: "before", reason, message },
    { pod: "fresh", reason, message },
  ]);
  const [asked] = kube.server.requestsOf("delete", "pods");
  expect(asked?.body).toEqual({
    apiVersion: "v1",
    kind: "DeleteOptions",
    preconditions: { uid: "uid-before", resourceVersion: expect.stringMatching(/^\d+$/) },
  });
  expect(said(repairing, "warn")).toEqual([]);
});

test("a pod that takes its name between look and deletion is not deleted", async () => {
  const kube = await start();
  kube.server.put("pods", brokenPod("web"));
  const statuses: number[] = [];
  const client: RepairControllerOptions["client"] = {
    list: kube.client.list.bind(kube.client),
    watch: kube.client.watch.bind(kube.client),
    mergePatch: kube.client.mergePatch.bind(kube.client),
    delete: async (...args) => {
      if (statuses.length === 0) {
        kube.server.delete("pods", "web", "shop");
        kube.server.put(
          "pods",
          brokenPod("web", { uid: "uid-next", state: { terminated: { exitCode: 0 } } }),
        );
      }
      return await kube.client.delete(...args).finally(() => {
        statuses.push(kube.server.requestsOf("delete", "pods").at(-1)?.status ?? 0);
      });
    },
  };
  const repairing = repair({ client } as KubeFixture, "delete");
  await waitFor("a deletion is answered", () => statuses.length === 1);
  await watching(kube);
  expect(statuses).toEqual([409]);
  expect(kube.server.store.get("pods", "web", "shop").metadata).toMatchObject({ uid: "uid-next" });
  expect(isEnding(kube, "web")).toBe(false);
  await waitFor("it is told", () => said(repairing, "debug").length > 0);
  expect(repairing.results).toEqual([]);
  expect(repairing.events).toEqual([]);
});

test("a pod that changes between look and deletion is looked at again: a sound one stays, one that is still broken goes", async () => {
  const kube = await start();
  for (const name of ["mended", "broken"]) kube.server.put("pods", brokenPod(name));
  const original = kube.client.delete.bind(kube.client);
  const touched = new Set<string>();
  kube.client.delete = async (path, ...rest) => {
    const name = path.split("/").at(-1) ?? "";
    if (!touched.has(name)) {
      touched.add(name);
      kube.server.edit("pods", { name, namespace: "shop" }, (object) => {
        object.metadata.annotations = { ...object.metadata.annotations, seen: "1" };
        if (name === "mended")
          object.status = brokenPod(name, { state: { terminated: { exitCode: 0 } } }).status as Record<
            string,
            unknown
          >;
      });
    }
    return await original(path, ...rest);
  };
  const repairing = repair(kube, "delete");
  await waitFor("the broken one is deleted", () => repairing.results.length === 1);
  expect(isEnding(kube, "broken")).toBe(true);
  await waitFor("the other is told of", () => said(repairing, "debug").length === 2);
  expect(isEnding(kube, "mended")).toBe(false);
  expect(repairing.results).toEqual(["delete success"]);
});

test("nothing is deleted while the next pod would come out no better", async () => {
  const kube = await start();
  const clock = stoppedClock();
  for (const name of ["a", "b"]) kube.server.put("pods", brokenPod(name));
  let reason: string | undefined = "the plugin is not in the CNI chain yet";
  const repairing = repair(kube, "delete", { clock, holdsBack: () => reason });
  await watching(kube);
  await waitFor("both wait", () => clock.pendingCount === 2);
  expect(kube.server.requestsOf("delete", "pods")).toEqual([]);
  expect(repairing.log.lines.filter(({ level }) => level === "warn")).toMatchObject([
    { fields: { reason: "the plugin is not in the CNI chain yet" } },
  ]);
  reason = undefined;
  clock.advance(5_000);
  await waitFor("both are deleted", () => repairing.results.length === 2);
});

test("the pod in place of a deleted one, broken like it, waits; pods broken together do not", async () => {
  const kube = await start();
  const clock = stoppedClock();
  for (const name of ["a", "b"]) kube.server.put("pods", brokenPod(name, { ownerUid: "web" }));
  const repairing = repair(kube, "delete", { clock });
  await watching(kube);
  await waitFor("both are deleted", () => repairing.results.length === 2);
  for (const name of ["a", "b"]) kube.server.delete("pods", name, "shop");
  kube.server.put("pods", brokenPod("c", { ownerUid: "web" }));
  kube.server.put("pods", brokenPod("d", { ownerUid: "db" }));
  await waitFor("another owner's is deleted", () => isEnding(kube, "d"));
  await waitFor("it is told", () => said(repairing, "warn").length === 1);
  expect(said(repairing, "warn")).toEqual([
    expect.stringContaining("in place of a deleted one is broken, too"),
  ]);
  clock.advance(9_999);
  expect(isEnding(kube, "c")).toBe(false);
  clock.advance(1);
  await waitFor("it is deleted in the end", () => isEnding(kube, "c"));
});

// --- labelling

test("broken pods get the label, and one that has it is left alone", async () => {
  const kube = await start();
  kube.server.put("pods", brokenPod("a", { labels: { app: "web" } }));
  kube.server.put("pods", brokenPod("b", { labels: { "mesh/broken": "no" } }));
  const env = { REPAIR_BROKEN_POD_LABEL_KEY: "mesh/broken", REPAIR_BROKEN_POD_LABEL_VALUE: "yes" };
  const repairing = repair(kube, "label", { env });
  await waitFor("both are looked at", () => repairing.results.length === 2);
  expect(labelsOf(kube, "a")).toEqual({ app: "web", "mesh/broken": "yes" });
  expect(labelsOf(kube, "b")).toEqual({ "mesh/broken": "no" });
  expect(repairing.results.sort()).toEqual(["label skip", "label success"]);
  expect(repairing.events).toEqual([
    { pod: "a", reason: "LabelBrokenPod", message: expect.stringMatching(/: it was labelled$/) },
  ]);
  // its own label brings nothing new
  await watching(kube);
  kube.server.put("pods", brokenPod("c"));
  await waitFor("the next one is labelled", () => labelsOf(kube, "c") !== undefined);
  const patches = kube.server.requestsOf("patch", "pods");
  expect(patches.map(({ name, subresource }) => `${name} ${subresource}`)).toEqual(["a status", "c status"]);
  expect(repairing.results.filter((result) => result === "label skip")).toHaveLength(1);
});

test("a pod that takes its name between look and label is not labelled", async () => {
  const kube = await start();
  kube.server.put("pods", brokenPod("web"));
  const original = kube.client.mergePatch.bind(kube.client);
  kube.client.mergePatch = async (...args) => {
    kube.server.delete("pods", "web", "shop");
    kube.server.put("pods", brokenPod("web", { uid: "uid-next", lastState: {} }));
    return await original(...args);
  };
  const repairing = repair(kube, "label");
  await waitFor("it is told", () => said(repairing, "debug").length > 0);
  expect(kube.server.requestsOf("patch", "pods").map(({ status }) => status)).toEqual([422]);
  expect(labelsOf(kube, "web")).toBeUndefined();
  expect(repairing.results).toEqual([]);
});

// --- in place

/** A namespace that says when it is given back. */
function lentNetns() {
  const lent = { closed: 0 };
  const netns = { key: "4:1", [Symbol.dispose]: () => lent.closed++ } as unknown as Netns;
  return { lent, netns };
}

test("a pod is repaired in its own namespace, once for each failure, and the namespace is given back", async () => {
  const kube = await start();
  kube.server.put("pods", brokenPod("a"));
  const { lent, netns } = lentNetns();
  const repaired: InPlacePod[] = [];
  const found: string[] = [];
  const inPlace: RepairControllerOptions["inPlace"] = {
    findNetns: async (uid) => {
      found.push(uid);
      return netns;
    },
    repairInPlace: async (pod) => {
      expect(lent.closed).toBe(repaired.length);
      repaired.push(pod);
    },
  };
  const repairing = repair(kube, "repair", { inPlace });
  await waitFor("it is repaired", () => repairing.results.length === 1);
  expect(found).toEqual(["uid-a"]);
  expect(repaired).toEqual([{ uid: "uid-a", namespace: "shop", name: "a", netns }]);
  expect(lent.closed).toBe(1);
  await watching(kube);
  // what else happens to the pod asks for nothing
  kube.server.edit("pods", { name: "a", namespace: "shop" }, (object) => {
    object.status = brokenPod("a", { state: { running: { startedAt: "now" } } }).status as Record<
      string,
      unknown
    >;
  });
  failAgain(kube, "a", "containerd://c9");
  await waitFor("its next failure is", () => repairing.results.length === 2);
  expect(repaired).toHaveLength(2);
  expect(repairing.results).toEqual(["repair success", "repair success"]);
  expect(repairing.events.at(-1)).toEqual({
    pod: "a",
    reason: "RepairBrokenPod",
    message: expect.stringMatching(/: it was given its rules$/),
  });
  expect(kube.server.requests.filter(({ verb }) => !["list", "watch"].includes(verb))).toEqual([]);
});

test.each<[string, BrokenPodOptions, Partial<RepairControllerOptions["inPlace"]>, RegExp, number]>([
  ["is not found", {}, { findNetns: async () => undefined }, /no network namespace is provably its own/, 0],
  ["is on the host's network", { hostNetwork: true }, {}, /is on the host's network/, 0],
  [
    "cannot be written in",
    {},
    { repairInPlace: () => Promise.reject(new Error("iptables-restore: exit 4")) },
    /iptables-restore: exit 4/,
    1,
  ],
])("a pod that %s is told of and tried again", async (_, options, changed, why, closed) => {
  const kube = await start();
  const clock = stoppedClock();
  kube.server.put("pods", brokenPod("a", options));
  const { lent, netns } = lentNetns();
  const inPlace = { findNetns: async () => netns, repairInPlace: async () => {}, ...changed };
  const repairing = repair(kube, "repair", { inPlace, clock, random: () => 1 });
  await waitFor("it has failed", () => repairing.results.length === 1 && clock.pendingCount === 1);
  expect(lent.closed).toBe(closed);
  expect(repairing.events).toMatchObject([
    { reason: "RepairBrokenPod", message: expect.stringMatching(why) },
  ]);
  expect(said(repairing, "warn")).toEqual(["cannot repair a broken pod; trying again"]);
  clock.advance(1_000);
  await waitFor("it has failed again", () => repairing.results.length === 2);
  expect(repairing.results).toEqual(["repair fail", "repair fail"]);
  expect(said(repairing, "warn")).toHaveLength(1);
});

// --- who is asked, and who refuses

test("two agents on two nodes each see to their own pods, by selectors too", async () => {
  const kube = await start();
  const on = (nodeName: string, name: string, options: BrokenPodOptions = {}) =>
    kube.server.put("pods", brokenPod(name, { nodeName, ...options }));
  on("n1", "a", { labels: { app: "web" } });
  on("n1", "b", { labels: { app: "db" } });
  on("n1", "c", { labels: { app: "web" }, namespace: "other" });
  on("n2", "d");
  const env = { REPAIR_LABEL_SELECTORS: "app in (web)", REPAIR_FIELD_SELECTORS: "metadata.namespace=shop" };
  const first = repair(kube, "delete", { env });
  const second = repair(kube, "delete", { nodeName: "n2" });
  await watching(kube, 2);
  await waitFor("both have worked", () => first.events.length + second.events.length === 2);
  expect([first, second].map(({ events }) => events.map(({ pod }) => pod))).toEqual([["a"], ["d"]]);
  expect(
    kube.server
      .requestsOf("watch", "pods")
      .map(({ query }) => [query.fieldSelector, query.labelSelector])
      .sort(),
  ).toEqual([
    ["metadata.namespace=shop,spec.nodeName=n1", "app in (web)"],
    ["spec.nodeName=n2", undefined],
  ]);
  expect(["a", "b", "d"].map((name) => isEnding(kube, name))).toEqual([true, false, true]);
});

test("a server that sends other nodes' pods has none of them deleted", async () => {
  const kube = await start();
  kube.server.put("pods", brokenPod("a"));
  kube.server.put("pods", brokenPod("d", { nodeName: "n2" }));
  const list = kube.client.list.bind(kube.client);
  kube.client.list = (path, _query, options) => list(path, {}, options);
  const repairing = repair(kube, "delete");
  await watching(kube);
  await waitFor("it has worked", () => repairing.results.length === 1);
  expect([isEnding(kube, "a"), isEnding(kube, "d")]).toEqual([true, false]);
});

test("a right that is missing is one line with the remedy for all pods, an Event for each, and is used once it is granted", async () => {
  const kube = await start();
  const clock = stoppedClock();
  const message = 'pods "a" is forbidden: User "agent" cannot delete resource "pods"';
  kube.server.faults.failures.push({ status: 403, verb: "delete", resource: "pods", message });
  for (const name of ["a", "b", "c"]) kube.server.put("pods", brokenPod(name));
  const repairing = repair(kube, "delete", { clock, random: () => 1 });
  await waitFor("all are refused", () => repairing.results.length === 3 && clock.pendingCount === 3);
  clock.advance(1_000);
  await waitFor("and again", () => repairing.results.length === 6 && clock.pendingCount === 3);
  const warned = repairing.log.lines.filter(({ level }) => level === "warn");
  expect(warned).toMatchObject([
    {
      message: "cannot delete broken pods; trying again",
      fields: {
        ns: "shop",
        err: {
          message: expect.stringMatching(/cannot delete resource "pods"; add the permission named here/),
        },
        remedy: expect.stringMatching(/repair.deletePods=true/),
      },
    },
  ]);
  expect(new Set(repairing.events.map(({ pod, reason }) => `${pod} ${reason}`))).toEqual(
    new Set(["a DeleteBrokenPod", "b DeleteBrokenPod", "c DeleteBrokenPod"]),
  );
  expect(new Set(repairing.results)).toEqual(new Set(["delete fail"]));
  expect(["a", "b", "c"].some((name) => isEnding(kube, name))).toBe(false);
  kube.server.faults.failures.length = 0;
  clock.advance(2_000);
  await waitFor("all are deleted", () => ["a", "b", "c"].every((name) => isEnding(kube, name)));
});

test("pods may not be listed: nothing is done, and the reason is said", async () => {
  const kube = await start();
  kube.server.faults.failures.push({ status: 403, verb: "list", resource: "pods", times: 1 });
  kube.server.put("pods", brokenPod("a"));
  const repairing = repair(kube, "delete");
  await waitFor("it is deleted once they may", () => isEnding(kube, "a"));
  expect(repairing.log.lines.filter(({ level }) => level === "warn")).toMatchObject([
    { message: "cannot watch; trying again", fields: { what: "pods that may have to be repaired" } },
  ]);
});

test("while the API server is away nothing is lost, and one line says so", async () => {
  const kube = await start();
  const clock = stoppedClock();
  for (const name of ["a", "b"]) kube.server.put("pods", brokenPod(name, { lastState: {} }));
  const original = kube.client.delete.bind(kube.client);
  let refusal: Promise<void> | undefined;
  kube.client.delete = async (...args) => {
    refusal ??= kube.server.refuse();
    await refusal;
    return await original(...args);
  };
  const repairing = repair(kube, "delete", { clock, random: () => 1 });
  await watching(kube);
  for (const name of ["a", "b"]) failAgain(kube, name, "containerd://c2");
  await waitFor("both have failed", () => repairing.results.length === 2 && clock.pendingCount === 2);
  expect(
    said(repairing, "warn").filter((line) => line === "cannot delete broken pods; trying again"),
  ).toHaveLength(1);
  await kube.server.listenAgain();
  clock.advance(1_000);
  await waitFor("both are deleted", () => repairing.results.length === 4);
  expect(["a", "b"].every((name) => isEnding(kube, name))).toBe(true);
  expect(repairing.results).toEqual(["delete fail", "delete fail", "delete success", "delete success"]);
});

test("a repair that is stopped gives up the request under way, waits for it, and begins none", async () => {
  const kube = await start();
  kube.server.put("pods", brokenPod("a"));
  const ends: string[] = [];
  kube.client.delete = (_path, _preconditions, { signal } = {}) =>
    new Promise((_, reject) => {
      ends.push("begun");
      signal?.addEventListener("abort", () => {
        ends.push("given up");
        reject(signal.reason);
      });
    });
  const repairing = repair(kube, "delete");
  await waitFor("it is under way", () => ends.length === 1);
  await watching(kube);
  await repairing.controller.stop();
  expect(ends).toEqual(["begun", "given up"]);
  await waitFor("the watch ends", () => kube.server.watches.size === 0);
  expect(repairing.results).toEqual([]);
  expect(repairing.events).toEqual([]);
  expect(said(repairing, "warn")).toEqual([]);
});

test("a field that the server does not know is said with its words", async () => {
  const kube = await start();
  const repairing = repair(kube, "delete", { env: { REPAIR_FIELD_SELECTORS: "spec.color=red" } });
  await waitFor("it is told", () => said(repairing, "warn").length > 0);
  expect(repairing.log.lines.find(({ level }) => level === "warn")).toMatchObject({
    fields: { err: { message: expect.stringMatching(/field label not supported: spec.color/) } },
  });
});
