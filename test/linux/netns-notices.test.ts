// SPDX-License-Identifier: Apache-2.0
// What is heard of a namespace, by the kernel's own announcements: each kind once, floods once, and nothing keeps the namespace after.
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Netns } from "../../src/linux/netns.ts";
import { NetnsNotices, NOTICE_FDS, type NoticeKind } from "../../src/linux/netns-notices.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { type HeldNetns, holdNetns } from "./held-netns.ts";

let held: HeldNetns;
let netns: Netns;
let fdsBefore: number;

beforeEach(async () => {
  held = await holdNetns();
  fdsBefore = readdirSync("/proc/self/fd").length;
  netns = Netns.open(held.path);
});

afterEach(async () => {
  netns.close();
  // fewer where a test has let the namespace end
  expect(readdirSync("/proc/self/fd").length).toBeLessThanOrEqual(fdsBefore);
  await held[Symbol.asyncDispose]();
});

async function listenTo(kind: NoticeKind) {
  const notices = await NetnsNotices.open(netns, kind);
  if (notices === undefined) throw new Error("the namespace is closed");
  const heard = { times: 0 };
  const listen = (): void => notices.listen(() => heard.times++);
  listen();
  return { notices, heard, listen };
}

const sh = (script: string): Promise<string> => held.run("sh", "-ec", script);

/** What would be heard is heard by now: as much later as ten times what it takes. */
const quietMs = 100;

const table = "nft add table ip t && nft add chain ip t c '{ type nat hook output priority 0; }'";

const podChanges: readonly [what: string, before: string, change: string][] = [
  ["a table that is made", "true", "nft add table ip t"],
  ["a rule that is added", table, "nft add rule ip t c counter"],
  ["a chain that is emptied", `${table} && nft add rule ip t c counter`, "nft flush chain ip t c"],
  ["a rule of iptables-nft", "iptables-nft -t nat -N X", "iptables-nft -t nat -A X -j RETURN"],
  ["an ip rule", "true", "ip rule add fwmark 7 lookup 100"],
  ["an ip rule of IPv6", "true", "ip -6 rule add fwmark 7 lookup 100"],
  ["an ip rule that is taken away", "ip rule add fwmark 7 lookup 100", "ip rule del fwmark 7 lookup 100"],
  [
    "a route that is taken away",
    "ip route add local default dev lo table 100",
    "ip route del local default dev lo table 100",
  ],
  ["a route of IPv6", "true", "ip -6 route add local default dev lo table 100"],
  ["a device that goes down", "true", "ip link set lo down"],
  ["an address", "true", "ip address add 10.1.2.3/32 dev lo"],
  ["IPv6 that is switched off", "true", "sysctl -qw net.ipv6.conf.all.disable_ipv6=1"],
];

test.each(podChanges)("of a pod %s is heard", async (_, before, change) => {
  await sh(before);
  const { heard } = await listenTo("pod");
  await delay(quietMs);
  expect(heard.times).toBe(0);
  await sh(change);
  await waitFor("it to be heard", () => heard.times === 1, { timeoutMs: 1_000, intervalMs: 1 });
});

test("of a host sets of nf_tables are heard, and devices and routes are not", async () => {
  await sh("nft add table ip t && nft add set ip t s '{ type ipv4_addr; elements = { 1.2.3.4 }; }'");
  const { heard } = await listenTo("host");
  await sh("ip link add d0 type veth peer name d1 && ip link set d0 up && ip route add 10.9.0.0/24 dev d0");
  await delay(quietMs);
  expect(heard.times).toBe(0);
  await sh("nft delete element ip t s '{ 1.2.3.4 }'");
  await waitFor("it to be heard", () => heard.times === 1, { timeoutMs: 1_000, intervalMs: 1 });
});

test("sets of ipset and rules of iptables-legacy are announced by no kernel, which is why they are looked at by the clock", async () => {
  const { heard } = await listenTo("host");
  await sh("ipset create s hash:ip && ipset add s 1.2.3.4 && ipset destroy s");
  await sh("iptables-legacy -t nat -N X && iptables-legacy -t nat -A X -j RETURN");
  await delay(quietMs);
  expect(heard.times).toBe(0);
});

