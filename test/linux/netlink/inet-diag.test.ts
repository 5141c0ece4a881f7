// SPDX-License-Identifier: Apache-2.0
// What sock_diag shows of sockets whose every property the test knows, and the end of single ones. Root; namespaces of its own.
import { once } from "node:events";
import { closeSync } from "node:fs";
import { createServer, type Server, Socket, type SocketConstructorOpts } from "node:net";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { socketInNetns } from "../../../src/linux/native.ts";
import {
  destroySockets,
  type InetSocket,
  readDestroyAnswers,
  type SocketQuery,
  visitSockets,
} from "../../../src/linux/netlink/inet-diag.ts";
import { Netns } from "../../../src/linux/netns.ts";
import { type HeldNetns, holdNetns } from "../held-netns.ts";

let held: HeldNetns;
let netns: Netns;
const open: (Server | Socket)[] = [];

beforeEach(async () => {
  held = await holdNetns();
  netns = Netns.open(held.path);
});

afterEach(async () => {
  for (const each of open.splice(0)) {
    if (each instanceof Socket) each.destroy();
    else each.close();
  }
  netns.close();
  await held[Symbol.asyncDispose]();
});

async function list(query: Partial<SocketQuery> = {}): Promise<InetSocket[]> {
  const sockets: InetSocket[] = [];
  const asked = { protocol: "tcp", states: ["established"], ...query } as const;
  const { isCapped } = await visitSockets(netns.fd, asked, (socket) => sockets.push(socket));
  expect(isCapped).toBe(false);
  return sockets.sort((a, b) => a.local.port - b.local.port);
}

/** A server and a client with this mark, connected; both are ended with the test. */
async function connect(options: { address: string; port: number; mark?: number; dual?: boolean }) {
  const { address, port, mark = 0, dual = false } = options;
  const family = address.includes(":") ? 6 : 4;
  const listening = dual
    ? ({ family: 6, address: "::", v6only: false } as const)
    : ({ family, address } as const);
  const serverFd = socketInNetns(netns.fd, { ...listening, type: "stream", port, backlog: 8 });
  const server = createServer();
  open.push(server.listen({ fd: serverFd }));
  const fd = socketInNetns(netns.fd, { family, type: "stream", mark });
  const client = new Socket({ fd, manualStart: true } as SocketConstructorOpts);
  const accepted = once(server, "connection");
  client.connect({ host: address, port });
  await once(client, "connect");
  const [peer] = (await accepted) as [Socket];
  for (const socket of [client, peer]) socket.on("error", () => {});
  open.push(client, peer);
  return { client, peer };
}

describe("a connection", () => {
  test.each([
    { what: "IPv4", address: "127.0.0.1", dual: false, families: [2, 2] },
    { what: "IPv6", address: "::1", dual: false, families: [10, 10] },
    { what: "IPv4 to a socket of both families", address: "127.0.0.1", dual: true, families: [10, 2] },
  ])("over $what is shown with both ends, mark and inode", async ({ address, dual, families }) => {
    const { client } = await connect({ address, port: 7001, mark: 0x10539, dual });
    const { localPort = 0 } = client;
    const sockets = await list();
    expect(sockets.map(({ family }) => family)).toEqual(families);
    expect(sockets.map(({ local, remote, mark, state }) => ({ local, remote, mark, state }))).toEqual([
      { local: { address, port: 7001 }, remote: { address, port: localPort }, mark: 0, state: "established" },
      {
        local: { address, port: localPort },
        remote: { address, port: 7001 },
        mark: 0x10539,
        state: "established",
      },
    ]);
    const seen = await held.run("ss", "-Htne", "state", "established");
    expect(sockets.map(({ inode }) => inode).sort()).toEqual(
      [...seen.matchAll(/ino:(\d+)/g)].map(([, inode]) => Number(inode)).sort(),
    );
  });

  test("is shown in the states that are asked for alone", async () => {
    const { client } = await connect({ address: "::1", port: 7001 });
    expect(await list({ states: ["listen"] })).toMatchObject([
      { state: "listen", local: { address: "::1", port: 7001 }, remote: { address: "::", port: 0 } },
    ]);
    expect(await list({ states: ["syn-sent", "close-wait"] })).toEqual([]);
    client.end();
    await expect
      .poll(
        async () => (await list({ states: ["fin-wait-2", "time-wait", "close-wait", "last-ack"] })).length,
      )
      .toBeGreaterThan(0);
    expect(await list({ states: [] })).toEqual([]);
  });

  test("is chosen by the kernel for its mark", async () => {
    await connect({ address: "127.0.0.1", port: 7001, mark: 0x539 });
    await connect({ address: "::1", port: 7002, mark: 0xf539 });
    await connect({ address: "::1", port: 7003, mark: 0x53a });
    const ports = async (mark: { value: number; mask: number }) =>
      (await list({ mark })).map(({ remote }) => remote.port).sort();
    expect(await ports({ value: 0x539, mask: 0xfff })).toEqual([7001, 7002]);
    expect(await ports({ value: 0x539, mask: 0xffffffff })).toEqual([7001]);
    expect(await ports({ value: 0x1, mask: 0xfff })).toEqual([]);
  });
});

