// SPDX-License-Identifier: Apache-2.0
// Requests over real sockets: answers, deadlines, credentials that rotate, and errors an operator can use.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { ApiClient, podPath, type WatchEvent } from "../../src/kube/api-client.ts";
import { ApiError } from "../../src/kube/api-error.ts";
import { kubeconfigText, writeKubeconfig } from "../support/api-server/kubeconfig.ts";
import { waitFor } from "../support/api-server.ts";
import { type KubeFixture, pod, startKube } from "./kube-fixture.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function start(options: Parameters<typeof startKube>[0] = {}): Promise<KubeFixture> {
  const kube = await startKube(options);
  cleanups.push(() => kube[Symbol.asyncDispose]());
  return kube;
}

async function failure(promise: Promise<unknown>): Promise<ApiError> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(ApiError);
  return error as ApiError;
}

const nameOf = (raw: unknown) => (raw as { metadata: { name: string } }).metadata.name;
const podList = { convert: nameOf };

async function collect(events: AsyncIterable<WatchEvent>, into: string[]): Promise<void> {
  for await (const { type, object } of events) into.push(`${type} ${nameOf(object)}`);
}

test("objects are read, changed and created", async () => {
  const { server, client } = await start();
  server.put("namespaces", { metadata: { name: "shop" } });
  server.put("pods", pod("a"));
  expect(nameOf(await client.getPod("shop", "a"))).toBe("a");
  expect(nameOf(await client.getNamespace("shop"))).toBe("shop");
  await client.mergePatch(podPath("shop", "a", "status"), { metadata: { annotations: { k: "v" } } });
  expect(server.store.get("pods", "a", "shop").metadata.annotations).toEqual({ k: "v" });
  await client.create("/api/v1/namespaces/shop/events", { metadata: { name: "e1" }, reason: "Test" });
  expect(server.store.get("events", "e1", "shop").reason).toBe("Test");
});

test("an object ends only as the one that is meant", async () => {
  const { server, client } = await start();
  server.put("pods", pod("a"));
  const { uid = "", resourceVersion = "" } = server.store.get("pods", "a", "shop").metadata;
  const path = podPath("shop", "a");
  for (const meant of [
    { uid: "uid-b", resourceVersion },
    { uid, resourceVersion: "1" },
  ])
    expect(await failure(client.delete(path, meant))).toMatchObject({ status: 409, reason: "Conflict" });
  expect(server.store.get("pods", "a", "shop").metadata).not.toHaveProperty("deletionTimestamp");
  await client.delete(path, { uid, resourceVersion });
  expect(server.store.get("pods", "a", "shop").metadata).toHaveProperty("deletionTimestamp");
  expect((await failure(client.delete(podPath("shop", "b"), { uid, resourceVersion }))).status).toBe(404);
});

test("a list is fetched in pages and converted", async () => {
  const { server, client } = await start();
  for (let index = 0; index < 1203; index += 1) server.put("pods", pod(`p${index}`));
  const { items, resourceVersion } = await client.list("/api/v1/pods", {}, podList);
  expect(items).toHaveLength(1203);
  expect(new Set(items).size).toBe(1203);
  expect(resourceVersion).toBe(String(server.store.version));
  expect(server.requestsOf("list", "pods")).toHaveLength(3);
});

test("a list whose pages grow old is fetched in one piece", async () => {
  const { server, client } = await start();
  for (let index = 0; index < 600; index += 1) server.put("pods", pod(`p${index}`));
  server.faults.expireContinue = 1;
  expect((await client.list("/api/v1/pods", {}, podList)).items).toHaveLength(600);
  expect(server.requestsOf("list", "pods").map(({ query }) => query.limit)).toEqual([
    "500",
    "500",
    undefined,
  ]);
});

test("requests one after the other share a connection", async () => {
  const { server, client } = await start();
  server.put("pods", pod("a"));
  for (let index = 0; index < 10; index += 1) await client.getPod("shop", "a");
  expect(new Set(server.requests.map(({ connection }) => connection)).size).toBe(1);
});

