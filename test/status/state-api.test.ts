// SPDX-License-Identifier: Apache-2.0
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createLoggers, silentLogger } from "../../src/log/logger.ts";
import { AgentState } from "../../src/status/agent-state.ts";
import { StateApi } from "../../src/status/state-api.ts";
import { StateServer, stateLimits } from "../../src/status/state-server.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { letItBeMissed } from "../support/lost-name.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { FakeAgent } from "./fake-agent.ts";
import { validate } from "./json-schema.ts";
import { ask } from "./state-client.ts";

const schema = JSON.parse(readFileSync(new URL("../../docs/state-api.schema.json", import.meta.url), "utf8"));
const deadlines = { firstByteMs: 500, requestMs: 600, answerMs: 1500 };

let agent: FakeAgent;
let folder: string;
let socket: { readonly socketPath: string };
let server: StateServer;
let clock: FakeClock;

beforeEach(async () => {
  agent = new FakeAgent();
  clock = new FakeClock();
  folder = mkdtempSync(join(tmpdir(), "state-"));
  const loggers = createLoggers({ level: "info", scopes: {} }, { destination: { write: () => {} } });
  for (const scope of ["agent", "cni", "kube"]) loggers.scope(scope);
  const source = new AgentState(agent.facts());
  const api = new StateApi({ source, loggers, log: silentLogger });
  const path = join(folder, "state.sock");
  server = new StateServer({ path, api, log: silentLogger, clock, limits: { ...stateLimits, ...deadlines } });
  await server.listen();
  socket = { socketPath: path };
});

afterEach(async () => {
  await server.close();
  rmSync(folder, { recursive: true });
});

function error(answer: { json: () => Record<string, unknown> }): string {
  expect(validate(schema, "StateError", answer.json())).toEqual([]);
  return String(answer.json().error);
}

test("the socket is back when somebody has removed it, and others' files stay", async () => {
  rmSync(socket.socketPath);
  await letItBeMissed(clock);
  await waitFor("the socket", async () => (await ask(socket, "/api/v1/pods")).status === 200);
  rmSync(socket.socketPath);
  writeFileSync(socket.socketPath, "a successor's");
  await waitFor("the next look to be planned", () => clock.pendingCount === 1);
  clock.advance(1_000);
  await waitFor("it to be over", () => clock.pendingCount === 1);
  expect(readFileSync(socket.socketPath, "utf8")).toBe("a successor's");
});

test("a socket whose name was let go answers until it is removed, and then stays away", async () => {
  await server.letNameGo();
  expect((await ask(socket, "/api/v1/pods")).status).toBe(200);
  rmSync(socket.socketPath);
  // nothing is planned any more that could bring it back
  expect(clock.pendingCount).toBe(0);
  expect(statSync(socket.socketPath, { throwIfNoEntry: false })).toBeUndefined();
});

describe("state API", () => {
  test("answers are as the schema says", async () => {
    agent.add("web-0", { earlierConnections: 3 });
    agent.add("web-1", { state: "pending" });
    agent.add("job", { ns: "plain", state: "none" });
    agent.add("hosted", { hostNetwork: true, state: "outside" });
    agent.add("lost", { ns: "unheard-of", state: "waiting" });
    agent.history.failed("uid-web-1", {
      kind: "ztunnel",
      message: "no ztunnel connection",
      remedy: "; look at it",
    });
    agent.ring.note({
      level: "warn",
      scope: "enrolment",
      fields: { ns: "shop", pod: "web-1", uid: "uid-web-1", reason: "x" },
      message: "waiting",
    });
    agent.repairs.set("missing-rule", 2);
    const list = await ask(socket, "/api/v1/pods");
    expect(list.status).toBe(200);
    expect(list.headers["content-type"]).toBe("application/json; charset=utf-8");
    expect(validate(schema, "PodList", list.json())).toEqual([]);
    expect((list.json().pods as { name: string }[]).map(({ name }) => name)).toEqual([
      "job",
      "hosted",
      "web-0",
      "web-1",
      "lost",
    ]);
    for (const name of ["web-0", "web-1"]) {
      const pod = await ask(socket, `/api/v1/pods/shop/${name}`);
      expect(pod.status).toBe(200);
      expect(validate(schema, "PodDetail", pod.json())).toEqual([]);
    }
    const node = await ask(socket, "/api/v1/node");
    expect(validate(schema, "Node", node.json())).toEqual([]);
    const levels = await ask(socket, "/api/v1/log-levels");
    expect(validate(schema, "LogLevels", levels.json())).toEqual([]);
  });

  test("the schema takes the answer of an agent that does not tell of earlier connections", async () => {
    agent.add("web-0", { earlierConnections: 3 });
    const { json } = await ask(socket, "/api/v1/pods/shop/web-0");
    const { earlierConnections, ...older } = json();
    expect(earlierConnections).toBe(3);
    expect(validate(schema, "PodDetail", older)).toEqual([]);
    expect(validate(schema, "PodDetail", { ...older, earlierConnections: -1 })).toHaveLength(1);
  });

  test("the schema refuses an answer that lacks a field, has another, or has one of another kind", async () => {
    agent.add("web-0");
    const { json } = await ask(socket, "/api/v1/pods/shop/web-0");
    const whole = json();
    const { uid: _, ...lacking } = whole;
    expect(validate(schema, "PodDetail", lacking)).toEqual(["$.uid is missing"]);
    expect(validate(schema, "PodDetail", { ...whole, token: "x" })).toEqual(["$.token is not in the schema"]);
    expect(validate(schema, "PodDetail", { ...whole, state: "odd" })).toHaveLength(1);
    expect(validate(schema, "PodDetail", { ...whole, ips: [1] })).toHaveLength(1);
  });

  test.each([
    ["/", 404],
    ["/api", 404],
    ["/api/v1", 404],
    ["/api/v2/pods", 404],
    ["/api/v1/podsx", 404],
    ["/api/v1/pods/shop", 404],
    ["/api/v1/pods/shop/web-0/log", 404],
    ["/api/v1/pods/shop/none", 404],
    ["/api/v1/pods/plain/web-0", 404],
    ["/api/v1/pods/shop/WEB", 400],
    ["/api/v1/pods/..%2f/web-0", 400],
    [`/api/v1/pods/shop/${"a".repeat(300)}`, 400],
    ["/api/v1/pods//web-0", 400],
  ])("GET %s is %i with a sentence", async (path, status) => {
    agent.add("web-0");
    const answer = await ask(socket, path);
    expect(answer.status).toBe(status);
    expect(error(answer)).not.toBe("");
  });

  test("a query and a slash at the end do not matter", async () => {
    expect((await ask(socket, "/api/v1/pods/?pretty=1")).status).toBe(200);
  });

  test("HEAD answers without a body, other methods are refused with those allowed", async () => {
    const head = await ask(socket, "/api/v1/node", { method: "HEAD" });
    expect([head.status, head.text]).toEqual([200, ""]);
    for (const method of ["POST", "PUT", "DELETE", "PATCH"]) {
      const answer = await ask(socket, "/api/v1/pods", { method, body: "{}" });
      expect([answer.status, answer.headers.allow]).toEqual([405, "GET, HEAD"]);
      expect(error(answer)).toContain(method);
    }
  });

  test("the socket is root's alone and a stale one is replaced", () => {
    expect(statSync(socket.socketPath).mode & 0o777).toBe(0o600);
  });
});

