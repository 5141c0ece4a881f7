// SPDX-License-Identifier: Apache-2.0
// A glance at iptables-legacy shows each change of rules, and no packet that was counted.
import { afterEach, beforeEach, expect, test } from "vitest";
import { Netns } from "../../../src/linux/netns.ts";
import { glanceAtXtables } from "../../../src/netfilter/legacy/xtables-glance.ts";
import { type HeldNetns, holdNetns } from "../../linux/held-netns.ts";

let held: HeldNetns;
let netns: Netns;

beforeEach(async () => {
  held = await holdNetns();
  netns = Netns.open(held.path);
});
afterEach(async () => {
  netns.close();
  await held[Symbol.asyncDispose]();
});

const sh = (script: string): Promise<string> => held.run("sh", "-ec", script);

const glance = () => glanceAtXtables(netns);

test("a namespace without tables is glanced at, and gets none by that", async () => {
  expect(await glance()).toBe(await glance());
  expect(await sh("cat /proc/net/ip_tables_names")).toBe("");
});

test.each([
  ["a rule is added", "iptables-legacy -t nat -A OUTPUT -p tcp -j ACCEPT"],
  ["a chain is emptied", "iptables-legacy -t nat -F X"],
  ["rules change places", "iptables-legacy -t nat -D X 1; iptables-legacy -t nat -A X -d 10.0.0.1 -j RETURN"],
  ["a rule becomes another of the same size", "iptables-legacy -t nat -R X 1 -d 10.0.0.3 -j RETURN"],
  ["a policy changes", "iptables-legacy -t mangle -P FORWARD DROP"],
  ["a rule of IPv6 is added", "ip6tables-legacy -t mangle -A OUTPUT -j ACCEPT"],
])("it shows when %s", async (_, change) => {
  const rules = ["-N X", "-A X -d 10.0.0.1 -j RETURN", "-A X -d 10.0.0.2 -j RETURN"];
  for (const rule of rules) await sh(`iptables-legacy -t nat ${rule}`);
  await sh("iptables-legacy -t mangle -L; ip6tables-legacy -t mangle -L");
  const before = await glance();
  expect(before).toBeDefined();
  expect(await glance()).toBe(before);
  await sh(change);
  expect(await glance()).not.toBe(before);
});

test("packets that are counted show nothing", async () => {
  await sh("iptables-legacy -t nat -A OUTPUT -p udp -j ACCEPT; iptables-legacy -t mangle -A OUTPUT -p udp");
  const before = await glance();
  await sh("ip link set lo up; bash -c 'echo x > /dev/udp/127.0.0.1/9'");
  expect(await sh("iptables-legacy -t mangle -S OUTPUT -v")).toMatch(/-p udp -c [1-9]/);
  expect(await glance()).toBe(before);
});

test("of a table that is too large for a glance it says nothing", async () => {
  const lines = Array.from({ length: 1_000 }, (_, i) => `-A OUTPUT -d 10.0.${i >> 8}.${i & 255} -j ACCEPT`);
  await held.feed(["*nat", ...lines, "COMMIT", ""].join("\n"), "iptables-legacy-restore");
  expect(await glance()).toBeUndefined();
});
