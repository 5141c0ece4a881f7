// SPDX-License-Identifier: Apache-2.0
// Chains asked for by name in namespaces of the test's own, in both variants.
import { execFileSync } from "node:child_process";
import { constants } from "node:os";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { isTouched } from "../../src/check/signs.ts";
import { NativeError } from "../../src/linux/native.ts";
import { NetlinkError } from "../../src/linux/netlink/exchange.ts";
import { Netns } from "../../src/linux/netns.ts";
import { findChains, findLegacyChains } from "../../src/netfilter/find-chains.ts";
import { isWithoutNft } from "../../src/netfilter/nft/nft-answers.ts";
import { type HeldNetns, holdNetns } from "../linux/held-netns.ts";

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

const inside = (line: string): void =>
  void execFileSync("nsenter", [`--net=${held.path}`, ...line.split(" ")], {
    stdio: "pipe",
    // not the machine's lock
    env: { ...process.env, XTABLES_LOCKFILE: held.path },
  });
const places = ([4, 6] as const).flatMap((family) =>
  ["nat", "filter"].map((table) => ({ family, table, chain: "ISTIO_OUTPUT" })),
);

describe("in nf_tables", () => {
  test("none is found where there is nothing", async () => {
    expect(await findChains(netns.fd, places)).toEqual([]);
  });

  test("those that are there are found, by family, table and name", async () => {
    inside("iptables-nft -t nat -N ISTIO_OUTPUT");
    inside("iptables-nft -t nat -N ISTIO_OTHER");
    inside("ip6tables-nft -t filter -N ISTIO_OUTPUT");
    expect(await findChains(netns.fd, places)).toEqual([places[0], places[3]]);
  });
});

describe("in x_tables", () => {
  test("those that are there are found, and no table is made by looking", async () => {
    expect(await findLegacyChains(netns.fd, places)).toEqual([]);
    inside("iptables-legacy -t nat -N ISTIO_OUTPUT");
    expect(await findLegacyChains(netns.fd, places)).toEqual([places[0]]);
    const tables = execFileSync("nsenter", [`--net=${held.path}`, "cat", "/proc/self/net/ip_tables_names"], {
      encoding: "utf8",
    });
    expect(tables.trim()).toBe("nat");
  });
});

describe("a namespace is touched", () => {
  test.each([
    ["by nothing", "true", false],
    ["by our ip rule", "ip rule add fwmark 0x111/0xfff pref 32764 lookup 100", true],
    ["by another ip rule", "ip rule add fwmark 0x1/0xfff pref 32764 lookup 100", false],
    ["by a chain that only we have", "ip6tables-nft -t mangle -N ISTIO_PRERT", true],
    ["by ISTIO_OUTPUT of mangle", "iptables-nft -t mangle -N ISTIO_OUTPUT", true],
    ["but not by a sidecar's ISTIO_OUTPUT", "iptables-nft -t nat -N ISTIO_OUTPUT", false],
    ["by istio-cni's own table", "nft add table inet istio-ambient-nat", true],
    ["but not by another one", "nft add table inet istio", false],
    ["by a chain of x_tables", "iptables-legacy -t mangle -N ISTIO_PRERT", true],
  ])("%s", async (_what, line, touched) => {
    inside(line);
    expect(await isTouched(netns)).toBe(touched);
  });
});

test.each([
  [new NativeError("talk", -constants.errno.EPROTONOSUPPORT, "socket"), true],
  [new NativeError("talk", -constants.errno.EPERM, "setns"), false],
  [new NetlinkError("look for rules", "EINVAL", "no such subsystem"), true],
  [new NetlinkError("look for rules", "EPERM", "not allowed"), false],
  [new Error("EINVAL"), false],
])("%s says whether the kernel has nf_tables at all", (error, isWithout) => {
  expect(isWithoutNft(error)).toBe(isWithout);
});
