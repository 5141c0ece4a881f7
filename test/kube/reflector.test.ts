// SPDX-License-Identifier: Apache-2.0
// A copy of the cluster that stays true over real sockets, through every fault the stub server knows.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import type { ObjectChange } from "../../src/kube/object-cache.ts";
import { type NamespaceFacts, type PodFacts, sameFacts, toPodFacts } from "../../src/kube/pod-facts.ts";
import { Reflector } from "../../src/kube/reflector.ts";
import type { ReflectorOptions } from "../../src/kube/reflector-options.ts";
import { Backoff } from "../../src/loop/backoff.ts";
import { systemClock } from "../../src/loop/clock.ts";
import { waitFor } from "../support/api-server.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { type KubeFixture, type LogLine, pod, recordingLogger, startKube } from "./kube-fixture.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

interface Watched extends KubeFixture {
  readonly reflector: Reflector<PodFacts>;
  readonly changes: string[];
  readonly lines: LogLine[];
}

const brief = (change: ObjectChange<PodFacts | NamespaceFacts>) =>
  `${change.type} ${(change.type === "set" ? change.current : change.previous).name}`;

/** Starts a server with the pods named, and a reflector that has listed them and watches. */
async function watching(
  names: readonly string[],
  options: {
    server?: Parameters<typeof startKube>[0];
    reflector?: Partial<ReflectorOptions<PodFacts>>;
    prepare?: (kube: KubeFixture) => void;
  } = {},
): Promise<Watched> {
  const kube = await startKube(options.server);
  cleanups.push(() => kube[Symbol.asyncDispose]());
  for (const name of names) kube.server.put("pods", pod(name));
  options.prepare?.(kube);
  const logger = recordingLogger();
  const reflector = new Reflector<PodFacts>({
    client: kube.client,
    what: "pods",
    path: "/api/v1/pods",
    query: { fieldSelector: "spec.nodeName=n1" },
    convert: toPodFacts,
    same: sameFacts,
    log: logger,
    backoff: new Backoff({ baseMs: 10, capMs: 50 }),
    ...options.reflector,
  });
  const changes: string[] = [];
  reflector.subscribe((change) => changes.push(brief(change)));
  reflector.start();
  cleanups.push(() => reflector.stop());
  await reflector.waitForSync();
  return { ...kube, reflector, changes, lines: logger.lines };
}

async function watchOpen({ server }: KubeFixture, reflector: Reflector<PodFacts>): Promise<void> {
  await waitFor("a watch is open", () => server.watches.size === 1 && reflector.isFresh(60_000));
}

const namesOf = (reflector: Reflector<PodFacts>) => [...reflector.values()].map(({ name }) => name).sort();
const lists = ({ server }: KubeFixture) => server.requestsOf("list", "pods").length;

test("a reflector lists, then follows events of its selection", async () => {
  const kube = await watching(["a", "b"]);
  const { server, reflector, changes } = kube;
  expect(changes).toEqual(["set a", "set b"]);
  await watchOpen(kube, reflector);
  server.put("pods", pod("c"));
  server.put("pods", pod("elsewhere", { nodeName: "n2" }));
  server.edit("pods", { name: "a", namespace: "shop" }, (object) => {
    object.metadata.labels = { x: "1" };
  });
  server.delete("pods", "b", "shop");
  await waitFor("all changes have come", () => changes.length === 5);
  expect(changes.slice(2)).toEqual(["set c", "set a", "delete b"]);
  expect(reflector.get("uid-a")?.labels).toEqual({ x: "1" });
  expect(namesOf(reflector)).toEqual(["a", "c"]);
  expect(lists(kube)).toBe(1);
  const [watch] = server.requestsOf("watch", "pods");
  expect(watch?.query).toMatchObject({ allowWatchBookmarks: "true", fieldSelector: "spec.nodeName=n1" });
  expect(Number(watch?.query.timeoutSeconds)).toBeGreaterThanOrEqual(40);
  expect(Number(watch?.query.timeoutSeconds)).toBeLessThanOrEqual(50);
});

