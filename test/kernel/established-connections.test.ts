// SPDX-License-Identifier: Apache-2.0
// Connections from before the capture: that they live on, that they are counted, and that both ends are told when they are to end.
// The rules of src/redirection and the sockets of the stand-in, between pods in namespaces of their own. Root.
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { Netns } from "../../src/linux/netns.ts";
import { chooseBackend } from "../../src/netfilter/variant.ts";
import { countEarlier, countThroughZtunnel, resetEarlier } from "../../src/redirection/pod-connections.ts";
import { PodRedirection } from "../../src/redirection/pod-redirection.ts";
import { DEFAULT_OPTIONS as KEEP, VARIANTS } from "../redirection/variants.ts";
import { addresses, PodNetwork } from "../support/ztunnel/pod-network.ts";
import type { StandIn } from "../support/ztunnel/stand-in.ts";
import { podEntry, ZdsHarness } from "../support/ztunnel/zds-harness.ts";
import { APP_PORT, expectAlive, fateOf, OpenStreams, StreamEnd } from "./open-streams.ts";

const RESET = VARIANTS["reset-default"]!;
const NONE = { count: 0, isCapped: false };

let folder: string;
let host: Netns;
let network: PodNetwork;
let harness: ZdsHarness;
let ztunnel: StandIn;
let streams: OpenStreams;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "established-"));
  host = Netns.open("/proc/self/ns/net");
});

afterAll(() => {
  host.close();
  rmSync(folder, { recursive: true, force: true });
});

beforeEach(async () => {
  network = await PodNetwork.create();
  harness = new ZdsHarness();
  harness.server.listen();
  harness.server.hold(podEntry("a", network.netns.a));
  ztunnel = await harness.standIn({ depth: "sockets", hbone: true });
  await ztunnel.waitForReady();
  streams = new OpenStreams(network);
  for (const place of ["a", "node"] as const) await streams.listen(place);
});

afterEach(async () => {
  await network[Symbol.asyncDispose]();
  await harness.close();
});

async function redirection(variant: "nft" | "legacy" = "nft"): Promise<PodRedirection> {
  const backend = await chooseBackend({ variant, runDir: folder, hostProcess: "/proc/self" });
  return new PodRedirection({ backend, hostNetns: new Set([host.key]), ipv6: true });
}

/** How many connections ztunnel has taken from pod a. */
async function throughZtunnel(): Promise<number> {
  const { workloads } = await ztunnel.stats();
  return Object.values(workloads.a?.ports ?? {}).reduce((sum, { connections }) => sum + connections, 0);
}

async function flush(variant: "nft" | "legacy"): Promise<void> {
  if (variant === "nft") return void (await network.exec("a", ["nft", "flush", "ruleset"]));
  for (const tool of ["iptables-legacy", "ip6tables-legacy"])
    for (const table of ["nat", "mangle", "raw"]) await network.exec("a", [tool, "-t", table, "-F"]);
}

describe.each(["nft", "legacy"] as const)("with iptables-%s", (variant) => {
  test("open connections live on outside the mesh while new ones go through ztunnel, over repairs and a pause", async () => {
    const pods = await redirection(variant);
    const earlier = await streams.openAll("a", "node", 2);
    expect(await countEarlier(network.netns.a)).toEqual({ count: 8, isCapped: false });
    await pods.apply(network.netns.a, KEEP);
    await expectAlive(earlier, "captured");
    const later = await streams.openAll("a", "node");
    expect(await throughZtunnel()).toBe(4);
    expect(await countEarlier(network.netns.a)).toEqual({ count: 8, isCapped: false });
    expect(await countThroughZtunnel(network.netns.a)).toEqual({
      count: 4,
      closingCount: 0,
      isCapped: false,
    });

    await flush(variant);
    await expectAlive(earlier, "flushed");
    expect((await pods.apply(network.netns.a, KEEP)).changed).toBe(true);
    await expectAlive([...earlier, ...later], "repaired");

    await pods.remove(network.netns.a);
    await expectAlive(earlier, "outside");
    await pods.apply(network.netns.a, KEEP);
    await expectAlive(earlier, "captured-again");
    expect(await throughZtunnel()).toBe(4);
  });

  test("hundreds of open connections live on", async () => {
    const earlier = await streams.openAll("a", "node", 75);
    await (await redirection(variant)).apply(network.netns.a, KEEP);
    await expectAlive(earlier, "captured");
    expect(await countEarlier(network.netns.a)).toEqual({ count: 300, isCapped: false });
    expect(await throughZtunnel()).toBe(0);
  });

  test("with istio's own rules none does, and nobody tells one of the ends", async () => {
    const earlier = await streams.openAll("a", "node");
    await (await redirection(variant)).apply(network.netns.a, RESET);
    for (const { client, server } of earlier) {
      server.socket.write("an answer");
      expect(await fateOf(server)).toBe("ECONNRESET");
      expect(await fateOf(client, 100)).toBe("open");
    }
  });

  test("both ends of an open connection hear of its end at once when it is to end", async () => {
    const pods = await redirection(variant);
    const earlier = await streams.openAll("a", "node", 2);
    await pods.apply(network.netns.a, KEEP);
    const others = [...(await streams.openAll("a", "node")), await streams.open("a", "a", 4)];
    expect(await resetEarlier(network.netns.a)).toEqual({ outcome: "reset", count: 8, isCapped: false });
    for (const { name, client, server } of earlier) {
      const [inPod, peer] = name.startsWith("a-") ? [client, server] : [server, client];
      expect([await fateOf(inPod, 500), await fateOf(peer, 500)]).toEqual(["ECONNABORTED", "ECONNRESET"]);
    }
    expect(await countEarlier(network.netns.a)).toEqual(NONE);
    await pods.apply(network.netns.a, RESET);
    await expectAlive(others, "later");
    expect(await resetEarlier(network.netns.a)).toEqual({ outcome: "reset", ...NONE });
    await expectAlive([...others, ...(await streams.openAll("a", "node"))], "last");
  });
});

