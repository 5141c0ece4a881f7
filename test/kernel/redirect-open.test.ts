// SPDX-License-Identifier: Apache-2.0
// The first half of leaving the mesh: new connections go directly while open ones stay translated. Against the real kernel and the
// sockets of the stand-in, in namespaces of their own. Root.
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { isTouched } from "../../src/check/signs.ts";
import { ToolRunner } from "../../src/linux/run-tool.ts";
import { countThroughZtunnel } from "../../src/redirection/pod-connections.ts";
import { installedBackends, ourRules, redirection, saveTool } from "../redirection/installed-backends.ts";
import { TestNetns } from "../redirection/test-netns.ts";
import { DEFAULT_OPTIONS, FAMILIES, VARIANTS } from "../redirection/variants.ts";
import { foreignTable, nativePodRules } from "../support/node/istio-native.ts";
import { PodNetwork } from "../support/ztunnel/pod-network.ts";
import type { StandIn } from "../support/ztunnel/stand-in.ts";
import { podEntry, ZdsHarness } from "../support/ztunnel/zds-harness.ts";
import { expectAlive, fateOf, OpenStreams, type Stream } from "./open-streams.ts";

const runner = new ToolRunner();
const { nft, legacy } = await installedBackends(runner);
const backends = { nft, legacy };

describe("connections", () => {
  let network: PodNetwork;
  let harness: ZdsHarness;
  let ztunnel: StandIn;
  let streams: OpenStreams;

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

  async function throughZtunnel(): Promise<number> {
    const { workloads } = await ztunnel.stats();
    return Object.values(workloads.a?.ports ?? {}).reduce((sum, { connections }) => sum + connections, 0);
  }

  /** The app at one end ends each stream, and ztunnel passes that on. */
  async function endAll(open: readonly Stream[]): Promise<void> {
    for (const { server } of open) server.socket.end();
  }

  async function leave(variant: "nft" | "legacy", open: readonly Stream[]): Promise<void> {
    const pods = redirection(backends[variant]);
    expect(await pods.open(network.netns.a)).toEqual({ changed: true });
    await expectAlive(open, "opened");
    const direct = await streams.openAll("a", "node");
    expect(await throughZtunnel()).toBe(open.length);
    expect(await countThroughZtunnel(network.netns.a)).toMatchObject({ count: open.length });
    await endAll(open);
    for (const { client } of open) expect(await fateOf(client)).toBe("ended");
    for (const { client } of open) client.socket.end();
    const none = { count: 0, closingCount: 0, isCapped: false };
    await expect.poll(() => countThroughZtunnel(network.netns.a)).toEqual(none);
    await harness.server.remove("a");
    expect(await pods.remove(network.netns.a)).toEqual({ changed: true });
    await expectAlive([...direct, ...(await streams.openAll("a", "node"))], "left");
  }

  test.each([
    ["nft", DEFAULT_OPTIONS],
    ["nft", VARIANTS["reset-default"]!],
    ["legacy", DEFAULT_OPTIONS],
  ] as const)(
    "of a pod that leaves (%s) are translated to their end, and new ones are direct",
    async (variant, options) => {
      await redirection(backends[variant]).apply(network.netns.a, options);
      const open = await streams.openAll("a", "node");
      expect(await throughZtunnel()).toBe(4);
      await leave(variant, open);
    },
  );

  test("of a pod that another variant captured, too", async () => {
    await redirection(legacy).apply(network.netns.a, DEFAULT_OPTIONS);
    await leave("nft", await streams.openAll("a", "node"));
  });

  test("of a pod that an istio-cni with NATIVE_NFTABLES captured, too", async () => {
    await redirection(nft).apply(network.netns.a, DEFAULT_OPTIONS);
    await network.exec("a", ["nft", "flush", "ruleset"]);
    await network.exec("a", ["nft", "-f", "-"], nativePodRules + foreignTable);
    await leave("nft", await streams.openAll("a", "node"));
    expect(await network.exec("a", ["nft", "list", "ruleset"])).toBe(foreignTable);
  });

  test("that ztunnel drops itself are told of it", async () => {
    const pods = redirection(nft);
    await pods.apply(network.netns.a, DEFAULT_OPTIONS);
    const open = await streams.openAll("a", "node");
    await pods.open(network.netns.a);
    await harness.server.remove("a");
    for (const { client, server } of open)
      for (const end of [client, server]) expect(await fateOf(end)).toMatch(/^(ended|ECONNRESET)$/);
  });

  test.each(["nft", "legacy"] as const)(
    "hear nothing any more once everything is removed (%s)",
    async (variant) => {
      const pods = redirection(backends[variant]);
      await pods.apply(network.netns.a, DEFAULT_OPTIONS);
      const open = await streams.openAll("a", "node");
      await pods.open(network.netns.a);
      await pods.remove(network.netns.a);
      await endAll(open);
      const fates = await Promise.all(open.map(({ client }) => fateOf(client, 700)));
      expect(fates).toEqual(open.map(() => "open"));
    },
  );
});

