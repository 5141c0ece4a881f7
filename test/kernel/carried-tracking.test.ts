// SPDX-License-Identifier: Apache-2.0
// The kernel forgets what ztunnel carried and what is long over, and nothing else, whether tracking goes on or not. Root; a namespace
// of its own.
import { once } from "node:events";
import { createServer, type Server, Socket, type SocketConstructorOpts } from "node:net";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { socketInNetns } from "../../src/linux/native.ts";
import { countTracked, listTracked } from "../../src/linux/netlink/conntrack.ts";
import { forgetCarried } from "../../src/redirection/carried-tracking.ts";
import { forgetFrozen } from "../../src/redirection/frozen-tracking.ts";
import { TestNetns } from "../redirection/test-netns.ts";
import { waitFor } from "../support/node/wait-for.ts";

let pod: TestNetns;
const open: (Server | Socket)[] = [];

beforeEach(async () => {
  pod = await TestNetns.make();
});

afterEach(() => {
  for (const each of open.splice(0)) {
    if (each instanceof Socket) each.destroy();
    else each.close();
  }
  pod[Symbol.dispose]();
});

/** A connection from inside the namespace, and from which port it comes. */
async function connect(family: 4 | 6, port: number): Promise<number> {
  const host = family === 4 ? "127.0.0.1" : "::1";
  const fd = socketInNetns(pod.netns.fd, { family, type: "stream" });
  const client = new Socket({ fd, manualStart: true } as SocketConstructorOpts);
  open.push(client);
  client.on("error", () => {});
  client.connect({ host, port });
  await once(client, "connect");
  return client.localPort ?? 0;
}

function listen(port: number): void {
  const everywhere = { family: 6, type: "stream", address: "::", v6only: false, backlog: 8 } as const;
  const server = createServer((socket) => open.push(socket.on("error", () => {})));
  server.listen({ fd: socketInNetns(pod.netns.fd, { ...everywhere, port }) });
  open.push(server);
}

/** Ports that answers come from, of everything tracked. */
async function tracked(): Promise<number[]> {
  const { connections, isCapped } = await listTracked(pod.netns.fd, {});
  expect(isCapped).toBe(false);
  return connections.map(({ answeringPort }) => answeringPort).sort((a, b) => a - b);
}

test.each([
  ["while tracking goes on", false],
  ["when tracking has stopped", true],
])("what was redirected to ztunnel or marked is forgotten %s, what others track stays", async (_, isOver) => {
  for (const tool of ["iptables-nft", "ip6tables-nft"]) {
    await pod.run(`${tool} -t nat -A OUTPUT -p tcp --dport 7001 -j REDIRECT --to-ports 15001`);
    await pod.run(`${tool} -t nat -A OUTPUT -p tcp --dport 7006 -j REDIRECT --to-ports 15006`);
    await pod.run(`${tool} -t nat -A OUTPUT -p tcp --dport 7009 -j REDIRECT --to-ports 9009`);
    await pod.run(`${tool} -t mangle -A OUTPUT -p tcp --dport 7002 -j CONNMARK --set-xmark 0x111/0xfff`);
    await pod.run(`${tool} -t mangle -A OUTPUT -p tcp --dport 7003 -j CONNMARK --set-xmark 0x112/0xfff`);
  }
  for (const port of [15001, 15006, 9009, 7002, 7003, 7004]) listen(port);
  for (const port of [7001, 7006, 7009, 7002, 7003, 7004])
    for (const family of [4, 6] as const) await connect(family, port);
  const twice = (...ports: number[]): number[] => ports.flatMap((port) => [port, port]);
  expect(await tracked()).toEqual(twice(7002, 7003, 7004, 9009, 15001, 15006));
  expect(await countTracked(pod.netns.fd)).toBe(12);
  if (isOver) await pod.run("nft flush ruleset");
  expect(await forgetCarried(pod.netns)).toBe(6);
  expect(await tracked()).toEqual(twice(7003, 7004, 9009));
  expect(await forgetCarried(pod.netns)).toBe(0);
});

test("a namespace that never tracked anything has nothing to forget", async () => {
  expect(await countTracked(pod.netns.fd)).toBe(0);
  expect(await forgetCarried(pod.netns)).toBe(0);
});

test.each([700, 2_100])("%i connections are forgotten in one go", async (many) => {
  await pod.run("iptables-nft -t nat -A OUTPUT -p tcp --dport 7001 -j REDIRECT --to-ports 15001");
  listen(15001);
  for (let i = 0; i < many; i++) await connect(4, 7001);
  expect(await forgetCarried(pod.netns)).toBe(many);
  expect(await tracked()).toEqual([]);
});

describe("connections that are over", () => {
  /** Tracking begins with the first rule that asks for it, and ends with the last. */
  const chain = "chain c {\n type filter hook output priority 0\n ct state new\n }";
  const track = () => pod.run("nft -f -", `table inet t {\n ${chain}\n}\n`);
  const untrack = () => pod.run("nft flush ruleset");
  /** Ends what was opened here, without a packet that is tracked. */
  const end = async (): Promise<void> => {
    for (const each of open.splice(0)) if (each instanceof Socket) each.resetAndDestroy();
    await waitFor(
      "the sockets to end",
      async () => !(await pod.run("ss -Htan state established")).includes(":"),
    );
  };

  test("are forgotten when tracking stopped before their end; those that go on, and all of others, stay", async () => {
    await pod.run("ip address add 10.9.9.9/32 dev lo");
    await track();
    for (const port of [7001, 7002]) listen(port);
    for (const family of [4, 6] as const) await connect(family, 7001);
    await untrack();
    await end();
    expect(await tracked()).toEqual([7001, 7001]);
    await track();
    for (const family of [4, 6] as const) await connect(family, 7002);
    const add = (line: string) => pod.run(`conntrack -I -t 1000 ${line}`);
    const tcp = "-p tcp --state ESTABLISHED";
    await add(`${tcp} -s 10.9.9.9 -d 10.1.1.1 --sport 4000 --dport 7003`);
    await add(`${tcp} -s 10.1.1.1 -d 10.9.9.9 --sport 4000 --dport 7004`);
    // forwarded for others, translated by others, and no TCP
    await add(`${tcp} -s 10.2.2.2 -d 10.1.1.1 --sport 4000 --dport 7005`);
    await add(`${tcp} -s 10.9.9.9 -d 10.1.1.1 --sport 4000 --dport 7006 --dst-nat 10.1.1.2`);
    await add("-p udp -s 10.9.9.9 -d 10.1.1.1 --sport 4000 --dport 7007");
    expect(await forgetFrozen(pod.netns)).toBe(4);
    expect(await tracked()).toEqual([7002, 7002, 7005, 7006, 7007]);
    expect(await forgetFrozen(pod.netns)).toBe(0);
  });

  test("are forgotten in TIME_WAIT too", async () => {
    await track();
    listen(7001);
    await connect(4, 7001);
    await untrack();
    for (const each of open) if (each instanceof Socket) each.resume().end();
    await waitFor("TIME_WAIT", async () => (await pod.run("ss -Htan state time-wait")).includes(":7001"));
    expect(await tracked()).toEqual([7001]);
    expect(await forgetFrozen(pod.netns)).toBe(1);
  });

  test("are none where nothing is tracked", async () => {
    listen(7001);
    await connect(4, 7001);
    expect(await forgetFrozen(pod.netns)).toBe(0);
  });
});