test("a write that changes nothing of interest is not told", async () => {
  const kube = await watching(["a"]);
  const { server, reflector, changes } = kube;
  await watchOpen(kube, reflector);
  server.edit("pods", { name: "a", namespace: "shop" }, (object) => {
    object.metadata.annotations = { unrelated: "1" };
  });
  const version = String(server.store.version);
  await waitFor("the version is known", () => reflector.get("uid-a")?.resourceVersion === version);
  expect(changes).toEqual(["set a"]);
});

test("a watch that ends in order is resumed without a list, and without getting stale", async () => {
  const kube = await watching(["a"], { reflector: { watchSeconds: 1 } });
  const { server, reflector } = kube;
  await watchOpen(kube, reflector);
  let staleSeen = false;
  await waitFor("three watches", () => {
    staleSeen ||= !reflector.isFresh(60_000);
    return server.requestsOf("watch", "pods").length >= 3;
  });
  expect(staleSeen).toBe(false);
  expect(lists(kube)).toBe(1);
  expect(reflector.counts.failures).toBe(0);
});

test("what happened during a disconnect is caught up without a list", async () => {
  const kube = await watching(["a", "b"]);
  const { server, reflector, changes, lines } = kube;
  await watchOpen(kube, reflector);
  await server.refuse();
  await waitFor("the break is noticed", () => !reflector.isFresh(60_000));
  server.delete("pods", "a", "shop");
  server.put("pods", pod("c"));
  await server.listenAgain();
  await waitFor("all is caught up", () => changes.length === 4);
  expect(changes.slice(2)).toEqual(["delete a", "set c"]);
  expect(lists(kube)).toBe(1);
  expect(
    lines.some(({ level, message }) => level === "warn" && message === "cannot watch; trying again"),
  ).toBe(true);
  expect(lines.some(({ level, message }) => level === "info" && message === "watching again")).toBe(true);
});

test("a watch that works again is told of within moments, though nothing happens in its collection", async () => {
  const kube = await watching(["a"]);
  const { server, reflector, lines } = kube;
  await watchOpen(kube, reflector);
  await server.refuse();
  await waitFor("the break is noticed", () => !reflector.isFresh(60_000));
  await server.listenAgain();
  const told = () => lines.find(({ message }) => message === "watching again");
  await waitFor("that is told", () => told() !== undefined, 5_000);
  expect(reflector.counts.events).toBe(0);
});

test("after a bookmark a quiet watch resumes although its own events are forgotten", async () => {
  const kube = await watching(["a"], { server: { bookmarkMs: 20, historyLimit: 5 } });
  const { server, reflector, changes } = kube;
  await watchOpen(kube, reflector);
  for (let index = 0; index < 20; index += 1) server.put("pods", pod(`far${index}`, { nodeName: "n2" }));
  const before = reflector.counts.events;
  await waitFor("bookmarks have come", () => reflector.counts.events >= before + 2);
  server.dropWatches();
  server.put("pods", pod("b"));
  await waitFor("the new pod is known", () => changes.includes("set b"));
  expect(lists(kube)).toBe(1);
});

test.each(["event", "status"] as const)(
  "410 told by %s brings a list, with exact deletions",
  async (goneAs) => {
    const kube = await watching(["a", "b", "c", "d"]);
    const { server, reflector, changes } = kube;
    await watchOpen(kube, reflector);
    server.faults.goneAs = goneAs;
    await server.refuse();
    server.delete("pods", "b", "shop");
    server.delete("pods", "d", "shop");
    server.put("pods", pod("e"));
    server.edit("pods", { name: "c", namespace: "shop" }, (object) => {
      object.metadata.labels = { x: "1" };
    });
    server.store.compact();
    if (goneAs === "status") server.faults.goneOnWatch = 1;
    await server.listenAgain();
    await waitFor("all is caught up", () => changes.length >= 8);
    expect(changes.slice(4).sort()).toEqual(["delete b", "delete d", "set c", "set e"]);
    expect(namesOf(reflector)).toEqual(["a", "c", "e"]);
    expect(lists(kube)).toBe(2);
    expect(server.requestsOf("list", "pods").map(({ query }) => query.resourceVersion)).toEqual([
      "0",
      undefined,
    ]);
  },
);

