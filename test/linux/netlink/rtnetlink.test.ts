// SPDX-License-Identifier: Apache-2.0
// Policy routing and addresses against the kernel, with iproute2 as the oracle.
import { closeSync, openSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { NetlinkError } from "../../../src/linux/netlink/exchange.ts";
import { interfaceAddresses } from "../../../src/linux/netlink/interface-addresses.ts";
import {
  ensureRedirectRouting,
  isRoutingComplete,
  lookAtRouting,
  readRedirectRouting,
  removeRedirectRouting,
} from "../../../src/linux/netlink/rtnetlink.ts";
import { type HeldNetns, holdNetns } from "../held-netns.ts";

const RULE = ["rule", "add", "fwmark", "0x111/0xfff", "pref", "32764", "lookup", "100"] as const;
const ALL = { supported: true, rule: true, route: true };
const NONE = { supported: true, rule: false, route: false };
const OFF = { supported: false, rule: false, route: false };

let held: HeldNetns;
let fd: number;

beforeEach(async () => {
  held = await holdNetns();
  fd = openSync(held.path, "r");
});

afterEach(async () => {
  closeSync(fd);
  await held[Symbol.asyncDispose]();
});

async function show(target: HeldNetns = held): Promise<string> {
  const parts = [];
  for (const family of ["-4", "-6"]) {
    parts.push(await target.run("ip", "-details", family, "rule", "show"));
    parts.push(await target.run("ip", "-details", family, "route", "show", "table", "all"));
  }
  // What differs between two namespaces in any case: hop limits and times are not shown, table order is the kernel's.
  return parts.join("\n");
}

async function addWithIproute2(target: HeldNetns): Promise<void> {
  await target.run("ip", ...RULE);
  await target.run("ip", "route", "replace", "local", "0.0.0.0/0", "dev", "lo", "table", "100");
  await target.run("ip", "-6", ...RULE);
  await target.run("ip", "-6", "route", "replace", "local", "::/0", "dev", "lo", "table", "100");
}

describe("ensureRedirectRouting", () => {
  test("makes, to the letter, what iproute2 makes", async () => {
    await using oracle = await holdNetns();
    await addWithIproute2(oracle);
    expect(await ensureRedirectRouting(fd, { v6: true })).toEqual({ v4: ALL, v6: ALL, changed: true });
    expect(await show()).toBe(await show(oracle));
    expect(await held.run("ip", "rule", "show")).toContain(
      "32764:\tfrom all fwmark 0x111/0xfff lookup 100\n",
    );
    expect(await held.run("ip", "route", "show", "table", "100")).toBe("local default dev lo scope host \n");
  });

  test("what was seen before spares a look, and is looked at again where it was not true", async () => {
    const nothing = await lookAtRouting(fd, { v6: true });
    expect(nothing).toEqual({ state: { v4: NONE, v6: NONE }, loUp: true });
    await addWithIproute2(held);
    const before = await show();
    const report = await ensureRedirectRouting(fd, { v6: true }, { found: nothing });
    expect(report).toMatchObject({ v4: ALL, v6: ALL });
    expect(await show()).toBe(before);
    const found = { ...nothing, loUp: false };
    await expect(ensureRedirectRouting(fd, { v6: true }, { found })).rejects.toMatchObject({
      code: "ENETDOWN",
    });
  });

  test("changes nothing when iproute2 has made it, nor the second time", async () => {
    await addWithIproute2(held);
    const before = await show();
    expect(await ensureRedirectRouting(fd, { v6: true })).toEqual({ v4: ALL, v6: ALL, changed: false });
    expect(await ensureRedirectRouting(fd, { v6: true })).toEqual({ v4: ALL, v6: ALL, changed: false });
    expect(await show()).toBe(before);
  });

  test("leaves IPv6 alone when only IPv4 is asked for", async () => {
    const six = await held.run("ip", "-6", "rule");
    expect(await ensureRedirectRouting(fd, { v6: false })).toEqual({ v4: ALL, v6: OFF, changed: true });
    expect(await held.run("ip", "-6", "rule")).toBe(six);
    expect(await readRedirectRouting(fd, { v6: true })).toEqual({ v4: ALL, v6: NONE });
  });

  test.each([
    { what: "the v4 rule", undo: ["-4", "rule", "del", "pref", "32764"] },
    { what: "the v6 rule", undo: ["-6", "rule", "del", "pref", "32764"] },
    { what: "the v4 route", undo: ["-4", "route", "flush", "table", "100"] },
    { what: "the v6 route", undo: ["-6", "route", "flush", "table", "100"] },
  ])("adds $what when just that is missing", async ({ undo }) => {
    await ensureRedirectRouting(fd, { v6: true });
    const before = await show();
    await held.run("ip", ...undo);
    expect(isRoutingComplete(await readRedirectRouting(fd, { v6: true }))).toBe(false);
    expect(await ensureRedirectRouting(fd, { v6: true })).toEqual({ v4: ALL, v6: ALL, changed: true });
    expect(await show()).toBe(before);
  });

  test("makes one rule and one route when twenty ask at once", async () => {
    const all = await Promise.all(Array.from({ length: 20 }, () => ensureRedirectRouting(fd, { v6: true })));
    for (const { v4, v6 } of all) expect([v4, v6]).toEqual([ALL, ALL]);
    expect((await held.run("ip", "rule")).match(/lookup 100/g)).toHaveLength(1);
    expect((await held.run("ip", "route", "show", "table", "100")).trim().split("\n")).toHaveLength(1);
  });

  test.each(["lo", "all"])(
    "skips IPv6 and says so when net.ipv6.conf.%s.disable_ipv6 is 1",
    async (device) => {
      await held.run("sysctl", "-qw", `net.ipv6.conf.${device}.disable_ipv6=1`);
      const six = await held.run("ip", "-6", "rule");
      expect(await ensureRedirectRouting(fd, { v6: true })).toEqual({ v4: ALL, v6: OFF, changed: true });
      expect(await held.run("ip", "-6", "rule")).toBe(six);
      expect(await ensureRedirectRouting(fd, { v6: true })).toEqual({ v4: ALL, v6: OFF, changed: false });
      await held.run(
        "sysctl",
        "-qw",
        `net.ipv6.conf.${device}.disable_ipv6=0`,
        "net.ipv6.conf.lo.disable_ipv6=0",
      );
      expect(await ensureRedirectRouting(fd, { v6: true })).toEqual({ v4: ALL, v6: ALL, changed: true });
    },
  );

  test("replaces a route of another kind for the same destination", async () => {
    await held.run("ip", "route", "add", "unreachable", "default", "table", "100");
    expect((await readRedirectRouting(fd, { v6: false })).v4.route).toBe(false);
    await ensureRedirectRouting(fd, { v6: false });
    expect(await held.run("ip", "route", "show", "table", "100")).toBe("local default dev lo scope host \n");
  });

  test("names the loopback device and writes nothing when that is down", async () => {
    await using down = await holdNetns({ up: false });
    const downFd = openSync(down.path, "r");
    const before = await show(down);
    const failing = ensureRedirectRouting(downFd, { v6: true });
    await expect(failing).rejects.toBeInstanceOf(NetlinkError);
    await expect(failing).rejects.toMatchObject({ code: "ENETDOWN" });
    await expect(failing).rejects.toThrow('the loopback device "lo" is down');
    expect(await show(down)).toBe(before);
    closeSync(downFd);
  });
});

describe("readRedirectRouting", () => {
  test("finds nothing in a new namespace and writes nothing", async () => {
    const before = await show();
    expect(await readRedirectRouting(fd, { v6: true })).toEqual({ v4: NONE, v6: NONE });
    expect(await show()).toBe(before);
  });

  test("finds what iproute2 has made", async () => {
    await addWithIproute2(held);
    expect(await readRedirectRouting(fd, { v6: true })).toEqual({ v4: ALL, v6: ALL });
  });

  test.each([
    { what: "another mark", rule: "fwmark 0x112/0xfff pref 32764 lookup 100" },
    { what: "another mask", rule: "fwmark 0x111/0xffff pref 32764 lookup 100" },
    { what: "no mask", rule: "fwmark 0x111 pref 32764 lookup 100" },
    { what: "no mark", rule: "pref 32764 lookup 100" },
    { what: "another priority", rule: "fwmark 0x111/0xfff pref 32763 lookup 100" },
    { what: "another table", rule: "fwmark 0x111/0xfff pref 32764 lookup 101" },
    { what: "a large table", rule: "fwmark 0x111/0xfff pref 32764 lookup 356" },
    { what: "a source", rule: "from 10.0.0.0/8 fwmark 0x111/0xfff pref 32764 lookup 100" },
    { what: "a destination", rule: "to 10.0.0.0/8 fwmark 0x111/0xfff pref 32764 lookup 100" },
    { what: "a TOS", rule: "fwmark 0x111/0xfff tos 0x10 pref 32764 lookup 100" },
    { what: "an input device", rule: "fwmark 0x111/0xfff iif eth0 pref 32764 lookup 100" },
    { what: "an output device", rule: "fwmark 0x111/0xfff oif eth0 pref 32764 lookup 100" },
    { what: "a protocol", rule: "fwmark 0x111/0xfff ipproto tcp pref 32764 lookup 100" },
    { what: "a port", rule: "fwmark 0x111/0xfff ipproto tcp dport 80 pref 32764 lookup 100" },
    { what: "a user", rule: "fwmark 0x111/0xfff uidrange 0-0 pref 32764 lookup 100" },
    { what: "an inversion", rule: "not fwmark 0x111/0xfff pref 32764 lookup 100" },
    { what: "a suppressed prefix", rule: "fwmark 0x111/0xfff pref 32764 lookup 100 suppress_prefixlength 0" },
    { what: "another action", rule: "fwmark 0x111/0xfff pref 32764 unreachable" },
  ])("does not take a rule with $what for ours", async ({ rule }) => {
    await held.run("ip", "rule", "add", ...rule.split(" "));
    expect((await readRedirectRouting(fd, { v6: false })).v4.rule).toBe(false);
    // Some of these the kernel takes for ours when it is asked to add ours.
    expect((await ensureRedirectRouting(fd, { v6: false })).v4).toEqual(ALL);
    expect((await readRedirectRouting(fd, { v6: false })).v4).toEqual(ALL);
  });

  test.each([
    { what: "another table", route: "local default dev lo table 101" },
    { what: "a large table", route: "local default dev lo table 356" },
    { what: "another type", route: "unicast default dev lo table 100" },
    { what: "another destination", route: "local 10.0.0.0/8 dev lo table 100" },
    { what: "half of all destinations", route: "local 0.0.0.0/1 dev lo table 100" },
    { what: "another device", route: "local default dev other table 100" },
    { what: "a TOS", route: "local default tos 0x10 dev lo table 100" },
  ])("does not take a route with $what for ours", async ({ route }) => {
    await held.run("ip", "link", "add", "other", "up", "type", "veth", "peer", "name", "end");
    await held.run("ip", "route", "add", ...route.split(" "));
    expect((await readRedirectRouting(fd, { v6: false })).v4.route).toBe(false);
  });

  test("finds ours among hundreds of others", async () => {
    const rules = Array.from(
      { length: 300 },
      (_, i) => `rule add fwmark ${i + 1} pref ${i + 100} lookup ${i + 200}`,
    );
    await held.feed(rules.join("\n"), "ip", "-batch", "-");
    expect(await ensureRedirectRouting(fd, { v6: true })).toMatchObject({ changed: true });
    expect(await readRedirectRouting(fd, { v6: true })).toEqual({ v4: ALL, v6: ALL });
  });
});

test("routing that is longer than is read is an error, and is removed all the same", async () => {
  await addWithIproute2(held);
  const routes =
    'seq 0 89999 | awk \'{print "route add local 11." int($1/65536) "." int($1/256)%256 "." $1%256 "/32 dev lo table 100"}\'';
  await held.run("sh", "-c", `${routes} | ip -batch -`);
  await expect(readRedirectRouting(fd, { v6: true })).rejects.toMatchObject({
    name: "NetlinkError",
    code: "EMSGSIZE",
  });
  await removeRedirectRouting(fd);
  expect(await held.run("ip", "rule", "show")).not.toContain("fwmark");
});

describe("removeRedirectRouting", () => {
  test("leaves a namespace as it was before", async () => {
    const before = await show();
    await ensureRedirectRouting(fd, { v6: true });
    expect(await show()).not.toBe(before);
    await removeRedirectRouting(fd);
    expect(await show()).toBe(before);
  });

  test("succeeds when there is nothing, and a second time", async () => {
    await removeRedirectRouting(fd);
    await removeRedirectRouting(fd);
    expect(await readRedirectRouting(fd, { v6: true })).toEqual({ v4: NONE, v6: NONE });
  });

  test("removes what iproute2 has made, duplicates and other metrics too, and nothing else", async () => {
    await held.run("ip", "rule", "add", "fwmark", "0x999", "pref", "32764", "lookup", "100");
    await held.run("ip", "route", "add", "local", "10.0.0.0/8", "dev", "lo", "table", "100");
    const before = await show();
    await addWithIproute2(held);
    await held.run("ip", "route", "add", "local", "default", "dev", "lo", "table", "100", "metric", "7");
    await held.run(
      "ip",
      "-6",
      "route",
      "add",
      "local",
      "default",
      "dev",
      "lo",
      "table",
      "100",
      "metric",
      "7",
    );
    // iproute2 asks for exclusive creation; only a rule that differs in what is not compared comes in twice.
    await held.run("ip", ...RULE, "proto", "99").catch(() => {});
    await removeRedirectRouting(fd);
    expect(await show()).toBe(before);
  });

  test("removes ours when the kernel would rather delete a narrower one", async () => {
    await held.run("ip", ...RULE, "from", "10.0.0.0/8");
    await ensureRedirectRouting(fd, { v6: false });
    await removeRedirectRouting(fd);
    expect(await held.run("ip", "rule")).not.toContain("from all fwmark");
  });

  test("removes the rule of IPv6 when IPv6 has been switched off since", async () => {
    const before = await held.run("ip", "-6", "rule");
    await ensureRedirectRouting(fd, { v6: true });
    await held.run("sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=1");
    await removeRedirectRouting(fd);
    expect(await held.run("ip", "-6", "rule")).toBe(before);
  });

  test("works when the loopback device is down", async () => {
    await ensureRedirectRouting(fd, { v6: true });
    await held.run("ip", "link", "set", "lo", "down");
    await removeRedirectRouting(fd);
    expect(`${await held.run("ip", "rule")}${await held.run("ip", "-6", "rule")}`).not.toContain(
      "lookup 100",
    );
  });
});

describe("interfaceAddresses", () => {
  test("lists what ip address lists, with the local side of point-to-point interfaces", async () => {
    await held.run("ip", "link", "add", "eth0", "index", "7", "up", "type", "veth", "peer", "name", "end");
    await held.run("ip", "addr", "add", "10.244.1.7/24", "dev", "eth0");
    await held.run("ip", "addr", "add", "10.9.0.1", "peer", "10.9.0.2/32", "dev", "eth0");
    await held.run("ip", "addr", "add", "fd00:10:244::7/64", "dev", "eth0", "nodad");
    await held.run("ip", "addr", "add", "fd01::1", "peer", "fd01::2/128", "dev", "eth0", "nodad");
    const found = await interfaceAddresses(fd);
    const json = JSON.parse(await held.run("ip", "-json", "addr"));
    const expected = json.flatMap(
      (link: { ifindex: number; addr_info: { family: string; local: string; prefixlen: number }[] }) =>
        link.addr_info.map((info) => ({
          ifindex: link.ifindex,
          family: info.family === "inet" ? 4 : 6,
          address: info.local,
          prefixLength: info.prefixlen,
        })),
    );
    const sorted = (list: { address: string }[]) => list.toSorted((a, b) => (a.address < b.address ? -1 : 1));
    expect(sorted(found)).toEqual(sorted(expected));
    expect(found).toContainEqual({ ifindex: 7, family: 4, address: "10.244.1.7", prefixLength: 24 });
    expect(found).toContainEqual({ ifindex: 7, family: 4, address: "10.9.0.1", prefixLength: 32 });
    expect(found).toContainEqual({ ifindex: 7, family: 6, address: "fd01::1", prefixLength: 128 });
  });

  test("lists those alone that are asked for, however they are written", async () => {
    await held.run("ip", "addr", "add", "10.244.1.7/32", "dev", "lo");
    await held.run("ip", "addr", "add", "10.244.1.8/32", "dev", "lo");
    await held.run("ip", "addr", "add", "fd00:10:244::7/128", "dev", "lo", "nodad");
    const addresses = async (...only: string[]) =>
      (await interfaceAddresses(fd, only)).map(({ address }) => address);
    expect(await addresses("10.244.1.7")).toEqual(["10.244.1.7"]);
    expect(await addresses("FD00:10:244:0:0::7", "10.244.1.8")).toEqual(["10.244.1.8", "fd00:10:244::7"]);
    expect(await addresses("10.244.1.9", "", "fe80::1%lo", "no address")).toEqual([]);
    expect(await addresses()).toEqual([]);
  });

  test("lists nothing when the loopback device is down", async () => {
    await using down = await holdNetns({ up: false });
    const downFd = openSync(down.path, "r");
    expect(await interfaceAddresses(downFd)).toEqual([]);
    closeSync(downFd);
  });
});
