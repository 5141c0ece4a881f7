// SPDX-License-Identifier: Apache-2.0
// Names of Unix sockets: taken over, left alone, and back when somebody removed them.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { connect, createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { publishMissingSocket, publishSocket, SocketName } from "../../src/linux/unix-socket.ts";
import { recordingLogger } from "../kube/kube-fixture.ts";
import { FakeClock } from "../support/fake-clock.ts";

let folder: string;
let path: string;
const servers: Server[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "unix-socket-"));
  path = join(folder, "a.sock");
});
afterEach(async () => {
  for (const server of servers.splice(0)) await new Promise((resolve) => server.close(resolve));
  rmSync(folder, { recursive: true, force: true });
});

/** A server that says its name. */
function named(name: string): Server {
  const server = createServer((socket) => socket.end(name));
  servers.push(server);
  return server;
}

async function asked(): Promise<string> {
  let text = "";
  for await (const chunk of connect(path)) text += String(chunk);
  return text;
}

/** Lets everything happen that waits for nothing. */
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test("a name is taken over from a stale file and from a server that is ending, which leaves it alone", async () => {
  writeFileSync(path, "stale");
  const first = named("first");
  const { inode } = await publishSocket(first, path);
  expect([await asked(), statSync(path).mode & 0o777]).toEqual(["first", 0o600]);
  expect(statSync(path, { bigint: true }).ino).toBe(inode);
  // another process has another name of its own
  const { pid } = process;
  Object.defineProperty(process, "pid", { value: pid + 1, configurable: true });
  try {
    await publishSocket(named("second"), path);
  } finally {
    Object.defineProperty(process, "pid", { value: pid, configurable: true });
  }
  await new Promise((resolve) => first.close(resolve));
  expect(await asked()).toBe("second");
  expect(readdirSync(folder)).toEqual(["a.sock"]);
});

test("a name in a folder that is not there cannot be published, only put back", async () => {
  const inner = join(folder, "run/a.sock");
  await expect(publishSocket(named("x"), inner)).rejects.toThrow("EACCES");
  await publishMissingSocket(named("y"), inner);
  expect(statSync(inner).mode & 0o777).toBe(0o600);
});

test("a name that is there again is not taken away from whoever has it", async () => {
  writeFileSync(path, "successor");
  await expect(publishMissingSocket(named("x"), path)).rejects.toMatchObject({ code: "EEXIST" });
  expect(readFileSync(path, "utf8")).toBe("successor");
  expect(readdirSync(folder)).toEqual(["a.sock"]);
});

test("a name that is kept is put back within a second, each time, and failures are told", async () => {
  const clock = new FakeClock();
  const log = recordingLogger();
  let failure: Error | undefined;
  const name = new SocketName({
    path,
    what: "the socket",
    reopen: async () => {
      if (failure !== undefined) throw failure;
      writeFileSync(path, "");
    },
    log,
    clock,
  });
  const told = (): string[] => log.lines.map(({ level, message }) => `${level} ${message}`);
  clock.advance(60_000);
  expect(existsSync(path)).toBe(false);
  name.keep();
  for (let time = 1; time <= 2; time++) {
    rmSync(path, { force: true });
    clock.advance(999);
    await turn();
    expect(existsSync(path)).toBe(false);
    clock.advance(1);
    await turn();
    expect([existsSync(path), told()]).toEqual([
      true,
      Array(time).fill("warn somebody removed the socket; it is back"),
    ]);
  }
  rmSync(path);
  failure = new Error("no space");
  clock.advance(1_000);
  await turn();
  expect([existsSync(path), told().at(-1)]).toEqual([false, "error cannot open the socket again"]);
  failure = undefined;
  clock.advance(1_000);
  await turn();
  expect(existsSync(path)).toBe(true);
  rmSync(path);
  await name.stop();
  clock.advance(10_000);
  expect([existsSync(path), clock.pendingCount]).toEqual([false, 0]);
});
