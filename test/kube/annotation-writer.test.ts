// SPDX-License-Identifier: Apache-2.0
// The annotation writer: last wish wins, one write at a time for each pod, and every refusal understood.
import { afterEach, expect, test } from "vitest";
import { AnnotationWriter, type AnnotationWriterOptions } from "../../src/kube/annotation-writer.ts";
import { type PodFacts, toPodFacts } from "../../src/kube/pod-facts.ts";
import { systemClock } from "../../src/loop/clock.ts";
import { type ApiServer, waitFor } from "../support/api-server.ts";
import { pod, recordingLogger, startKube } from "./kube-fixture.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

const annotation = "ambient.istio.io/redirection";

async function start(names: readonly string[], options: Partial<AnnotationWriterOptions> = {}) {
  const kube = await startKube();
  cleanups.push(() => kube[Symbol.asyncDispose]());
  for (const name of names) kube.server.put("pods", pod(name));
  const logger = recordingLogger();
  const writer = new AnnotationWriter({
    client: kube.client,
    lookup: () => undefined,
    log: logger,
    backoff: { baseMs: 5, capMs: 20 },
    ...options,
  });
  cleanups.push(() => writer.stop());
  return { ...kube, writer, lines: logger.lines };
}

const ref = (name: string) => ({ uid: `uid-${name}`, namespace: "shop", name });
const annotationOf = (server: ApiServer, name: string) =>
  server.store.get("pods", name, "shop").metadata.annotations?.[annotation];
const patches = (server: ApiServer) => server.requestsOf("patch", "pods");
const seenBy =
  (server: ApiServer) =>
  (uid: string): PodFacts | undefined =>
    server.store
      .list("pods")
      .map(toPodFacts)
      .find((facts) => facts?.uid === uid);

test("each value is written through status with the pod's UID", async () => {
  const { server, writer } = await start(["a"]);
  for (const [value, expected] of [
    ["pending", "pending"],
    ["enabled", "enabled"],
    [null, undefined],
  ] as const) {
    writer.set(ref("a"), value);
    await writer.idle();
    expect(annotationOf(server, "a")).toBe(expected);
  }
  expect(patches(server).map(({ path, body }) => [path, body])).toEqual(
    ["pending", "enabled", null].map((value) => [
      "/api/v1/namespaces/shop/pods/a/status",
      { metadata: { uid: "uid-a", annotations: { [annotation]: value } } },
    ]),
  );
  expect(writer.counts).toEqual({ written: 3, skipped: 0, retried: 0, gone: 0 });
});

test("other annotations of the pod stay", async () => {
  const { server, writer } = await start(["a"]);
  server.edit("pods", { name: "a", namespace: "shop" }, (object) => {
    object.metadata.annotations = { other: "1" };
  });
  writer.set(ref("a"), "enabled");
  await writer.idle();
  writer.set(ref("a"), null);
  await writer.idle();
  expect(server.store.get("pods", "a", "shop").metadata.annotations).toEqual({ other: "1" });
});

test("only the last wish is written while a write is under way", async () => {
  const { server, writer } = await start(["a"]);
  for (let index = 0; index < 50; index += 1) writer.set(ref("a"), index % 2 === 0 ? "pending" : null);
  writer.set(ref("a"), "enabled");
  await writer.idle();
  expect(patches(server)).toHaveLength(2);
  expect(annotationOf(server, "a")).toBe("enabled");
});

test("a pod never has two writes under way, all pods together no more than allowed", async () => {
  const names = Array.from({ length: 30 }, (_, index) => `p${index}`);
  let running = 0;
  let most = 0;
  let overlaps = 0;
  const perPod = new Map<string, number>();
  const client = {
    async mergePatch(path: string) {
      running += 1;
      most = Math.max(most, running);
      perPod.set(path, (perPod.get(path) ?? 0) + 1);
      if (perPod.get(path) !== 1) overlaps += 1;
      await new Promise((resolve) => setImmediate(resolve));
      perPod.set(path, 0);
      running -= 1;
      return {};
    },
  };
  const { writer } = await start([], { client });
  for (const value of ["pending", "enabled", null, "enabled"] as const) {
    for (const name of names) writer.set(ref(name), value);
    await new Promise((resolve) => setImmediate(resolve));
  }
  for (const name of names) writer.forget(`uid-${name}`);
  for (const name of names) writer.set(ref(name), "pending");
  await writer.idle();
  expect(most).toBe(4);
  expect(overlaps).toBe(0);
  expect(writer.pending).toBe(0);
});

