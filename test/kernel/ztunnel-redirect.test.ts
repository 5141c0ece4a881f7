// SPDX-License-Identifier: Apache-2.0
// The rules of src/redirection and the sockets of the stand-in together: traffic between pods takes the way it should, and
// every piece of the redirection is needed for it. Root; namespaces of its own.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { Netns } from "../../src/linux/netns.ts";
import { chooseBackend } from "../../src/netfilter/variant.ts";
import { PodRedirection } from "../../src/redirection/pod-redirection.ts";
import type { RedirectOptions } from "../../src/redirection/rules.ts";
import { nativePodRules } from "../support/node/istio-native.ts";
import { appPort, EchoPods, echo } from "../support/ztunnel/echo-pods.ts";
import { addresses, type Place, type PodNetwork, readAll } from "../support/ztunnel/pod-network.ts";

type Variant = "nft" | "legacy" | "native";
const families = [4, 6] as const;
const redirected: RedirectOptions = {
  dnsCapture: true,
  ingressMode: false,
  virtualInterfaces: [],
  probeSnatV4: "169.254.7.127",
  probeSnatV6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff",
};

let folder: string;
let host: Netns;
let echoPods: EchoPods;
let network: PodNetwork;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ztunnel-redirect-"));
  host = Netns.open("/proc/self/ns/net");
});

afterAll(() => {
  host.close();
  rmSync(folder, { recursive: true, force: true });
});

beforeEach(async () => {
  echoPods = await EchoPods.start();
  ({ network } = echoPods);
});

afterEach(async () => {
  await echoPods[Symbol.asyncDispose]();
});

const ask = (from: Place, family: 4 | 6) => echoPods.ask(from, family);
const way = () => echoPods.way();

async function redirection(variant: Variant = "nft"): Promise<PodRedirection> {
  const backend = await chooseBackend({ variant, runDir: folder, hostProcess: "/proc/self" });
  return new PodRedirection({ backend, hostNetns: new Set([host.key]), ipv6: true });
}

async function redirectBoth(variant?: Variant): Promise<PodRedirection> {
  const pods = await redirection(variant);
  for (const place of ["a", "b"] as const) {
    expect((await pods.apply(network.netns[place], redirected)).skippedFamilies).toEqual([]);
  }
  return pods;
}

describe.each(["nft", "legacy", "native"] as const)("rules of the %s variant", (variant) => {
  test("take traffic through the ztunnel with the client's address kept, and let go of it when removed", async () => {
    const pods = await redirectBoth(variant);
    for (const family of families) expect(await ask("a", family)).toBe(addresses.a[family]);
    expect(await way()).toBe("a15001=2 b15008=2");
    for (const family of families) expect(await ask("node", family)).toBe(addresses.node[family]);
    expect(await way()).toBe("a15001=2 b15006=2 b15008=2");
    for (const place of ["a", "b"] as const) await pods.remove(network.netns[place]);
    for (const from of ["a", "node"] as const) {
      for (const family of families) expect(await ask(from, family)).toBe(addresses[from][family]);
    }
    expect(await way()).toBe("a15001=2 b15006=2 b15008=2");
  });
});

test("pods of an istio-cni with NATIVE_NFTABLES are taken over without a way past ztunnel, and let go", async () => {
  const pods = await redirectBoth();
  for (const place of ["a", "b"] as const) {
    await pods.remove(network.netns[place]);
    // the ip rule and the routes are the same
    await pods.apply(network.netns[place], redirected);
    await network.exec(place, ["nft", "flush", "ruleset"]);
    await network.exec(place, ["nft", "-f", "-"], nativePodRules);
  }
  for (const family of families) expect(await ask("a", family)).toBe(addresses.a[family]);
  expect(await way()).toBe("a15001=2 b15008=2");
  const open = await network.dial("a", { address: addresses.b[4], port: appPort });
  const answer = readAll(open);
  open.write("before ");
  await expect.poll(way).toBe("a15001=3 b15008=3");
  const fresh = await redirection();
  await fresh.apply(network.netns.a, redirected);
  for (const family of families) expect(await ask("a", family)).toBe(addresses.a[family]);
  await fresh.apply(network.netns.b, redirected);
  for (const family of families) expect(await ask("a", family)).toBe(addresses.a[family]);
  expect(await way()).toBe("a15001=7 b15008=7");
  open.end("after");
  expect((await answer).toString()).toBe(`${addresses.a[4]}\nbefore after`);
  for (const place of ["a", "b"] as const) await fresh.remove(network.netns[place]);
  for (const family of families) expect(await ask("a", family)).toBe(addresses.a[family]);
  expect(await way()).toBe("a15001=7 b15008=7");
});