test("a connection that was about to be opened past ztunnel is ended, and the next attempt goes through it", async () => {
  await network.exec("node", [
    "iptables",
    "-A",
    "INPUT",
    "-p",
    "tcp",
    "--dport",
    `${APP_PORT}`,
    "-j",
    "DROP",
  ]);
  const target = { address: addresses.node[4], port: APP_PORT };
  const opening = network.dial("a", target).then(
    () => "connected",
    (error: NodeJS.ErrnoException) => error.code,
  );
  await expect
    .poll(async () => (await network.exec("a", ["ss", "-Htn", "state", "syn-sent"])).trim())
    .not.toBe("");
  await (await redirection()).apply(network.netns.a, KEEP);
  expect(await countEarlier(network.netns.a)).toEqual(NONE);
  expect(await resetEarlier(network.netns.a)).toEqual({ outcome: "reset", count: 1, isCapped: false });
  expect(await opening).toBe("ECONNABORTED");
  await network.dial("a", target);
  expect(await throughZtunnel()).toBe(1);
});

test("connections inside the pod and idle HBONE connections are not counted, half closed ones are", async () => {
  await (await redirection()).apply(network.netns.a, KEEP);
  for (const family of [4, 6] as const) await streams.open("a", "a", family);
  const local = await network.dial("a", { address: "127.0.0.1", port: APP_PORT });
  const pooled = await network.dial("node", { address: addresses.a[4], port: 15008 });
  await expect.poll(async () => (await ztunnel.stats()).workloads.a?.hbone.inbound).toBe(1);
  expect(await countEarlier(network.netns.a)).toEqual(NONE);
  expect(await countThroughZtunnel(network.netns.a)).toEqual({ ...NONE, closingCount: 0 });

  const carried = await streams.open("a", "node", 4);
  carried.client.socket.end();
  expect(await fateOf(carried.server)).toBe("ended");
  expect(await countThroughZtunnel(network.netns.a)).toMatchObject({ count: 1 });
  carried.server.socket.end();
  expect(await fateOf(carried.client)).toBe("ended");
  await expect.poll(() => countThroughZtunnel(network.netns.a)).toEqual({ ...NONE, closingCount: 0 });
  for (const socket of [local, pooled]) socket.destroy();
});

test("what arrives through HBONE counts once, with the client's address towards the app", async () => {
  harness.server.hold(podEntry("b", network.netns.b));
  await ztunnel.kill();
  ztunnel = await harness.standIn({ depth: "sockets", hbone: true });
  await ztunnel.waitForReady();
  const pods = await redirection();
  for (const place of ["a", "b"] as const) await pods.apply(network.netns[place], KEEP);
  await streams.listen("b");
  const opened = [await streams.open("b", "a", 4), await streams.open("b", "a", 6)];
  for (const place of ["a", "b"] as const) {
    expect(await countThroughZtunnel(network.netns[place])).toEqual({
      count: 2,
      closingCount: 0,
      isCapped: false,
    });
    expect(await countEarlier(network.netns[place])).toEqual(NONE);
  }
  await expectAlive(opened, "carried");
});

test("an end that closes its own side first is reset too", async () => {
  const [out] = await streams.openAll("a", "node");
  out!.client.socket.end("the question");
  expect(await fateOf(out!.server)).toBe("ended");
  await (await redirection()).apply(network.netns.a, KEEP);
  const server = new StreamEnd(out!.server.socket);
  expect((await resetEarlier(network.netns.a)).count).toBe(4);
  server.socket.write("the answer");
  const [error] = await once(server.socket, "error");
  expect((error as NodeJS.ErrnoException).code).toMatch(/ECONNRESET|EPIPE/);
});