test("a pod replaced under the same name during a disconnect is a deletion and an addition", async () => {
  const kube = await watching(["a"]);
  const { server, reflector, changes } = kube;
  await watchOpen(kube, reflector);
  await server.refuse();
  server.delete("pods", "a", "shop");
  server.put("pods", pod("a", { uid: "uid-second" }));
  server.store.compact();
  await server.listenAgain();
  await waitFor("all is caught up", () => changes.length === 3);
  expect(changes).toEqual(["set a", "delete a", "set a"]);
  expect([...reflector.values()].map(({ uid }) => uid)).toEqual(["uid-second"]);
});

test("a server that was set back to an older version is listed anew", async () => {
  const kube = await watching(["a"]);
  const { server, reflector, changes } = kube;
  await watchOpen(kube, reflector);
  server.faults.failures = [
    { status: 504, details: { causes: [{ reason: "ResourceVersionTooLarge" }] }, verb: "watch", times: 1 },
  ];
  server.dropWatches();
  await waitFor("a second list", () => lists(kube) === 2);
  await watchOpen(kube, reflector);
  expect(changes).toEqual(["set a"]);
});

/** A minute lasts a second. */
const hasty = { ...systemClock, nowMs: () => performance.now() * 60 };

test("a watch that the server cannot go on with from this version, whatever the reason, is begun anew with a list", async () => {
  const kube = await watching(["a"], { reflector: { clock: hasty } });
  const { server, reflector, changes } = kube;
  await watchOpen(kube, reflector);
  const resourceVersion = String(server.store.version);
  server.faults.failures = [{ status: 500, verb: "watch", resourceVersion }];
  server.dropWatches();
  server.put("pods", pod("b"));
  await waitFor("the new pod is known", () => changes.includes("set b"), 5_000);
  expect(lists(kube)).toBe(2);
});

test.each([
  ["answers 500 for less than a minute", { status: 500 }],
  ["asks for patience", { status: 429 }],
  ["has a balancer answer for it", { status: 502, text: "Bad Gateway" }],
  ["refuses it", { status: 403 }],
])("a server that %s is not asked for a list besides", async (what, answer) => {
  const kube = await watching(["a"], { reflector: what.includes("minute") ? {} : { clock: hasty } });
  const { server, reflector } = kube;
  await watchOpen(kube, reflector);
  server.faults.failures = [{ ...answer, verb: "watch" }];
  server.dropWatches();
  await waitFor("minutes", () => reflector.counts.failures > 40, 10_000);
  expect(lists(kube)).toBe(1);
});

test("a half-open connection is found after the watch's own end, and replaced", async () => {
  const kube = await watching(["a"], {
    server: { limits: { watchOpenMs: 300, headersMs: 300 } },
    reflector: { watchSeconds: 1, graceMs: 200 },
  });
  const { server, reflector, changes } = kube;
  await watchOpen(kube, reflector);
  server.faults.hang = true;
  const silentFromMs = performance.now();
  await waitFor("the silence is noticed", () => !reflector.isFresh(60_000));
  expect(performance.now() - silentFromMs).toBeLessThan(1700);
  server.put("pods", pod("b"));
  server.faults.hang = false;
  await waitFor("the new pod is known", () => changes.includes("set b"));
  expect(lists(kube)).toBe(1);
});

test("with its own limits a half-open connection is found in less than 60 s", async () => {
  const silences: number[] = [];
  const client = {
    list: async () => ({ items: [], resourceVersion: "5" }),
    // biome-ignore lint/correctness/useYield: a watch that ends without an event.
    async *watch(_path: string, _query: object, options: { silenceMs: number }) {
      silences.push(options.silenceMs);
    },
  };
  for (const random of [0, 0.5, 0.999]) {
    const reflector = new Reflector<PodFacts>({
      client,
      what: "pods",
      path: "/p",
      convert: toPodFacts,
      log: recordingLogger(),
      random: () => random,
      backoff: new Backoff({ baseMs: 60_000, random: () => 1 }),
    });
    reflector.start();
    await reflector.waitForSync();
    await waitFor("a watch was opened", () => reflector.counts.watches === 1);
    await reflector.stop();
  }
  expect(silences).toEqual([45_000, 50_000, 55_000]);
});