describe("log levels", () => {
  const change = (body: string) => ask(socket, "/api/v1/log-levels", { method: "PUT", body });

  test("change scope by scope, and back to the default", async () => {
    const changed = await change('{"default":"warn","scopes":{"cni":"debug"}}');
    expect(changed.json()).toEqual({ default: "warn", scopes: { cni: "debug" } });
    const back = await change('{"scopes":{"cni":null}}');
    expect(back.json()).toEqual({ default: "warn", scopes: {} });
  });

  test.each([
    ["", "not JSON"],
    ["[]", "no object"],
    ["null", "no object"],
    ['{"level":"debug"}', "unknown field"],
    ['{"default":"loud"}', "none of debug"],
    ['{"default":null}', "none of debug"],
    ['{"scopes":["cni"]}', "no object"],
    ['{"scopes":{"cni":"debug","nobody":"debug"}}', "no such scope"],
    ['{"default":"debug","scopes":{"__proto__":"debug"}}', "no such scope"],
  ])("refuse %s and change nothing", async (body, reason) => {
    const answer = await change(body);
    expect(answer.status).toBe(400);
    expect(error(answer)).toContain(reason);
    expect((await ask(socket, "/api/v1/log-levels")).json()).toEqual({ default: "info", scopes: {} });
  });

  test("refuse a body without end", async () => {
    const answer = await change(" ".repeat(20_000));
    expect(answer.status).toBe(413);
  });
});

describe("clients that misbehave", () => {
  function open(): Socket {
    const client = connect(socket.socketPath);
    client.on("error", () => {});
    return client;
  }

  test.each([
    ["nothing", ""],
    ["half a request", "GET /api/v1/pods HTTP/1.1\r\nHost: x\r\n"],
    ["no HTTP", "\u0000\u0001garbage\r\n\r\n"],
    ["a header without end", `GET / HTTP/1.1\r\nX: ${"y".repeat(50_000)}`],
    [
      "two lengths",
      "PUT /api/v1/log-levels HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ["a body that never comes", "PUT /api/v1/log-levels HTTP/1.1\r\nHost: x\r\nContent-Length: 90\r\n\r\n{"],
  ])("are cut off when they send %s, and others are served meanwhile", async (_, bytes) => {
    const client = open();
    const closed = new Promise((resolve) => client.once("close", resolve));
    client.write(bytes);
    client.resume();
    expect((await ask(socket, "/api/v1/node")).status).toBe(200);
    await closed;
  });

  test("a reader that takes nothing is cut off and does not hold up others", async () => {
    // more than the socket's buffers hold
    for (let i = 0; i < 500; i++) agent.add(`pod-${i}`);
    const client = open();
    const closed = new Promise((resolve) => client.once("close", resolve));
    client.pause();
    client.write("GET /api/v1/pods HTTP/1.1\r\nHost: x\r\n\r\n");
    expect((await ask(socket, "/api/v1/node")).status).toBe(200);
    // who does not read does not see the end: what it writes then fails
    const writing = setInterval(() => client.write("\r\n"), 50);
    await closed;
    clearInterval(writing);
    expect((await ask(socket, "/api/v1/pods")).status).toBe(200);
  });

  test("forty at once are all answered", async () => {
    for (let i = 0; i < 250; i++) agent.add(`pod-${i}`);
    const paths = ["/api/v1/pods", "/api/v1/node", "/api/v1/pods/shop/pod-7", "/api/v1/log-levels"];
    const answers = await Promise.all(
      Array.from({ length: 40 }, (_, index) => ask(socket, paths[index % paths.length] as string)),
    );
    expect(answers.map(({ status }) => status)).toEqual(Array(40).fill(200));
  });
});
