// SPDX-License-Identifier: Apache-2.0
// The limited server on real sockets, with its deadlines on a clock that only the test moves.
import { once } from "node:events";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { type RequestListener, request, type ServerResponse } from "node:http";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Descriptors } from "../../src/ports/descriptors.ts";
import { LimitedServer, type LimitedServerOptions, type PortLimits } from "../../src/ports/limited-server.ts";
import { recordingLogger } from "../kube/kube-fixture.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { waitFor } from "../support/node/wait-for.ts";

const limits: PortLimits = {
  places: 4,
  ownPlaces: 1,
  perPeer: 4,
  firstByteMs: 1_000,
  requestMs: 3_000,
  answerMs: 10_000,
  maxHeadBytes: 1_000,
  maxBodyBytes: 100,
};
const get = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";

let clock: FakeClock;
let server: LimitedServer;
let port: number;
let handler: RequestListener;
let log: ReturnType<typeof recordingLogger>;
const clients: Socket[] = [];
const folder = mkdtempSync(join(tmpdir(), "limited-server-"));

async function start(options: Partial<LimitedServerOptions> = {}): Promise<void> {
  clock = new FakeClock();
  log = recordingLogger();
  server = new LimitedServer({
    what: "the test's port",
    handler: (asked, answer) => handler(asked, answer),
    limits,
    log,
    clock,
    ...options,
  });
  port = await server.listenOn(0);
}

beforeEach(async () => {
  handler = (asked, answer) => answer.end(`${asked.method} ${asked.url}`);
  await start();
});

afterEach(async () => {
  for (const client of clients.splice(0)) client.destroy();
  await server.close();
});

/** A connection that the server has taken. */
async function open(target: { port: number } | { path: string } = { port }, says = ""): Promise<Socket> {
  const before = server.connectionCount;
  const client = connect({ ...target, allowHalfOpen: true });
  client.on("error", () => {});
  clients.push(client);
  // one that is refused may be reset before it knows that it was connected
  await waitFor("the connection", () => !client.connecting);
  if (says !== "") client.write(says);
  if (says === "") await waitFor("a place", () => server.connectionCount > before);
  return client;
}