test("a pooled connection that the server has closed is replaced unseen", async () => {
  let connections = 0;
  const { url } = await rawServer((socket) => {
    connections += 1;
    let requests = 0;
    socket.on("data", () => {
      requests += 1;
      if (requests > 1) socket.resetAndDestroy();
      else socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
    });
  });
  const client = clientFor(url);
  expect(await client.getPod("shop", "a")).toEqual({});
  expect(await client.getPod("shop", "a")).toEqual({});
  expect(connections).toBe(2);
});

test.each([
  [401, "Unauthorized", /check that it is valid for this cluster and not expired/],
  [403, "Forbidden", /ClusterRole/],
  [404, "NotFound", /404 NotFound/],
  [409, "Conflict", /409 Conflict/],
  [429, "TooManyRequests", /429/],
  [500, "InternalError", /500/],
])("status %d becomes an ApiError that says what to do", async (status, reason, text) => {
  const { server, client } = await start();
  server.put("pods", pod("a"));
  server.faults.failures = [{ status, message: 'pods "a" says no', retryAfterSeconds: 7 }];
  const error = await failure(client.getPod("shop", "a"));
  expect(error).toMatchObject({ status, reason, retryAfterMs: 7000 });
  expect(error.message).toMatch(text);
  expect(error.message).toContain(
    `Cannot GET "/api/v1/namespaces/shop/pods/a" at API server "${new URL(server.url).host}"`,
  );
  expect(error.message).toContain('pods "a" says no');
});

test("a refused connection is told with the address and the remedy", async () => {
  const { server, client } = await start();
  await server.refuse();
  const error = await failure(client.getPod("shop", "a"));
  expect(error).toMatchObject({ status: 0, reason: "Unreachable" });
  expect(error.message).toMatch(/ECONNREFUSED.*check that the endpoint is right/);
  expect(error.cause).toMatchObject({ code: "ECONNREFUSED" });
});

test("a server that never answers is given up after the deadline", async () => {
  const { server, client } = await start({ limits: { headersMs: 200 } });
  server.faults.hang = true;
  const startMs = performance.now();
  const error = await failure(client.getPod("shop", "a"));
  expect(error).toMatchObject({ status: 0, reason: "Timeout" });
  expect(error.message).toContain("no answer within 200 ms");
  expect(performance.now() - startMs).toBeLessThan(2000);
});

test("the caller's deadline is a Timeout too, and its abort is passed on as it is", async () => {
  const { server, client } = await start();
  server.faults.hang = true;
  const error = await failure(client.getPod("shop", "a", { signal: AbortSignal.timeout(100) }));
  expect(error.reason).toBe("Timeout");
  const abort = new AbortController();
  const call = client.getPod("shop", "a", { signal: abort.signal });
  const reason = new Error("enough");
  abort.abort(reason);
  await expect(call).rejects.toBe(reason);
  await expect(client.getPod("shop", "a", { signal: abort.signal })).rejects.toBe(reason);
});

test("a list that breaks off is a lost connection", async () => {
  const { server, client } = await start();
  for (let index = 0; index < 100; index += 1) server.put("pods", pod(`p${index}`));
  server.faults.cutLists = 1;
  expect(await failure(client.list("/api/v1/pods", {}, podList))).toMatchObject({ reason: "ConnectionLost" });
  expect((await client.list("/api/v1/pods", {}, podList)).items).toHaveLength(100);
});

test("a slow list is waited for as long as it goes on", async () => {
  const { server, client } = await start({ limits: { silenceMs: 400 } });
  for (let index = 0; index < 50; index += 1) server.put("pods", pod(`p${index}`));
  server.faults.slowListMs = 1000;
  expect((await client.list("/api/v1/pods", {}, podList)).items).toHaveLength(50);
});

test("a list that falls silent in the middle is given up", async () => {
  const { server, client } = await start({ limits: { silenceMs: 150 } });
  server.put("pods", pod("a"));
  server.faults.slowListMs = 10_000;
  const error = await failure(client.list("/api/v1/pods", {}, podList));
  expect(error.reason).toBe("Timeout");
  expect(error.message).toContain("silent for 150 ms");
});