test("a flood is one call, and after it the next change is heard as before", async () => {
  const { heard, listen } = await listenTo("pod");
  const lines = Array.from({ length: 5_000 }, (_, i) => `rule add fwmark ${i + 1} lookup 100 pref ${i + 1}`);
  await held.feed(lines.join("\n"), "ip", "-batch", "-");
  await waitFor("it to be heard", () => heard.times > 0);
  await delay(quietMs);
  expect(heard.times).toBe(1);
  const dropped = dropsOf(await held.run("cat", "/proc/net/netlink"));
  // more was announced than is kept, and that is no error
  expect(dropped).toBeGreaterThan(4_000);
  listen();
  await delay(quietMs);
  expect(heard.times).toBe(1);
  await sh("ip rule del pref 5");
  await waitFor("it to be heard", () => heard.times === 2, { timeoutMs: 1_000, intervalMs: 1 });
});

test("while nobody listens again what goes on takes no processor time of ours", async () => {
  const { heard } = await listenTo("pod");
  const lines = Array.from({ length: 1_000 }, (_, i) => `rule add fwmark ${i + 1} lookup 100 pref ${i + 1}`);
  await sh("ip rule add fwmark 1 lookup 100");
  await waitFor("it to be heard", () => heard.times === 1);
  await held.feed(lines.join("\n"), "ip", "-batch", "-");
  const before = process.cpuUsage();
  await delay(1_000);
  const { user, system } = process.cpuUsage(before);
  expect((user + system) / 1_000).toBeLessThan(100);
  expect(heard.times).toBe(1);
});

test("the namespace ends with its last process once the handle is closed, and not before", async () => {
  const { notices } = await listenTo("pod");
  expect(readdirSync("/proc/self/fd").length).toBe(fdsBefore + 1 + NOTICE_FDS);
  // its other end shows when a namespace is taken down
  const name = `n${process.pid}`;
  const peer = await holdNetns();
  try {
    await peer.run(
      "ip",
      "link",
      "add",
      name,
      "type",
      "veth",
      "peer",
      "name",
      "p0",
      "netns",
      String(held.pid),
    );
    await held[Symbol.asyncDispose]();
    const isThere = async () => (await peer.run("ip", "-o", "link")).includes(name);
    await delay(quietMs);
    expect(await isThere()).toBe(true);
    netns.close();
    expect(notices.isClosed).toBe(true);
    await waitFor("the namespace to end", async () => !(await isThere()), { timeoutMs: 10_000 });
  } finally {
    await peer[Symbol.asyncDispose]();
  }
});

test("a handle that is closed while ears are opened has none, and one that is closed refuses nothing", async () => {
  const opening = NetnsNotices.open(netns, "pod");
  netns.close();
  expect(await opening).toBeUndefined();
  expect(await NetnsNotices.open(netns, "pod")).toBeUndefined();
});

test("what is closed neither hears nor fails", async () => {
  const { notices, heard, listen } = await listenTo("pod");
  notices.close();
  notices.close();
  await sh("ip rule add fwmark 7 lookup 100");
  listen();
  await delay(quietMs);
  expect(heard.times).toBe(0);
});

test("a namespace that cannot be entered is refused with the call that failed", async () => {
  const other = { fd: 0, closed: false, onclose: () => {} } as unknown as Netns;
  await expect(NetnsNotices.open(other, "pod")).rejects.toMatchObject({ syscall: "setns" });
});

/** What netlink sockets of a namespace have lost. Source: linux net/netlink/af_netlink.c, netlink_native_seq_show */
function dropsOf(table: string): number {
  return table
    .split("\n")
    .slice(1)
    .reduce((sum, line) => sum + Number(line.trim().split(/\s+/)[8] ?? 0), 0);
}

test("what the test reads of lost announcements is what the kernel calls so", () => {
  expect(readFileSync("/proc/net/netlink", "utf8").split("\n")[0]?.trim().split(/\s+/)[8]).toBe("Drops");
});