/** However it is: with an end, or cut. */
function closed(client: Socket): Promise<void> {
  client.on("end", () => client.destroy()).resume();
  return waitFor("the client to hear of it", () => client.closed).then(() => {});
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test("answers one request per connection, and closes behind it", async () => {
  const client = await open({ port }, get);
  expect(await text(client)).toMatch(/^HTTP\/1\.1 200 OK\r\n.*Connection: close\r\n.*GET \/a/s);
  await waitFor("the place to be free", () => server.connectionCount === 0);
  expect(clock.pendingCount).toBe(0);
});

test("gives the handler a body that comes in pieces, and takes an answer in pieces", async () => {
  handler = async (asked, answer) => {
    answer.write("you said ");
    answer.end(await text(asked));
  };
  const sent = request({ port, method: "POST", headers: { "Content-Length": 6 } });
  sent.write("abc");
  setImmediate(() => sent.end("def"));
  const [answer] = await once(sent, "response");
  expect(await text(answer)).toBe("you said abcdef");
});

test("who says nothing is cut at the first byte's deadline, and who has begun at the request's", async () => {
  const silent = await open();
  const dripping = await open();
  dripping.write("GET / HTTP/1.1\r\nX: ");
  await waitFor("the drip", () => clock.nextDueMs() === 1_000 && clock.pendingCount === 2);
  clock.advance(999);
  await turn();
  expect(server.connectionCount).toBe(2);
  // its next deadline counts from the connection, however it drips
  for (let i = 0; i < 5; i++) dripping.write("y");
  await waitFor("the first byte to be seen", () => clock.pendingCount === 2);
  clock.advance(1);
  await closed(silent);
  await waitFor("the silent one to be gone", () => server.connectionCount === 1);
  expect(clock.nextDueMs()).toBe(3_000);
  clock.advance(2_000);
  await closed(dripping);
  await waitFor("both to be gone", () => server.connectionCount === 0);
});

test("an answer that is late, or not taken, is cut", async () => {
  let unanswered: ServerResponse | undefined;
  handler = (_, answer) => {
    unanswered = answer;
  };
  const client = await open({ port }, get);
  await waitFor("the request", () => unanswered !== undefined);
  clock.advance(9_999);
  await turn();
  expect(server.connectionCount).toBe(1);
  clock.advance(1);
  await closed(client);
  await waitFor("the answer to hear of it", () => unanswered?.destroyed === true);
});

test.each([
  ["garbage", "\x16\x03\x01", "400"],
  ["a second request behind the first", get + get, "400"],
  ["a head without end", `GET / HTTP/1.1\r\nX: ${"y".repeat(2_000)}`, "431"],
  ["a body over the bound", "POST / HTTP/1.1\r\nContent-Length: 101\r\n\r\n", "413"],
  ["chunks", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "411"],
  ["a head that is none", "GET\r\n\r\n", "400"],
])("%s never reaches the handler", async (_, says, status) => {
  let count = 0;
  handler = (_asked, answer) => {
    count++;
    answer.end();
  };
  const client = await open({ port }, says);
  expect(await text(client)).toMatch(`HTTP/1.1 ${status}`);
  expect(count).toBe(0);
  await waitFor("the place to be free", () => server.connectionCount === 0);
});

test("half a request with its end is cut at once", async () => {
  const client = await open();
  client.end("GET / HT");
  await closed(client);
  await waitFor("the place to be free", () => server.connectionCount === 0);
});

test("who comes when all is taken is served, silent ones go, and the log has one line", async () => {
  const silent = await Promise.all(Array.from({ length: 4 }, () => open()));
  for (let i = 0; i < 20; i++) expect(await text(await open({ port }, get))).toContain("GET /a");
  // the one that was taken first, which need not be the one that was opened first
  await Promise.race(silent.map((client) => closed(client)));
  expect(log.lines.map(({ level }) => level)).toEqual(["warn"]);
  clock.advance(600_000);
  await waitFor("all to be gone", () => server.connectionCount === 0);
  await Promise.all(Array.from({ length: 4 }, () => open()));
  await open({ port }, get);
  await waitFor("the next line", () => log.lines.length === 2);
});

test("where all are answered the next one is refused", async () => {
  const answers: ServerResponse[] = [];
  handler = (_, answer) => answers.push(answer);
  for (let i = 0; i < 4; i++) await open({ port }, get);
  await waitFor("four requests", () => answers.length === 4);
  const fifth = await open({ port }, get);
  await closed(fifth);
  expect(answers).toHaveLength(4);
  for (const answer of answers) answer.end();
});

test("with few descriptors left nobody gets one but the node itself, and who may use up the last one", async () => {
  await server.close();
  const none = new Descriptors({ limit: 100, reserve: 50, count: () => 60 });
  const path = join(folder, "a.sock");
  for (const [descriptors, isTaken] of [
    [none, false],
    ["all", true],
  ] as const) {
    await start({ descriptors });
    const door = server.door();
    await new Promise<void>((resolve) => door.listen(path, resolve));
    const client = await open({ path }, get);
    expect(await text(client).catch(() => "")).toMatch(isTaken ? /GET \/a/ : /^$/);
    expect(await text(await open({ port }, get))).toContain("GET /a");
    await server.close();
  }
  await start();
});

test("the end waits for answers under way, cuts who says nothing, and can be followed by another start", async () => {
  let unanswered: ServerResponse | undefined;
  handler = (_, answer) => {
    unanswered = answer;
  };
  const silent = await open();
  const asking = await open({ port }, get);
  await waitFor("the request", () => unanswered !== undefined);
  const finished = server.finish();
  await closed(silent);
  unanswered?.end("late");
  expect(await text(asking)).toContain("late");
  await finished;
  port = await server.listenOn(0);
  handler = (_, answer) => answer.end("again");
  expect(await text(await open({ port }, get))).toContain("again");
});

test("a port that another has is an error, and nothing stays behind", async () => {
  const before = readdirSync("/proc/self/fd").length;
  await expect(server.listenOn(port)).rejects.toMatchObject({ code: "EADDRINUSE" });
  expect(readdirSync("/proc/self/fd").length).toBe(before);
});

process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