test("UDP sockets are shown, bound and connected", async () => {
  const fd = socketInNetns(netns.fd, { family: 6, type: "dgram", address: "::1", port: 7053, mark: 7 });
  expect(await list({ protocol: "udp", states: ["close"] })).toMatchObject([
    { state: "close", local: { address: "::1", port: 7053 }, mark: 7 },
  ]);
  closeSync(fd);
  expect(await list({ protocol: "udp", states: ["close", "established"] })).toEqual([]);
});

test("of very many sockets some are shown and the rest is not heard", async () => {
  const fds = Array.from({ length: 600 }, (_, index) =>
    socketInNetns(netns.fd, { family: 4, type: "dgram", port: 10_000 + index }),
  );
  try {
    const query = { protocol: "udp", states: ["close"] } as const;
    const ports = new Set<number>();
    const add = ({ local }: InetSocket): unknown => ports.add(local.port);
    expect(await visitSockets(netns.fd, query, add)).toEqual({ isCapped: false });
    expect(ports.size).toBe(600);
    ports.clear();
    expect(await visitSockets(netns.fd, { ...query, maxBytes: 1 }, add)).toEqual({ isCapped: true });
    expect(ports.size).toBeGreaterThan(0);
    expect(ports.size).toBeLessThan(600);
  } finally {
    for (const fd of fds) closeSync(fd);
  }
});

test("a descriptor that is no namespace is refused", async () => {
  await expect(
    visitSockets(999_999, { protocol: "tcp", states: ["listen"] }, () => {}),
  ).rejects.toMatchObject({ code: "EBADF" });
});

describe("the end of a connection", () => {
  test.each(["127.0.0.1", "::1"])("over %s is heard by both sides at once", async (address) => {
    const { client, peer } = await connect({ address, port: 7001, dual: address === "127.0.0.1" });
    const codeOf = async (socket: Socket) => ((await once(socket, "error"))[0] as NodeJS.ErrnoException).code;
    const [server] = await list();
    const heard = Promise.all([codeOf(peer), codeOf(client)]);
    expect(await destroySockets(netns.fd, [server!])).toEqual({ destroyedCount: 1, isSupported: true });
    expect(await heard).toEqual(["ECONNABORTED", "ECONNRESET"]);
  });

  test("leaves alone what has its addresses later, and is no error twice", async () => {
    const first = await connect({ address: "127.0.0.1", port: 7001 });
    const sockets = await list();
    expect(await destroySockets(netns.fd, [])).toEqual({ destroyedCount: 0, isSupported: true });
    const others = sockets.map((socket) => ({
      ...socket,
      id: socket.id.map((byte, at) => (at >= 40 ? byte ^ 1 : byte)),
    }));
    expect(await destroySockets(netns.fd, others)).toEqual({ destroyedCount: 0, isSupported: true });
    expect((await list()).length).toBe(2);
    expect((await destroySockets(netns.fd, sockets)).destroyedCount).toBeGreaterThan(0);
    expect(await destroySockets(netns.fd, sockets)).toEqual({ destroyedCount: 0, isSupported: true });
    expect(await list()).toEqual([]);
    first.client.destroy();
  });

  test.each([
    [[0, 0], { destroyedCount: 2, isSupported: true }],
    [[0, -2, -116], { destroyedCount: 1, isSupported: true }],
    [[-95, -95], { destroyedCount: 0, isSupported: false }],
    [[], { destroyedCount: 0, isSupported: true }],
  ])("is judged by the kernel's answers %j", (errors, report) => {
    expect(readDestroyAnswers(errors.map((error) => ({ error })))).toEqual(report);
  });

  test.each([
    [-1, "EPERM"],
    [undefined, "no answer"],
  ])("is refused with %s", (error, code) => {
    expect(() => readDestroyAnswers([{ error: 0 }, { error }])).toThrow(expect.objectContaining({ code }));
  });
});