test.each([
  ["nft", "native"],
  ["native", "nft"],
  ["legacy", "native"],
  ["native", "legacy"],
] as const)("from %s to %s no connection is lost or passes ztunnel", async (from, to) => {
  await redirectBoth(from);
  const open = await network.dial("a", { address: addresses.b[4], port: appPort });
  const answer = readAll(open);
  open.write("before ");
  await expect.poll(way).toBe("a15001=1 b15008=1");
  const fresh = await redirection(to);
  let asked = 1;
  let isDone = false;
  const changes = (async () => {
    for (const place of ["a", "b"] as const) {
      const { leftoverFault, repaired } = await fresh.apply(network.netns[place], redirected);
      expect(leftoverFault).toBeUndefined();
      expect(repaired.some(({ kind }) => kind === "unexpected-table")).toBe(true);
    }
  })().finally(() => {
    isDone = true;
  });
  do {
    const family = asked % 2 === 0 ? 4 : 6;
    expect(await ask("a", family)).toBe(addresses.a[family]);
    asked++;
  } while (!isDone || asked < 5);
  await changes;
  open.end("after");
  expect((await answer).toString()).toBe(`${addresses.a[4]}\nbefore after`);
  expect(await way()).toBe(`a15001=${asked} b15008=${asked}`);
  for (const place of ["a", "b"] as const)
    expect(await fresh.apply(network.netns[place], redirected)).toMatchObject({ changed: false, writes: 0 });
});

describe("each piece is needed", () => {
  test.each([
    ["the route of table 100", ["ip", "route", "del", "local", "default", "dev", "lo", "table", "100"]],
    ["the ip rule", ["ip", "rule", "del", "pref", "32764"]],
    ["CONNMARK in mangle ISTIO_PRERT", ["iptables", "-t", "mangle", "-F", "ISTIO_PRERT"]],
    ["CONNMARK in mangle ISTIO_OUTPUT", ["iptables", "-t", "mangle", "-F", "ISTIO_OUTPUT"]],
  ])(
    "without %s inbound traffic gets no answer over IPv4, and still does over IPv6",
    async (_name, command) => {
      await redirectBoth();
      await network.exec("b", command);
      const socket = await network.dial("node", { address: addresses.b[4], port: appPort });
      const answered = new Promise((resolve) => {
        socket.once("data", () => resolve("answered"));
        setTimeout(() => resolve("silent"), 700);
      });
      expect(await answered).toBe("silent");
      expect(await ask("node", 6)).toBe(addresses.node[6]);
    },
  );

  test("without the redirect in nat ISTIO_PRERT plaintext goes straight to the app", async () => {
    await redirectBoth();
    await network.exec("b", ["iptables", "-t", "nat", "-F", "ISTIO_PRERT"]);
    expect(await ask("node", 4)).toBe(addresses.node[4]);
    expect(await way()).toBe("");
  });
});

test("in ingress mode inbound traffic goes straight to the app, outbound traffic does not", async () => {
  const pods = await redirection();
  await pods.apply(network.netns.b, { ...redirected, ingressMode: true });
  await network.listen("node", appPort, echo);
  for (const family of families) expect(await ask("node", family)).toBe(addresses.node[family]);
  expect(await way()).toBe("");
  const out = await network.dial("b", { address: addresses.node[4], port: appPort });
  out.end();
  expect((await readAll(out)).toString()).toBe(`${addresses.b[4]}\n`);
  expect(await way()).toBe("b15001=1");
});

test.each([
  ["captured", true, 1],
  ["left alone", false, 0],
])("DNS over TCP is %s", async (_name, dnsCapture, queries) => {
  const pods = await redirection();
  await pods.apply(network.netns.a, { ...redirected, dnsCapture });
  await network.listen("node", 53, (client) => client.end("the real resolver"));
  const socket = await network.dial("a", { address: addresses.node[4], port: 53 });
  socket.end(Buffer.from("001aabcd01000001000000000000037765620473686f700000010001", "hex"));
  const answer = await readAll(socket);
  if (dnsCapture) expect(answer.subarray(-4)).toEqual(Buffer.from([10, 77, 0, 3]));
  else expect(answer.toString()).toBe("the real resolver");
  expect((await echoPods.ztunnel.stats()).workloads.a?.dnsQueries).toBe(queries);
  expect(await way()).toBe(dnsCapture ? "" : "a15001=1");
});

test("traffic of a pod to itself and to its loopback is not captured", async () => {
  await redirectBoth();
  for (const family of families) expect(await ask("b", family)).toBe(addresses.b[family]);
  const local = await network.dial("b", { address: "127.0.0.1", port: appPort });
  local.end();
  expect((await readAll(local)).toString()).toBe("127.0.0.1\n");
  expect(await way()).toBe("");
});
