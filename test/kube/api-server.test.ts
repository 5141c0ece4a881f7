// SPDX-License-Identifier: Apache-2.0
// The stub API server itself: it must behave as the real one where our client could trip.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { afterEach, expect, test } from "vitest";
import type { KubeObject } from "../support/api-server/objects.ts";
import { ApiServer } from "../support/api-server.ts";
import { pod } from "./kube-fixture.ts";

const servers: ApiServer[] = [];
afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => server.stop()));
});

async function start(options: Parameters<typeof ApiServer.start>[0] = {}): Promise<ApiServer> {
  const server = await ApiServer.start(options);
  servers.push(server);
  return server;
}

interface Answer {
  status: number;
  body: { metadata: Record<string, unknown>; items: KubeObject[]; [field: string]: unknown };
}

async function call(server: ApiServer, path: string, init: RequestInit = {}): Promise<Answer> {
  const response = await fetch(server.url + path, init);
  return { status: response.status, body: (await response.json()) as Answer["body"] };
}

function patch(body: object, type = "application/merge-patch+json"): RequestInit {
  return { method: "PATCH", body: JSON.stringify(body), headers: { "content-type": type } };
}

interface Event {
  type: string;
  object: {
    metadata: { name?: string; resourceVersion: string; annotations?: object };
    [field: string]: unknown;
  };
}

/** Reads events until the stream ends or `count` have come. */
async function events(server: ApiServer, path: string, count = Number.POSITIVE_INFINITY): Promise<Event[]> {
  const abort = new AbortController();
  const response = await fetch(server.url + path, { signal: abort.signal });
  expect(response.status).toBe(200);
  const seen: Event[] = [];
  let text = "";
  for await (const chunk of response.body!) {
    text += Buffer.from(chunk).toString();
    const lines = text.split("\n");
    text = lines.pop() ?? "";
    seen.push(...lines.map((line) => JSON.parse(line) as Event));
    if (seen.length >= count) break;
  }
  abort.abort();
  return seen;
}

const brief = (event: Event) => `${event.type} ${event.object.metadata.name ?? ""}`.trim();

test("a list has a version, selected items and pages when asked", async () => {
  const server = await start();
  for (const name of ["a", "b", "c"]) server.put("pods", pod(name));
  server.put("pods", pod("d", { nodeName: "n2", labels: { tier: "x" } }));
  const all = await call(server, "/api/v1/pods");
  expect(all.body.kind).toBe("PodList");
  expect(all.body.metadata.resourceVersion).toBe(String(server.store.version));
  expect(all.body.items.map((item) => item.metadata.name)).toEqual(["a", "b", "c", "d"]);
  const first = await call(server, "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1&limit=2");
  expect(first.body.items.map((item) => item.metadata.name)).toEqual(["a", "b"]);
  expect(first.body.metadata.remainingItemCount).toBe(1);
  server.delete("pods", "c", "shop");
  const second = await call(
    server,
    `/api/v1/pods?limit=2&continue=${first.body.metadata.continue as string}`,
  );
  expect(second.body.items.map((item) => item.metadata.name)).toEqual(["c"]);
  expect(second.body.metadata.continue).toBeUndefined();
  const again = await call(server, `/api/v1/pods?continue=${first.body.metadata.continue as string}`);
  expect(again).toMatchObject({ status: 410, body: { kind: "Status", reason: "Expired" } });
});

test.each([
  ["labelSelector=tier%3Dx", ["p1"]],
  ["labelSelector=tier%21%3Dx", ["p2", "p3"]],
  ["labelSelector=tier%20in%20%28x%2Cy%29", ["p1", "p2"]],
  ["labelSelector=tier%20notin%20%28x%29%2Ctier", ["p2"]],
  ["labelSelector=%21tier", ["p3"]],
  ["fieldSelector=metadata.name%3Dp2", ["p2"]],
  ["fieldSelector=metadata.name%21%3Dp2", ["p1", "p3"]],
  ["fieldSelector=status.phase%3DRunning%2Cspec.nodeName%3Dn1", ["p1", "p2"]],
  ["fieldSelector=metadata.namespace%3Dother", []],
])("a list with %s has the pods %j", async (query, names) => {
  const server = await start();
  server.put("pods", pod("p1", { labels: { tier: "x" } }));
  server.put("pods", pod("p2", { labels: { tier: "y" } }));
  server.put("pods", pod("p3", { nodeName: "n2" }));
  const { body } = await call(server, `/api/v1/namespaces/shop/pods?${query}`);
  expect(body.items.map((item) => item.metadata.name)).toEqual(names);
});

