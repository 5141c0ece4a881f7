// SPDX-License-Identifier: Apache-2.0
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { request as httpRequest, type IncomingMessage } from "node:http";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { CniError } from "../../src/cni/cni-error.ts";
import type { CniRequest } from "../../src/cni/cni-request.ts";
import { PluginServer } from "../../src/cni/plugin-server.ts";
import { silentLogger } from "../../src/log/logger.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { letItBeMissed } from "../support/lost-name.ts";
import { waitFor } from "../support/node/wait-for.ts";

const config = '{"cniVersion":"0.4.0","name":"n","type":"ambient-cni","prevResult":{"cniVersion":"0.4.0"}}';
const addHeaders = {
  "CNI-COMMAND": "ADD",
  "CNI-CONTAINERID": "c1",
  "CNI-NETNS": "/run/netns/x",
  "CNI-IFNAME": "eth0",
  "CNI-PATH": "/opt/cni/bin",
  "CNI-ARGS": "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web",
};

let folder: string;
let path: string;
let server: PluginServer;
let clock: FakeClock;
let seen: CniRequest[];
let answer: (request: CniRequest) => Promise<string>;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "plugin-server-"));
  path = join(folder, "run/pluginevent.sock");
  seen = [];
  answer = async (request) => request.result;
  const handler = {
    handle(request: CniRequest) {
      seen.push(request);
      return answer(request);
    },
  };
  clock = new FakeClock();
  server = new PluginServer({ path, handler, log: silentLogger, clock });
  await server.listen();
});

afterEach(async () => {
  await server.close();
  rmSync(folder, { recursive: true });
});

interface Answer {
  readonly status: number;
  readonly exit: string | undefined;
  readonly body: string;
}

function call(
  url: string,
  options: { headers?: Record<string, string>; body?: string | Buffer; method?: string },
): Promise<Answer> {
  const { promise, resolve, reject } = Promise.withResolvers<Answer>();
  const request = httpRequest(
    { socketPath: path, path: url, method: options.method ?? "POST", headers: options.headers ?? {} },
    (response: IncomingMessage) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("end", () => {
        const exit = response.headers["cni-exit"] as string | undefined;
        resolve({ status: response.statusCode ?? 0, exit, body: Buffer.concat(chunks).toString() });
      });
    },
  );
  request.on("error", reject);
  // a string would make Node send the header in UTF-8 as well, on top of the bytes it is given
  request.end(Buffer.from(options.body ?? ""));
  return promise;
}