test("a new token is used within the request that the old one was refused for", async () => {
  const folder = mkdtempSync(join(tmpdir(), "ambient-token-"));
  cleanups.push(() => rmSync(folder, { recursive: true, force: true }));
  const tokenFile = join(folder, "token");
  writeFileSync(tokenFile, "old\n");
  const { server, client } = await start({ tokens: ["old"], tokenFile });
  server.put("pods", pod("a"));
  await client.getPod("shop", "a");
  server.tokens = ["new"];
  writeFileSync(tokenFile, "new\n");
  await client.getPod("shop", "a");
  const seen = server.requests.map(({ authorization, status }) => [authorization, status]);
  expect(seen).toEqual([
    ["Bearer old", 200],
    ["Bearer old", 401],
    ["Bearer new", 200],
  ]);
});

test("a refused token is tried twice, not for ever", async () => {
  const { server, client } = await start({ tokens: ["right"], token: "wrong" });
  expect(await failure(client.getPod("shop", "a"))).toMatchObject({ status: 401 });
  expect(server.requests).toHaveLength(2);
});

test("a relative token file is found beside the kubeconfig", async () => {
  const folder = mkdtempSync(join(tmpdir(), "ambient-token-"));
  cleanups.push(() => rmSync(folder, { recursive: true, force: true }));
  writeFileSync(join(folder, "tok"), "secret");
  const { server, client } = await start({ tokens: ["secret"], tokenFile: "tok", folder });
  server.put("pods", pod("a"));
  expect(nameOf(await client.getPod("shop", "a"))).toBe("a");
});

test("a missing token file is told with its name", async () => {
  const { client } = await start({ tokenFile: "nowhere" });
  const error = await failure(client.getPod("shop", "a"));
  expect(error.reason).toBe("Credentials");
  expect(error.message).toMatch(/ENOENT.*nowhere/);
});

test.each([
  ["a missing file", undefined, /ENOENT/],
  ["no current context", "apiVersion: v1\nkind: Config\n", /no server address/],
  ["text that is no YAML", "a: [", /Cannot use the Kubernetes configuration/],
])("loading fails with the reason when the kubeconfig is %s", async (_, text, message) => {
  const folder = mkdtempSync(join(tmpdir(), "ambient-config-"));
  cleanups.push(() => rmSync(folder, { recursive: true, force: true }));
  const kubeconfigPath = join(folder, "config");
  if (text !== undefined) writeFileSync(kubeconfigPath, text);
  const load = () => ApiClient.load({ kubeconfigPath });
  expect(load).toThrow(ApiError);
  expect(load).toThrow(message);
  expect(load).toThrow(kubeconfigPath);
});

test("outside a cluster and without a kubeconfig loading says what to set", () => {
  expect(() => ApiClient.load()).toThrow(/service account.*set KUBECONFIG/);
});

test("several kubeconfigs are merged and the first current context counts", async () => {
  const { server } = await start();
  const folder = mkdtempSync(join(tmpdir(), "ambient-config-"));
  cleanups.push(() => rmSync(folder, { recursive: true, force: true }));
  const first = writeKubeconfig(join(folder, "a"), server.url);
  const second = join(folder, "b");
  writeFileSync(
    second,
    kubeconfigText("http://127.0.0.1:1").replaceAll('"stub"', '"other"').replaceAll('"agent"', '"else"'),
  );
  const client = ApiClient.load({ kubeconfigPath: `${first}:${second}` });
  cleanups.push(() => client.close());
  server.put("namespaces", { metadata: { name: "shop" } });
  expect(nameOf(await client.getNamespace("shop"))).toBe("shop");
});

test("a watch yields events and ends in order", async () => {
  const { server, client } = await start();
  const query = { resourceVersion: server.store.version };
  const seen: string[] = [];
  let opened = 0;
  const watch = client.watch("/api/v1/pods", query, { silenceMs: 5000, onopen: () => (opened += 1) });
  const done = collect(watch, seen);
  await waitFor("the watch is open", () => server.watches.size === 1);
  server.put("pods", pod("a"));
  await waitFor("the event has come", () => seen.length === 1);
  server.put("pods", pod("ä".repeat(3)));
  server.endWatches();
  await done;
  expect(seen).toEqual(["ADDED a", "ADDED äää"]);
  expect(opened).toBe(1);
});