test("faulty requests are answered with a Status", async () => {
  const server = await start({ tokens: ["secret"] });
  const authorized = { headers: { authorization: "Bearer secret" } };
  expect(await call(server, "/api/v1/pods")).toMatchObject({ status: 401, body: { reason: "Unauthorized" } });
  for (const [path, status, reason] of [
    ["/api/v1/namespaces/shop/pods/x", 404, "NotFound"],
    ["/api/v1/widgets", 404, "NotFound"],
    ["/api/v1/pods?fieldSelector=spec.host%3Da", 400, "BadRequest"],
    ["/api/v1/pods?resourceVersion=999999", 504, "Timeout"],
  ] as const) {
    const answer = await call(server, path, authorized);
    expect(answer).toMatchObject({
      status,
      body: { kind: "Status", status: "Failure", reason, code: status },
    });
  }
});

test("metadata alone is sent when asked for", async () => {
  const server = await start();
  server.put("namespaces", { metadata: { name: "shop" }, spec: { finalizers: ["kubernetes"] } });
  const headers = {
    accept: "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
  };
  const { body } = await call(server, "/api/v1/namespaces", { headers });
  expect(body.kind).toBe("PartialObjectMetadataList");
  expect(body.items[0]).toMatchObject({
    metadata: { name: "shop", labels: { "kubernetes.io/metadata.name": "shop" } },
  });
  expect(body.items[0]?.spec).toBeUndefined();
});

test("create, patch and delete keep identity and count versions", async () => {
  const server = await start();
  const create = (path: string, object: object) =>
    call(server, path, {
      method: "POST",
      body: JSON.stringify(object),
      headers: { "content-type": "application/json" },
    });
  expect(await create("/api/v1/namespaces/shop/pods", pod("a"))).toMatchObject({ status: 404 });
  expect(await create("/api/v1/namespaces", { metadata: { name: "shop" } })).toMatchObject({ status: 201 });
  const created = await create("/api/v1/namespaces/shop/pods", pod("a"));
  expect(created.status).toBe(201);
  expect(created.body.metadata.uid).toMatch(/^[0-9a-f-]{36}$/);
  expect(await create("/api/v1/namespaces/shop/pods", pod("a"))).toMatchObject({
    status: 409,
    body: { reason: "AlreadyExists" },
  });
  const path = "/api/v1/namespaces/shop/pods/a";
  const labelled = await call(server, path, patch({ metadata: { labels: { x: "1" } } }));
  expect(labelled.body.metadata).toMatchObject({ uid: created.body.metadata.uid, labels: { x: "1" } });
  expect(Number(labelled.body.metadata.resourceVersion)).toBeGreaterThan(
    Number(created.body.metadata.resourceVersion),
  );
  const same = await call(server, path, patch({ metadata: { labels: { x: "1" } } }));
  expect(same.body.metadata.resourceVersion).toBe(labelled.body.metadata.resourceVersion);
  const marked = await call(server, path, { method: "DELETE" });
  expect(marked.body.metadata.deletionTimestamp).toBeDefined();
  expect((await call(server, path)).status).toBe(200);
  await call(server, `${path}?gracePeriodSeconds=0`, { method: "DELETE" });
  expect((await call(server, path)).status).toBe(404);
});

test("a patch through status changes annotations and status but not the spec", async () => {
  const server = await start();
  server.put("pods", pod("a", { uid: "u-a" }));
  const { status, body } = await call(
    server,
    "/api/v1/namespaces/shop/pods/a/status",
    patch({
      metadata: { uid: "u-a", annotations: { k: "v" } },
      spec: { nodeName: "n9" },
      status: { phase: "Failed" },
    }),
  );
  expect(status).toBe(200);
  expect(body).toMatchObject({
    metadata: { annotations: { k: "v" } },
    spec: { nodeName: "n1" },
    status: { phase: "Failed" },
  });
  const removed = await call(
    server,
    "/api/v1/namespaces/shop/pods/a/status",
    patch({ metadata: { annotations: { k: null } } }),
  );
  expect(removed.body.metadata.annotations).toEqual({});
});

test.each([
  [{ metadata: { uid: "other" } }, "application/merge-patch+json", 422],
  [{ metadata: { resourceVersion: "1" } }, "application/merge-patch+json", 409],
  [[{ op: "add" }], "application/json-patch+json", 415],
])("the patch %j as %s is answered with %d", async (body, type, status) => {
  const server = await start();
  server.put("pods", pod("a"));
  expect((await call(server, "/api/v1/namespaces/shop/pods/a", patch(body, type))).status).toBe(status);
});