test("lists that are refused, cut or slow only delay the start", async () => {
  const kube = await watching(["a", "b"], {
    prepare: ({ server }) => {
      server.faults.failures = [
        { status: 500, times: 1 },
        { status: 403, times: 1 },
        { status: 429, times: 1 },
      ];
      server.faults.cutLists = 2;
      server.faults.slowListMs = 100;
    },
  });
  expect(namesOf(kube.reflector)).toEqual(["a", "b"]);
  expect(kube.reflector.counts.failures).toBe(5);
  expect(kube.changes).toEqual(["set a", "set b"]);
});

test("events that come twice or swapped do no harm", async () => {
  const kube = await watching([]);
  const { server, reflector, changes } = kube;
  await watchOpen(kube, reflector);
  server.faults.duplicateEvents = true;
  server.put("pods", pod("a"));
  server.delete("pods", "a", "shop");
  await waitFor("the deletion is known", () => changes.includes("delete a"));
  server.faults.duplicateEvents = false;
  server.faults.swapEvents = true;
  server.put("pods", pod("b"));
  server.edit("pods", { name: "b", namespace: "shop" }, (object) => {
    object.metadata.labels = { step: "2" };
  });
  server.put("pods", pod("c"));
  server.delete("pods", "c", "shop");
  await waitFor("all four events have come", () => reflector.counts.events === 8);
  expect(changes).toEqual(["set a", "delete a", "set b"]);
  expect(reflector.get("uid-b")?.labels).toEqual({ step: "2" });
  expect(reflector.counts.ignoredEvents).toBe(5);
});

test("a garbled event costs a new list and nothing else", async () => {
  const kube = await watching(["a"]);
  const { server, reflector, changes } = kube;
  await watchOpen(kube, reflector);
  server.faults.garbleEvents = 1;
  server.put("pods", pod("b"));
  await waitFor("the new pod is known", () => changes.includes("set b"));
  expect(changes).toEqual(["set a", "set b"]);
  expect(lists(kube)).toBe(2);
});

test("a server that drops every watch at once is not hammered", async () => {
  const kube = await watching(["a"], {
    reflector: { backoff: new Backoff({ baseMs: 100, capMs: 30_000, random: () => 1 }) },
  });
  const { server } = kube;
  const until = performance.now() + 1000;
  await waitFor("a second has passed", () => {
    server.endWatches();
    return performance.now() > until;
  });
  // 100, 200 and 400 ms after the first, the next would come after 1500 ms.
  expect(server.requestsOf("watch", "pods").length).toBeLessThanOrEqual(5);
  expect(lists(kube)).toBe(1);
});

test("a watch that is ended at once, each time after a word that brings nothing on, is not asked for without a pause", async () => {
  const clock = new FakeClock();
  let watches = 0;
  const client = {
    list: async () => ({ items: [], resourceVersion: "5" }),
    async *watch() {
      watches += 1;
      yield { type: "BOOKMARK" as const, object: { metadata: { resourceVersion: "5" } } };
    },
  };
  const reflector = new Reflector<PodFacts>({
    client,
    what: "pods",
    path: "/p",
    convert: toPodFacts,
    log: recordingLogger(),
    clock,
    backoff: new Backoff({ baseMs: 100, capMs: 30_000, random: () => 1 }),
  });
  cleanups.push(() => reflector.stop());
  reflector.start();
  for (const [index, pauseMs] of [100, 200, 400, 800].entries()) {
    await waitFor("the next pause", () => clock.nextDueMs() === clock.nowMs() + pauseMs);
    expect([watches, reflector.counts.failures]).toEqual([index + 1, index + 1]);
    clock.advance(pauseMs);
  }
});

