// SPDX-License-Identifier: Apache-2.0
// Who holds ports of a namespace: real sockets of real processes, and a /proc made of files for what is hard to come by.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { socketInNetns } from "../../src/linux/native.ts";
import { visitSockets } from "../../src/linux/netlink/inet-diag.ts";
import { Netns } from "../../src/linux/netns.ts";
import { portHolders } from "../../src/linux/port-holders.ts";
import { type HeldNetns, holdNetns } from "./held-netns.ts";

const PORTS = [15008, 15053];

let held: HeldNetns;
let netns: Netns;
const children: ChildProcess[] = [];

beforeEach(async () => {
  held = await holdNetns();
  netns = Netns.open(held.path);
});

afterEach(async () => {
  for (const child of children.splice(0)) {
    const ended = once(child, "exit");
    if (child.kill("SIGKILL")) await ended;
  }
  netns.close();
  await held[Symbol.asyncDispose]();
});

/** A process in the namespace with these sockets, once they listen. */
async function app(...sockets: string[]): Promise<number> {
  const listening = sockets.map((socket) => `require("node:events").once(${socket}, "listening")`);
  const script = `process.stdin.resume(); Promise.all([${listening}]).then(() => console.log("ready"));`;
  const child = spawn("nsenter", [`--net=${held.path}`, process.execPath, "-e", script], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  children.push(child);
  await once(child.stdout, "data");
  return child.pid as number;
}

const listenOn = (port: number, host = "::") => `require("net").createServer().listen(${port}, "${host}")`;
const bindUdp = (port: number) => `require("dgram").createSocket("udp4").bind(${port})`;

test("nobody holds what is free", async () => {
  await app(listenOn(8080));
  expect(await portHolders(netns, PORTS, { procRoot: "/proc" })).toEqual([]);
});

test("processes of the namespace are found by port and protocol, in the order of ports", async () => {
  const first = await app(bindUdp(15053), listenOn(15053, "127.0.0.1"));
  const second = await app(listenOn(15008, "0.0.0.0"));
  expect(await portHolders(netns, PORTS, { procRoot: "/proc" })).toEqual([
    { port: 15008, protocol: "tcp", pid: second, command: expect.stringMatching(/node/) },
    { port: 15053, protocol: "tcp", pid: first, command: expect.stringMatching(/node/) },
    { port: 15053, protocol: "udp", pid: first, command: expect.stringMatching(/node/) },
  ]);
});

test("a socket whose owner is in another namespace is held by somebody unknown", async () => {
  const fd = socketInNetns(netns.fd, { family: 6, type: "stream", port: 15008, backlog: 1 });
  expect(await portHolders(netns, PORTS, { procRoot: "/proc" })).toEqual([{ port: 15008, protocol: "tcp" }]);
  closeSync(fd);
});

describe("with a /proc of files", () => {
  let root: string;
  let fd: number;
  let inode: number;

  beforeEach(async () => {
    root = mkdtempSync(join(tmpdir(), "port-holders-"));
    fd = socketInNetns(netns.fd, { family: 4, type: "stream", port: 15008, backlog: 1 });
    await visitSockets(netns.fd, { protocol: "tcp", states: ["listen"] }, (socket) => {
      inode = socket.inode;
    });
  });

  afterEach(() => {
    closeSync(fd);
    rmSync(root, { recursive: true });
  });

  interface FakeProcess {
    readonly cmdline?: string;
    readonly comm?: string;
    readonly links?: readonly string[];
    readonly isOutside?: boolean;
  }

  function addProcess(pid: number, { cmdline, comm, links, isOutside = false }: FakeProcess): void {
    const folder = join(root, String(pid));
    mkdirSync(join(folder, "ns"), { recursive: true });
    symlinkSync(isOutside ? "/proc/self/ns/net" : held.path, join(folder, "ns/net"));
    if (cmdline !== undefined) writeFileSync(join(folder, "cmdline"), cmdline);
    if (comm !== undefined) writeFileSync(join(folder, "comm"), comm);
    if (links === undefined) return;
    mkdirSync(join(folder, "fd"));
    for (const [number, link] of links.entries()) symlinkSync(link, join(folder, "fd", String(number)));
  }

  const look = () => portHolders(netns, PORTS, { procRoot: root });
  const link = () => `socket:[${inode}]`;

  test.each([
    { cmdline: "/usr/bin/envoy\0--token\0secret\0", comm: "envoy\n", command: "/usr/bin/envoy" },
    { cmdline: "", comm: "worker\n", command: "worker" },
    { cmdline: "a\x1b[31m\nbé\0x", comm: "a", command: "a?[31m?b?" },
    { cmdline: `${"x".repeat(5000)}\0`, comm: "x", command: "x".repeat(64) },
    { cmdline: undefined, comm: undefined, command: undefined },
  ])("a program is named $command without its arguments", async ({ cmdline, comm, command }) => {
    addProcess(7, {
      ...(cmdline === undefined ? {} : { cmdline }),
      ...(comm === undefined ? {} : { comm }),
      links: [link()],
    });
    expect(await look()).toEqual([
      { port: 15008, protocol: "tcp", pid: 7, ...(command === undefined ? {} : { command }) },
    ]);
  });

  test("processes of other namespaces, without descriptors, or that are no processes are passed over", async () => {
    addProcess(1, { comm: "outside", links: [link()], isOutside: true });
    addProcess(2, { comm: "ending" });
    addProcess(3, { comm: "other", links: ["socket:[1]", "/dev/null"] });
    mkdirSync(join(root, "4"));
    writeFileSync(join(root, "5"), "");
    mkdirSync(join(root, "sys"));
    addProcess(60, { comm: "late", links: ["pipe:[1]", link()] });
    expect(await look()).toEqual([{ port: 15008, protocol: "tcp", pid: 60, command: "late" }]);
  });

  test("no /proc at all is no fault", async () => {
    const nothing = join(root, "nothing");
    expect(await portHolders(netns, PORTS, { procRoot: nothing })).toEqual([
      { port: 15008, protocol: "tcp" },
    ]);
  });
});