test("a watch resumes from a version and shows what its selector sees", async () => {
  const server = await start();
  server.put("pods", pod("a"));
  const { body } = await call(server, "/api/v1/pods");
  server.put("pods", pod("b"));
  server.put("pods", pod("far", { nodeName: "n2" }));
  server.edit("pods", { name: "a", namespace: "shop" }, (object) => {
    object.metadata.labels = { x: "1" };
  });
  server.edit("pods", { name: "b", namespace: "shop" }, (object) => {
    object.spec = { nodeName: "n2" };
  });
  server.delete("pods", "a", "shop");
  const version = body.metadata.resourceVersion as string;
  const seen = await events(
    server,
    `/api/v1/pods?watch=1&resourceVersion=${version}&fieldSelector=spec.nodeName%3Dn1`,
    4,
  );
  expect(seen.map(brief)).toEqual(["ADDED b", "MODIFIED a", "DELETED b", "DELETED a"]);
});

test("a watch ends after its timeout, with bookmarks before", async () => {
  const server = await start({ bookmarkMs: 200 });
  const seen = await events(
    server,
    `/api/v1/pods?watch=true&resourceVersion=${server.store.version}&allowWatchBookmarks=true&timeoutSeconds=1`,
  );
  expect(seen.length).toBeGreaterThanOrEqual(3);
  expect(seen.map(brief)).toEqual(seen.map(() => "BOOKMARK"));
  expect(seen[0]?.object.metadata.resourceVersion).toBe(String(server.store.version));
});

test("a watch from forgotten history gets 410", async () => {
  const server = await start({ historyLimit: 2 });
  const old = server.store.version;
  for (const name of ["a", "b", "c"]) server.put("pods", pod(name));
  const [error] = await events(server, `/api/v1/pods?watch=true&resourceVersion=${old}`);
  expect(error).toMatchObject({ type: "ERROR", object: { kind: "Status", code: 410, reason: "Expired" } });
  const recent = await events(
    server,
    `/api/v1/pods?watch=true&resourceVersion=${server.store.version - 1}`,
    1,
  );
  expect(recent.map(brief)).toEqual(["ADDED c"]);
});

test("a watch with initial events sends the state and then says so", async () => {
  const server = await start();
  server.put("pods", pod("a"));
  const query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
  const seen = await events(server, `/api/v1/pods?${query}`, 2);
  expect(seen.map(brief)).toEqual(["ADDED a", "BOOKMARK"]);
  expect(seen[1]?.object.metadata.annotations).toEqual({ "k8s.io/initial-events-end": "true" });
  server.faults.rejectSendInitialEvents = true;
  expect(await call(server, `/api/v1/pods?${query}`)).toMatchObject({
    status: 422,
    body: { reason: "Invalid" },
  });
});

test("deleting a namespace takes its pods along", async () => {
  const server = await start();
  server.put("namespaces", { metadata: { name: "shop" } });
  server.put("pods", pod("a"));
  const from = server.store.version;
  server.delete("namespaces", "shop");
  expect((await events(server, `/api/v1/pods?watch=1&resourceVersion=${from}`, 1)).map(brief)).toEqual([
    "DELETED a",
  ]);
});

test("as a process it serves, obeys its control paths and ends when told to", async () => {
  const child = spawn(process.execPath, ["test/support/api-server/main.ts", "--token", "t"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  try {
    const [line] = (await once(createInterface({ input: child.stdout }), "line")) as [string];
    const { url } = JSON.parse(line) as { url: string };
    const put = await fetch(`${url}/stub/objects/pods`, {
      method: "POST",
      body: JSON.stringify([pod("a"), pod("b")]),
    });
    expect(put.status).toBe(200);
    await fetch(`${url}/stub/faults`, {
      method: "PATCH",
      body: JSON.stringify({ failures: [{ status: 500, times: 1 }] }),
    });
    const headers = { authorization: "Bearer t" };
    expect((await fetch(`${url}/api/v1/pods`, { headers })).status).toBe(500);
    const list = (await (await fetch(`${url}/api/v1/pods`, { headers })).json()) as { items: unknown[] };
    expect(list.items).toHaveLength(2);
    const log = (await (await fetch(`${url}/stub/requests`)).json()) as { status: number }[];
    expect(log.map(({ status }) => status)).toEqual([500, 200]);
  } finally {
    child.kill("SIGTERM");
    await once(child, "exit");
  }
});
