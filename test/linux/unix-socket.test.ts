// SPDX-License-Identifier: Apache-2.0
// Names of Unix sockets: taken over, left alone, and back when somebody removed them.
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { connect, createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { publishMissingSocket, publishSocket, SocketName } from "../../src/linux/unix-socket.ts";
import { recordingLogger } from "../kube/kube-fixture.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { letItBeMissed, SUCCESSOR_MS, untilMissed } from "../support/lost-name.ts";
import { waitFor } from "../support/node/wait-for.ts";

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

/** A kept name whose looks by the clock come when the test says. */
function kept() {
  const clock = new FakeClock();
  const log = recordingLogger();
  const fault: { now: Error | undefined } = { now: undefined };
  const name = new SocketName({
    path,
    what: "the socket",
    reopen: async () => {
      if (fault.now !== undefined) throw fault.now;
      mkdirSync(folder, { recursive: true });
      writeFileSync(path, "");
    },
    log,
    clock,
  });
  const told = (): string[] => log.lines.map(({ level, message }) => `${level} ${message}`);
  return { name, clock, told, fault };
}

test("a name that somebody removes is back within a second, for the kernel tells of it", async () => {
  const { name, clock, told } = kept();
  writeFileSync(path, "");
  name.keep();
  for (let time = 1; time <= 3; time++) {
    rmSync(path);
    await letItBeMissed(clock);
    await turn();
    expect(existsSync(path)).toBe(true);
    expect(told()).toEqual(Array(time).fill("warn somebody removed the socket; it is back"));
  }
  // a file in its place is a successor's
  writeFileSync(`${path}.new`, "successor");
  renameSync(`${path}.new`, path);
  await turn();
  expect(readFileSync(path, "utf8")).toBe("successor");
  await name.stop();
  rmSync(path);
  clock.advance(60_000);
  await turn();
  expect([existsSync(path), clock.pendingCount]).toEqual([false, 0]);
});

test("a successor that removes the name and takes it a moment later has it", async () => {
  const { name, clock, told } = kept();
  writeFileSync(path, "");
  name.keep();
  rmSync(path);
  await untilMissed(clock);
  clock.advance(SUCCESSOR_MS - 1);
  await turn();
  expect(existsSync(path)).toBe(false);
  writeFileSync(path, "successor");
  clock.advance(1);
  await turn();
  expect([readFileSync(path, "utf8"), told()]).toEqual(["successor", []]);
  await name.stop();
});

test("a name whose folder is removed with it is back, and watched as before", async () => {
  const { name, clock } = kept();
  writeFileSync(path, "");
  name.keep();
  rmSync(folder, { recursive: true });
  for (let time = 0; time < 2; time++) {
    await letItBeMissed(clock);
    await turn();
    expect(existsSync(path)).toBe(true);
    rmSync(path);
  }
  await name.stop();
});

test("a name that cannot be put back is tried again each second, and each time it is told", async () => {
  const { name, clock, told, fault } = kept();
  writeFileSync(path, "");
  name.keep();
  fault.now = new Error("no space");
  rmSync(path);
  await letItBeMissed(clock);
  await waitFor("the first try", () => told().length === 1);
  for (let time = 2; time <= 4; time++) {
    clock.advance(1_000);
    await turn();
    expect(told()).toEqual(Array(time).fill("error cannot open the socket again"));
  }
  fault.now = undefined;
  clock.advance(1_000);
  await turn();
  expect(existsSync(path)).toBe(true);
  await name.stop();
});

test("where nothing tells of the folder a name that is kept is put back within a second", async () => {
  const { name, clock, told } = kept();
  rmSync(folder, { recursive: true });
  name.keep();
  clock.advance(999);
  await turn();
  expect(existsSync(path)).toBe(false);
  clock.advance(1);
  await turn();
  expect([existsSync(path), told()]).toEqual([true, ["warn somebody removed the socket; it is back"]]);
  await name.stop();
});