test("nothing is written when the annotation is known to be right", async () => {
  const kube = await startKube();
  cleanups.push(() => kube[Symbol.asyncDispose]());
  const { server } = kube;
  server.put("pods", pod("a"));
  const writer = new AnnotationWriter({
    client: kube.client,
    lookup: seenBy(server),
    log: recordingLogger(),
  });
  writer.set(ref("a"), null);
  await writer.idle();
  writer.set(ref("a"), "enabled");
  await writer.idle();
  writer.set(ref("a"), "enabled");
  await writer.idle();
  expect(patches(server)).toHaveLength(1);
  expect(writer.counts).toMatchObject({ written: 1, skipped: 2 });
  server.edit("pods", { name: "a", namespace: "shop" }, (object) => {
    object.metadata.annotations = { [annotation]: "something" };
  });
  writer.set(ref("a"), "enabled");
  await writer.idle();
  expect(annotationOf(server, "a")).toBe("enabled");
});

test("an own write counts before the watch shows it", async () => {
  const before = toPodFacts({ ...pod("a"), metadata: { ...pod("a").metadata, resourceVersion: "1" } });
  const { server, writer } = await start(["a"], { lookup: () => before });
  writer.set(ref("a"), "enabled");
  await writer.idle();
  writer.set(ref("a"), "enabled");
  await writer.idle();
  expect(patches(server)).toHaveLength(1);
  writer.set(ref("a"), null);
  await writer.idle();
  expect(annotationOf(server, "a")).toBeUndefined();
});

test("an own write counts no more when the store was set back to before it", async () => {
  const before = toPodFacts({ ...pod("a"), metadata: { ...pod("a").metadata, resourceVersion: "1" } });
  const { server, writer } = await start(["a"], { lookup: () => before });
  writer.set(ref("a"), "enabled");
  await writer.idle();
  writer.forgetVersions();
  writer.set(ref("a"), "enabled");
  await writer.idle();
  expect(patches(server)).toHaveLength(2);
});

test.each([409, 429, 500, 503, 401])("status %d is tried again until it works", async (status) => {
  const { server, writer } = await start(["a"]);
  server.faults.failures = [{ status, verb: "patch", times: 4 }];
  writer.set(ref("a"), "enabled");
  await writer.idle();
  expect(annotationOf(server, "a")).toBe("enabled");
  expect(writer.counts).toMatchObject({ written: 1, gone: 0 });
});

test("a write is tried again when the server comes back, with the last wish", async () => {
  const { server, writer, lines } = await start(["a"]);
  await server.refuse();
  writer.set(ref("a"), "pending");
  await waitFor("it has been tried", () => writer.counts.retried >= 3);
  writer.set(ref("a"), "enabled");
  await server.listenAgain();
  await writer.idle();
  expect(annotationOf(server, "a")).toBe("enabled");
  expect(patches(server)).toHaveLength(1);
  expect(lines.filter(({ level }) => level === "warn")).toHaveLength(1);
});

test("a write that failed is not taken back by looking at an old state", async () => {
  const before = toPodFacts({ ...pod("a"), metadata: { ...pod("a").metadata, resourceVersion: "1" } });
  const pause = Promise.withResolvers<void>();
  const after = (_ms: number, run: () => void) => {
    void pause.promise.then(run);
    return { cancel: () => {} };
  };
  const clock = { ...systemClock, after };
  const { server, writer } = await start(["a"], { lookup: () => before, clock });
  server.faults.failures = [{ status: 500, verb: "patch", times: 1 }];
  writer.set(ref("a"), "enabled");
  await waitFor("it has been tried", () => writer.counts.retried === 1);
  writer.set(ref("a"), null);
  pause.resolve();
  await writer.idle();
  expect(patches(server)).toHaveLength(2);
});

