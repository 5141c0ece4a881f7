// SPDX-License-Identifier: Apache-2.0
// Sockets opened in another namespace, used the way Node uses sockets.
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { closeSync, fstatSync, openSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { createServer, Socket } from "node:net";
import { text } from "node:stream/consumers";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { type NativeError, type NetnsSocketOptions, socketInNetns } from "../../src/linux/native.ts";
import { type HeldNetns, holdNetns } from "../linux/held-netns.ts";

let held: HeldNetns;
let netnsFd: number;
let fdsBefore: number;

beforeAll(async () => {
  held = await holdNetns();
  netnsFd = openSync(held.path, "r");
});

afterAll(async () => {
  closeSync(netnsFd);
  await held[Symbol.asyncDispose]();
});

beforeEach(() => {
  fdsBefore = readdirSync("/proc/self/fd").length;
});

afterEach(() => expect(readdirSync("/proc/self/fd").length).toBe(fdsBefore));

function failure(options: NetnsSocketOptions, fd = netnsFd): NativeError {
  try {
    closeSync(socketInNetns(fd, options));
  } catch (error) {
    return error as NativeError;
  }
  throw new Error("no error");
}

/** Connects through the namespace; the address family follows from the address. */
async function exchange(address: string, port: number): Promise<string> {
  const fd = socketInNetns(netnsFd, { family: address.includes(":") ? 6 : 4, type: "stream" });
  const socket = new Socket({ fd, manualStart: true } as ConstructorParameters<typeof Socket>[0]);
  socket.connect({ host: address, port });
  const answer = await text(socket);
  socket.destroy();
  return answer;
}

test.each([
  { family: 4, address: "127.0.0.1", reach: ["127.0.0.1"] },
  { family: 4, address: undefined, reach: ["127.0.0.1"] },
  { family: 6, address: "::1", reach: ["::1"] },
  { family: 6, address: "::", reach: ["::1", "127.0.0.1"] },
] as const)(
  "Node serves on a listener made inside when it is bound to $address",
  async ({ family, address, reach }) => {
    const options = { family, type: "stream", port: 0, backlog: 5, ...(address && { address }) } as const;
    const server = createServer((socket) => socket.end("inside"));
    server.listen({ fd: socketInNetns(netnsFd, family === 6 ? { ...options, v6only: false } : options) });
    await once(server, "listening");
    const { port } = server.address() as { port: number };
    for (const host of reach) expect(await exchange(host, port)).toBe("inside");
    expect(await held.run("ss", "-Hltn")).toContain(`:${port}`);
    // From the namespace of this process nobody is there.
    const outside = new Socket();
    outside.connect(port, "127.0.0.1");
    const [error] = await once(outside, "error");
    expect((error as NodeJS.ErrnoException).code).toBe("ECONNREFUSED");
    server.close();
    await once(server, "close");
  },
);

test("a connection to a closed port inside fails with ECONNREFUSED", async () => {
  await expect(exchange("127.0.0.1", 1)).rejects.toMatchObject({ code: "ECONNREFUSED" });
});

test("Node receives on a datagram socket made inside", async () => {
  const receiver = createSocket("udp4");
  receiver.bind({ fd: socketInNetns(netnsFd, { family: 4, type: "dgram", address: "127.0.0.1" }) });
  const sender = createSocket("udp4");
  sender.bind({ fd: socketInNetns(netnsFd, { family: 4, type: "dgram", address: "127.0.0.1" }) });
  sender.send("hello", receiver.address().port, "127.0.0.1");
  const [message] = await once(receiver, "message");
  expect(`${message}`).toBe("hello");
  await Promise.all([receiver, sender].map((socket) => once(socket.close(), "close")));
});

test("the options reach the socket", async () => {
  const fd = socketInNetns(netnsFd, {
    family: 6,
    type: "stream",
    address: "::",
    port: 15008,
    v6only: false,
    reuseAddress: true,
    reusePort: true,
    mark: 1337,
    transparent: true,
    backlog: 7,
  });
  const listed = await held.run("ss", "-Hltne");
  expect(listed).toMatch(/^LISTEN\s+0\s+7\s+\*:15008\s/m);
  expect(listed).toContain("fwmark:0x539");
  expect(listed).toContain("v6only:0");
  // SO_REUSEPORT: the port may be had twice only if both ask for it.
  const second = { family: 6, type: "stream", address: "::", port: 15008, reusePort: true } as const;
  closeSync(socketInNetns(netnsFd, second));
  expect(failure({ ...second, reusePort: false })).toMatchObject({ code: "EADDRINUSE", syscall: "bind" });
  closeSync(fd);
});

test("an address of another machine can be bound only when the socket is transparent", () => {
  const foreign = { family: 4, type: "stream", address: "192.0.2.1" } as const;
  expect(failure(foreign)).toMatchObject({ code: "EADDRNOTAVAIL", syscall: "bind" });
  closeSync(socketInNetns(netnsFd, { ...foreign, transparent: true }));
  closeSync(socketInNetns(netnsFd, { family: 6, type: "stream", address: "2001:db8::1", transparent: true }));
});

test("v6only keeps IPv4 peers out", async () => {
  const server = createServer((socket) => socket.end("six"));
  server.listen({
    fd: socketInNetns(netnsFd, { family: 6, type: "stream", port: 0, v6only: true, backlog: 1 }),
  });
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  expect(await exchange("::1", port)).toBe("six");
  await expect(exchange("127.0.0.1", port)).rejects.toMatchObject({ code: "ECONNREFUSED" });
  server.close();
  await once(server, "close");
});

test("the descriptor is a close-on-exec, non-blocking socket", () => {
  const fd = socketInNetns(netnsFd, { family: 4, type: "stream" });
  expect(fstatSync(fd).isSocket()).toBe(true);
  expect(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8")).toMatch(/^flags:\s+02004002$/m);
  closeSync(fd);
});

test.each([
  { what: "not numeric", options: { address: "localhost" }, code: "EINVAL", syscall: "bind" },
  { what: "of the other family", options: { address: "::1" }, code: "EINVAL", syscall: "bind" },
  { what: "empty", options: { address: "" }, code: "EINVAL", syscall: "bind" },
  { what: "not ours", options: { address: "192.0.2.9" }, code: "EADDRNOTAVAIL", syscall: "bind" },
])("bind fails with $code when the address is $what", ({ options, code, syscall }) => {
  expect(failure({ family: 4, type: "stream", ...options })).toMatchObject({ code, syscall });
});

test.each([
  { what: "a plain file", path: "/dev/null", code: "EINVAL" },
  { what: "a mount namespace", path: "/proc/self/ns/mnt", code: "EINVAL" },
])("setns fails with $code when the descriptor is $what", ({ path, code }) => {
  const fd = openSync(path, "r");
  expect(failure({ family: 4, type: "stream" }, fd)).toMatchObject({ code, syscall: "setns" });
  closeSync(fd);
  expect(failure({ family: 4, type: "stream" }, fd)).toMatchObject({ code: "EBADF", syscall: "setns" });
});

test("a port out of range is refused and does not wrap", () => {
  expect(() => socketInNetns(netnsFd, { family: 4, type: "stream", port: 65_536 })).toThrow(TypeError);
  expect(() => socketInNetns(netnsFd, { family: 4, type: "stream", port: -1 })).toThrow(TypeError);
});

test("every thread of this process is in its own namespace after many calls", () => {
  for (let i = 0; i < 200; i++) closeSync(socketInNetns(netnsFd, { family: 4, type: "stream" }));
  const own = readlinkSync("/proc/self/ns/net");
  for (const task of readdirSync("/proc/self/task")) {
    expect(readlinkSync(`/proc/self/task/${task}/ns/net`)).toBe(own);
  }
});