describe.each(["nft", "legacy"] as const)("rules of iptables-%s", (variant) => {
  const save = async (pod: TestNetns) => {
    const texts = FAMILIES.map((family) => pod.save(saveTool(family, variant)));
    return (await Promise.all(texts)).join("");
  };

  test("lose what leads into table nat and nothing else, once, and get it back", async () => {
    using pod = await TestNetns.make();
    const pods = redirection(backends[variant]);
    await pods.apply(pod.netns, DEFAULT_OPTIONS);
    for (const tool of ["iptables", "ip6tables"]) {
      await pod.run(`${tool}-${variant} -t nat -A OUTPUT -p tcp --dport 1 -j ACCEPT`);
      await pod.run(`${tool}-${variant} -t nat -A PREROUTING -j ISTIO_PRERT`);
    }
    const before = await save(pod);
    expect(await pods.open(pod.netns)).toEqual({ changed: true });
    const [nat, jumps] = [/^\*nat$[\s\S]*?^COMMIT$/gm, /^-A (PREROUTING|OUTPUT) -j ISTIO.*\n/gm];
    const opened = before.replaceAll(nat, (table) => table.replaceAll(jumps, ""));
    expect(await save(pod)).toBe(opened);
    expect(opened.length).toBeLessThan(before.length);
    const handles = await pod.handles();
    expect(await pods.open(pod.netns)).toEqual({ changed: false });
    expect(await pod.handles()).toBe(handles);
    const { drift } = await pods.verify(pod.netns, DEFAULT_OPTIONS);
    expect(drift.map(({ kind, table }) => `${kind} ${table}`)).toEqual(Array(4).fill("missing-jump nat"));
    const writes = variant === "nft" ? 1 : 2;
    expect(await pods.apply(pod.netns, DEFAULT_OPTIONS)).toMatchObject({ changed: true, writes });
    expect((await pods.verify(pod.netns, DEFAULT_OPTIONS)).intact).toBe(true);
  });

  test("are left as they are where there are none, and no table is made", async () => {
    using pod = await TestNetns.make();
    const handles = await pod.handles();
    expect(await redirection(nft).open(pod.netns)).toEqual({
      changed: false,
    });
    expect(await pod.handles()).toBe(handles);
    expect(readFileSync(join(pod.procNetDir, "ip_tables_names"), "utf8")).toBe("");
  });

  test("are gone after a removal, whether opened before or not", async () => {
    using pod = await TestNetns.make();
    const pods = redirection(backends[variant]);
    await pods.apply(pod.netns, DEFAULT_OPTIONS);
    await pods.open(pod.netns);
    expect(await isTouched(pod.netns)).toBe(true);
    expect(await pods.remove(pod.netns)).toEqual({ changed: true });
    expect(await ourRules(pod, variant)).toBe(0);
    expect(await pods.open(pod.netns)).toEqual({ changed: false });
  });
});

describe("what goes wrong", () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "redirect-open-"));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  test("a program that does nothing but succeed is found out", async () => {
    using pod = await TestNetns.make();
    await redirection(legacy).apply(pod.netns, DEFAULT_OPTIONS);
    const restore = join(folder, "lazy");
    writeFileSync(restore, "#!/bin/sh\ncat >/dev/null\n");
    chmodSync(restore, 0o755);
    const installed = legacy.installed.legacy!;
    const lazy = { ...installed, 4: { ...installed[4], restore } };
    await expect(
      redirection({ ...legacy, installed: { legacy: lazy } }).open(pod.netns),
    ).rejects.toMatchObject({
      code: "NOT_CONVERGED",
      message: expect.stringContaining("look for another program"),
    });
  });

  test("a caller that gives up is obeyed, and a closed handle is not used", async () => {
    using pod = await TestNetns.make();
    await redirection(nft).apply(pod.netns, DEFAULT_OPTIONS);
    const handles = await pod.handles();
    const signal = AbortSignal.abort();
    await expect(redirection(nft).open(pod.netns, { signal })).rejects.toMatchObject({
      code: "TOOL_ABORTED",
    });
    pod.netns.close();
    await expect(redirection(nft).open(pod.netns)).rejects.toMatchObject({ code: "NETNS_CLOSED" });
    expect(await pod.handles()).toBe(handles);
  });
});