test("a pod that is gone ends its writes", async () => {
  const { writer, lines } = await start([]);
  writer.set(ref("a"), "enabled");
  await writer.idle();
  expect(writer.counts).toMatchObject({ gone: 1, retried: 0 });
  expect(lines.filter(({ level }) => level !== "debug")).toEqual([]);
});

test("a pod is not gone because a balancer without an API server says so", async () => {
  const { server, writer } = await start(["a"]);
  server.faults.failures.push({ status: 404, text: "404 page not found\n", verb: "patch", times: 2 });
  writer.set(ref("a"), "enabled");
  await writer.idle();
  expect(annotationOf(server, "a")).toBe("enabled");
  expect(writer.counts).toMatchObject({ written: 1, retried: 2, gone: 0 });
});

test("another pod of the same name is never annotated", async () => {
  const { server, writer } = await start([]);
  server.put("pods", pod("a", { uid: "someone-else" }));
  writer.set(ref("a"), "enabled");
  await writer.idle();
  expect(annotationOf(server, "a")).toBeUndefined();
  expect(writer.counts).toMatchObject({ gone: 1, written: 0 });
});

test("a UID checked as a precondition ends the writes too", async () => {
  const { server, writer } = await start(["a"]);
  const message =
    "Operation cannot be fulfilled: Precondition failed: UID in precondition: a, UID in object meta: b";
  server.faults.failures = [{ status: 409, verb: "patch", message }];
  writer.set(ref("a"), "enabled");
  await writer.idle();
  expect(writer.counts).toMatchObject({ gone: 1, retried: 0 });
});

test.each([400, 403, 422])(
  "what is refused (%s) is not given up: it is told once, is known until then, and written when it may be",
  async (status) => {
    const { server, writer, lines } = await start(["a"]);
    server.faults.failures = [{ status, verb: "patch", message: "denied by policy" }];
    writer.set(ref("a"), null);
    await waitFor("three tries", () => writer.counts.retried >= 3);
    expect(writer.isWriting("uid-a")).toBe(true);
    expect(lines.map(({ level }) => level).filter((level) => level !== "debug")).toEqual(["error"]);
    expect(writer.refusal("uid-a")).toMatchObject({
      at: expect.stringMatching(/^\d{4}-.*Z$/),
      message: expect.stringContaining("denied by policy"),
      attempts: writer.counts.retried,
    });
    server.faults.failures = [];
    await writer.idle();
    expect(writer.counts).toMatchObject({ written: 1, gone: 0 });
    expect(writer.refusal("uid-a")).toBeUndefined();
  },
);

test.each([429, 500, 401])("what fails (%s) was not refused", async (status) => {
  const { server, writer } = await start(["a"]);
  server.faults.failures = [{ status, verb: "patch" }];
  writer.set(ref("a"), "enabled");
  await waitFor("two tries", () => writer.counts.retried >= 2);
  expect(writer.refusal("uid-a")).toBeUndefined();
});

test("forgetting a pod and stopping end what is under way", async () => {
  const { server, writer } = await start(["a", "b"]);
  server.faults.failures = [{ status: 500, verb: "patch" }];
  writer.set(ref("a"), "enabled");
  writer.set(ref("b"), "enabled");
  await waitFor("both have been tried", () => writer.counts.retried >= 2);
  writer.forget("uid-a");
  await waitFor("one is left", () => writer.pending === 1);
  writer.stop();
  await writer.idle();
  expect(writer.pending).toBe(0);
  server.faults.failures = [];
  const count = patches(server).length;
  writer.set(ref("a"), "enabled");
  await writer.idle();
  expect(patches(server)).toHaveLength(count);
});