describe("PluginServer", () => {
  test("relays a call and answers its result unchanged", async () => {
    expect(await call("/cni", { headers: addHeaders, body: config })).toEqual({
      status: 200,
      exit: "0",
      body: '{"cniVersion":"0.4.0"}',
    });
    expect(seen[0]?.pod).toEqual({ namespace: "shop", name: "web", uid: "" });
  });

  test("keeps bytes beyond ASCII in header values", async () => {
    const path = Buffer.from("/run/netns/größe", "utf8").toString("latin1");
    await call("/cni", { headers: { ...addHeaders, "CNI-NETNS": path }, body: config });
    expect(seen[0]?.netns).toBe("/run/netns/größe");
  });

  test("answers a failure as an error object in the version of the caller", async () => {
    answer = () => Promise.reject(new CniError("tryAgainLater", "held", "because"));
    const { exit, body } = await call("/cni", { headers: addHeaders, body: config });
    expect(exit).toBe("1");
    expect(JSON.parse(body)).toEqual({ cniVersion: "0.4.0", code: 11, msg: "held", details: "because" });
  });

  test.each([
    ["stdin that is no JSON", addHeaders, "nonsense", 6],
    ["missing variables", {}, config, 4],
    ["an unknown verb", { ...addHeaders, "CNI-COMMAND": "FROB" }, config, 4],
    ["a body over 1 MiB", addHeaders, `{"x":"${"y".repeat(1024 * 1024)}"}`, 7],
  ])("answers %s with a CNI error and serves the next call", async (_name, headers, body, code) => {
    const bad = await call("/cni", { headers, body });
    expect([bad.exit, (JSON.parse(bad.body) as { code: number }).code]).toEqual(["1", code]);
    expect((await call("/cni", { headers: addHeaders, body: config })).exit).toBe("0");
  });

  test("answers an unexpected failure without losing the server", async () => {
    answer = () => Promise.reject(new TypeError("boom"));
    const { body } = await call("/cni", { headers: addHeaders, body: config });
    expect(JSON.parse(body)).toMatchObject({ code: 100, msg: "the agent failed: boom" });
  });

  test("serves istio-cni's event", async () => {
    const event = JSON.stringify({ Netns: "/run/netns/x", PodName: "web", PodNamespace: "shop", IPs: [] });
    expect(await call("/cmdadd", { body: event })).toMatchObject({ status: 200 });
    expect(seen[0]).toMatchObject({ verb: "ADD", netns: "/run/netns/x" });
    expect(await call("/cmdadd", { body: "{}" })).toMatchObject({ status: 400 });
    answer = () => Promise.reject(new CniError("notCaptured", "ztunnel is away"));
    expect(await call("/cmdadd", { body: event })).toMatchObject({ status: 500, body: "ztunnel is away" });
  });

  test("names its routes to those who ask for another one", async () => {
    expect(await call("/", { method: "GET" })).toMatchObject({
      status: 404,
      body: expect.stringContaining("POST /cni") as string,
    });
  });

  test("is open to root only, from the first moment on", () => {
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  test("replaces what an agent that died has left", async () => {
    await server.close();
    rmSync(path);
    writeFileSync(path, "stale");
    await server.listen();
    expect((await call("/cni", { headers: addHeaders, body: config })).exit).toBe("0");
  });

  test("answers no call that fails while it closes: the launcher asks the next agent", async () => {
    const { promise, reject } = Promise.withResolvers<string>();
    answer = () => promise;
    const calling = call("/cni", { headers: addHeaders, body: config });
    await waitFor("the call", () => seen.length === 1);
    const closing = server.close();
    reject(new CniError("notCaptured", "the agent is stopping"));
    await expect(calling).rejects.toThrow(/socket hang up|ECONNRESET/);
    await closing;
  });

  test("leaves the socket of its successor alone when it closes", async () => {
    const successor = new PluginServer({
      path,
      handler: { handle: () => Promise.resolve("{}") },
      log: silentLogger,
    });
    // another process has another pid, and so another name of its own
    const { pid } = process;
    Object.defineProperty(process, "pid", { value: pid + 1, configurable: true });
    try {
      await successor.listen();
    } finally {
      Object.defineProperty(process, "pid", { value: pid, configurable: true });
    }
    await server.close();
    expect(await call("/cni", { headers: addHeaders, body: config })).toMatchObject({
      exit: "0",
      body: "{}",
    });
    await successor.close();
    await server.listen();
  });

  test("is back when another agent's end has removed its name, each time", async () => {
    for (let time = 0; time < 2; time += 1) {
      rmSync(path);
      await letItBeMissed(clock);
      const isThere = (): boolean => statSync(path, { throwIfNoEntry: false }) !== undefined;
      await waitFor("the socket", isThere);
      await waitFor("the next look to be planned", () => clock.pendingCount === 1);
      expect(statSync(path).mode & 0o777).toBe(0o600);
      expect((await call("/cni", { headers: addHeaders, body: config })).exit).toBe("0");
    }
    // a stranger's file is a successor's
    rmSync(path);
    writeFileSync(path, "successor");
    clock.advance(10_000);
    await server.close();
    expect(readFileSync(path, "utf8")).toBe("successor");
    expect(readdirSync(join(path, ".."))).toEqual(["pluginevent.sock"]);
  });

  test("survives garbage and connections that end in the middle", async () => {
    for (const bytes of [
      "\x00\xff garbage\r\n\r\n",
      "POST /cni HTTP/1.1\r\nContent-Length: 100\r\n\r\n{",
      "",
    ]) {
      const socket = connect(path);
      socket.on("error", () => {});
      socket.end(Buffer.from(bytes, "latin1"));
      await new Promise((resolve) => socket.on("close", resolve).resume());
    }
    expect((await call("/cni", { headers: addHeaders, body: config })).exit).toBe("0");
  });
});
