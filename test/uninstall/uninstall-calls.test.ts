// SPDX-License-Identifier: Apache-2.0
// Who answers the launcher while a node is left, and when it is quiet.
import { existsSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { isServed, UninstallCalls } from "../../src/uninstall/uninstall-calls.ts";

let folder: string;
let path: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ambient-calls-"));
  path = join(folder, "pluginevent.sock");
});
afterEach(() => rmSync(folder, { recursive: true }));

function call(verb: string): Promise<{ status: number | undefined; exit: unknown; body: string }> {
  const { promise, resolve, reject } = Promise.withResolvers<Awaited<ReturnType<typeof call>>>();
  const outgoing = request(
    { socketPath: path, path: "/cni", method: "POST", headers: { "CNI-COMMAND": verb } },
    (incoming) => {
      let body = "";
      incoming.on("data", (chunk) => {
        body += String(chunk);
      });
      incoming.on("end", () =>
        resolve({ status: incoming.statusCode, exit: incoming.headers["cni-exit"], body }),
      );
    },
  );
  outgoing.on("error", reject);
  outgoing.end("{}");
  return promise;
}

async function listen(at: string): Promise<Server> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(at, resolve));
  return server;
}

test.each([
  ["DEL", 200, "0", /^$/],
  ["GC", 200, "0", /^$/],
  ["ADD", 503, undefined, /leaving this node/],
  ["CHECK", 503, undefined, /leaving this node/],
  ["STATUS", 200, "0", /^$/],
])("%s is answered with %i", async (verb, status, exit, body) => {
  await using calls = new UninstallCalls(path);
  await calls.listen();
  expect(await call(verb)).toEqual({ status, exit, body: expect.stringMatching(body) });
  expect(calls.count).toBe(1);
});

test("it is quiet when there was no call for so long, and not while calls go on coming", async () => {
  await using calls = new UninstallCalls(path);
  await calls.listen();
  const start = performance.now();
  expect(await calls.quiet(60, { deadlineMs: 5_000 })).toBe(true);
  expect(performance.now() - start).toBeGreaterThanOrEqual(59);
  let isOver = false;
  const caller = (async () => {
    while (!isOver) await call("DEL");
  })();
  expect(await calls.quiet(100, { deadlineMs: 400 })).toBe(false);
  isOver = true;
  await caller;
  expect(await calls.quiet(60, { deadlineMs: 5_000 })).toBe(true);
});

test("a stale socket is taken over, and the end leaves no file", async () => {
  writeFileSync(path, "");
  const calls = new UninstallCalls(path);
  await calls.listen();
  expect(await isServed(path)).toBe(true);
  await calls.close();
  await calls.close();
  expect(existsSync(path)).toBe(false);
});

test("the socket of an agent that took over meanwhile stays", async () => {
  const calls = new UninstallCalls(path);
  await calls.listen();
  const successor = await listen(`${path}.1`);
  renameSync(`${path}.1`, path);
  await calls.close();
  expect(await isServed(path)).toBe(true);
  await new Promise((resolve) => successor.close(resolve));
});

test("a socket counts as served only while somebody accepts", async () => {
  expect(await isServed(path)).toBe(false);
  writeFileSync(path, "");
  expect(await isServed(path)).toBe(false);
  rmSync(path);
  const server = await listen(path);
  renameSync(path, `${path}.kept`);
  expect(await isServed(`${path}.kept`)).toBe(true);
  await new Promise((resolve) => server.close(resolve));
  expect(await isServed(`${path}.kept`)).toBe(false);
});