test("a server that asks for patience gets it", async () => {
  const kube = await watching(["a"]);
  await watchOpen(kube, kube.reflector);
  kube.server.faults.failures = [{ status: 429, verb: "watch", times: 1, retryAfterSeconds: 1 }];
  const fromMs = performance.now();
  kube.server.dropWatches();
  await waitFor("the break is noticed", () => !kube.reflector.isFresh(60_000));
  await watchOpen(kube, kube.reflector);
  expect(performance.now() - fromMs).toBeGreaterThan(900);
});

test("a listener that throws stops neither the others nor the watch", async () => {
  const kube = await watching([]);
  const { server, reflector, lines } = kube;
  reflector.subscribe(() => {
    throw new Error("broken listener");
  });
  const after: string[] = [];
  const unsubscribe = reflector.subscribe((change) => after.push(brief(change)));
  await watchOpen(kube, reflector);
  server.put("pods", pod("a"));
  server.put("pods", pod("b"));
  await waitFor("both have come", () => after.length === 2);
  expect(lines.filter(({ message }) => message === "a listener failed on a change")).toHaveLength(2);
  unsubscribe();
  server.put("pods", pod("c"));
  await waitFor("the third is known", () => reflector.get("uid-c") !== undefined);
  expect(after).toHaveLength(2);
});

test("freshness follows the connection and the clock", async () => {
  let nowMs = 1000;
  const clock = { ...systemClock, nowMs: () => nowMs, sleep: () => Promise.resolve() };
  const kube = await watching(["a"], { reflector: { clock } });
  const { server, reflector } = kube;
  await watchOpen(kube, reflector);
  expect(reflector.lastContactMs).toBe(1000);
  nowMs = 61_000;
  expect(reflector.isFresh(60_000)).toBe(true);
  nowMs = 61_001;
  expect(reflector.isFresh(60_000)).toBe(false);
  server.put("pods", pod("b"));
  await waitFor("the event has come", () => reflector.isFresh(60_000));
  expect(reflector.lastContactMs).toBe(61_001);
  await reflector.stop();
  expect(reflector.isFresh(60_000)).toBe(false);
});

test("an expired token is replaced during a watch's reconnection", async () => {
  const folder = mkdtempSync(join(tmpdir(), "ambient-token-"));
  cleanups.push(() => rmSync(folder, { recursive: true, force: true }));
  writeFileSync(`${folder}/token`, "first");
  const kube = await watching(["a"], { server: { tokens: ["first"], tokenFile: `${folder}/token` } });
  const { server, reflector, changes } = kube;
  await watchOpen(kube, reflector);
  writeFileSync(`${folder}/token`, "second");
  server.tokens = ["second"];
  server.dropWatches();
  server.put("pods", pod("b"));
  await waitFor("the new pod is known", () => changes.includes("set b"));
  expect(reflector.counts.failures).toBe(1);
  expect(lists(kube)).toBe(1);
});

test("waiting for the first list ends with the caller's signal", async () => {
  const kube = await startKube();
  cleanups.push(() => kube[Symbol.asyncDispose]());
  kube.server.faults.hang = true;
  const reflector = new Reflector<PodFacts>({
    client: kube.client,
    what: "pods",
    path: "/api/v1/pods",
    convert: toPodFacts,
    log: recordingLogger(),
  });
  reflector.start();
  const isLate = new Promise((resolve) => setTimeout(resolve, 50, "late"));
  expect(await Promise.race([reflector.waitForSync(), isLate])).toBe("late");
  expect(reflector.synced).toBe(false);
  expect(reflector.isFresh(60_000)).toBe(false);
  await reflector.stop();
});

test("stopping ends the watch at once and starts no other", async () => {
  const kube = await watching(["a"]);
  const { server, reflector } = kube;
  await watchOpen(kube, reflector);
  await reflector.stop();
  await waitFor("the server has seen the end", () => server.watches.size === 0);
  expect(server.requestsOf("watch", "pods")).toHaveLength(1);
  expect(namesOf(reflector)).toEqual(["a"]);
});