test.each(["event", "status"] as const)(
  "a watch from too old a version fails with 410 when told by %s",
  async (goneAs) => {
    const { server, client } = await start();
    Object.assign(server.faults, { goneOnWatch: 1, goneAs });
    const error = await failure(
      collect(client.watch("/api/v1/pods", { resourceVersion: 1000 }, { silenceMs: 5000 }), []),
    );
    expect(error).toMatchObject({ status: 410, isGone: true });
  },
);

test("a watch that is cut, silent or garbled fails, each with its reason", async () => {
  const { server, client } = await start();
  const open = async (silenceMs: number) => {
    const query = { resourceVersion: server.store.version };
    const failed = failure(collect(client.watch("/api/v1/pods", query, { silenceMs }), []));
    await waitFor("the watch is open", () => server.watches.size === 1);
    return failed;
  };
  const cut = (
    await Promise.all([
      open(5000),
      waitFor("open", () => server.watches.size === 1).then(() => server.dropWatches()),
    ])
  )[0];
  expect(cut.reason).toBe("ConnectionLost");
  await waitFor("the watch is gone", () => server.watches.size === 0);
  const silent = await open(200);
  expect(silent.reason).toBe("Timeout");
  await waitFor("the watch is gone", () => server.watches.size === 0);
  server.faults.garbleEvents = 1;
  const garbled = open(5000);
  await waitFor("the watch is open", () => server.watches.size === 1);
  server.put("pods", pod("a"));
  expect((await garbled).reason).toBe("BadResponse");
});

test("leaving a watch early closes its connection", async () => {
  const { server, client } = await start();
  server.put("pods", pod("a"));
  for await (const event of client.watch("/api/v1/pods", {}, { silenceMs: 5000 })) {
    expect(event.type).toBe("ADDED");
    break;
  }
  await waitFor("the server has seen the end", () => server.watches.size === 0);
});

test("metadata is asked for alone, and whole objects are taken where that is refused", async () => {
  const { server, client } = await start();
  server.put("namespaces", { metadata: { name: "shop" }, spec: { finalizers: ["kubernetes"] } });
  const kinds: unknown[] = [];
  const options = {
    metadataOnly: true,
    convert: (raw: unknown) => kinds.push((raw as { spec?: unknown }).spec !== undefined),
  };
  await client.list("/api/v1/namespaces", {}, options);
  server.faults.rejectPartialMetadata = true;
  await client.list("/api/v1/namespaces", {}, options);
  server.faults.rejectPartialMetadata = false;
  server.faults.failures = [{ status: 406, times: 1 }];
  await client.list("/api/v1/namespaces", {}, options);
  await client.list("/api/v1/namespaces", {}, options);
  expect(kinds).toEqual([false, true, true, true]);
});

/** A server that does with each connection what it is told. */
async function rawServer(serve: (socket: Socket) => void): Promise<{ url: string }> {
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    serve(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  cleanups.push(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as { port: number }).port}` };
}

function clientFor(url: string): ApiClient {
  const folder = mkdtempSync(join(tmpdir(), "ambient-config-"));
  cleanups.push(() => rmSync(folder, { recursive: true, force: true }));
  const client = ApiClient.load({ kubeconfigPath: writeKubeconfig(join(folder, "c"), url) });
  cleanups.push(() => client.close());
  return client;
}

test.each([
  ["an HTML page", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", "BadResponse"],
  ["a proxy's error page", "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>", "Unknown"],
  ["no HTTP at all", "SSH-2.0-OpenSSH_9.2\r\n\r\n", "Unreachable"],
  ["a closed connection", "", "ConnectionLost"],
  ["a redirect", "HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n", "Unknown"],
])("something else at the address is told apart: %s", async (_, answer, reason) => {
  const { url } = await rawServer((socket) => socket.on("data", () => socket.end(answer)));
  expect(await failure(clientFor(url).getPod("shop", "a"))).toMatchObject({ reason });
});
