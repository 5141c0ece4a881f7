// SPDX-License-Identifier: Apache-2.0
// What ends a pod's capture and what does not: attachments, false ends, restarts, sandboxes without a process.
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";

type Inside = typeof import("./attachments.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "attachments.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});

const probeAddress = "169.254.7.127";

describe("a captured pod", () => {
  test("stays as it is when a GC is of another network, or a DEL of another of its attachments", async () => {
    await node.call.othersEnd();
  });

  test("is captured again within one interval when a DEL or GC ended it and its sandbox lives on", async () => {
    const ends = await node.call.falseEnds();
    console.info(JSON.stringify(ends));
    for (const end of Object.values(ends)) {
      expect(end.capturedMs).toBeLessThan(end.intervalMs);
      expect(end.statuses).toEqual(["none", "enabled"]);
      expect(end.concealedMs).toBeLessThan(end.firstRuleGoneMs);
      expect(end.annotatedMs).toBeGreaterThan(end.servedMs);
      expect(end.events).toHaveLength(1);
      expect(end.events[0]).toMatch(/DEL or GC.*captured again.*Look for/);
    }
  });

  test("is let go by a GC of its network that does not name it, and not by one that says nothing", async () => {
    await node.call.collected();
  });
});

describe("a pod that only Multus attaches", () => {
  test.each([
    ["by the auxiliary chain alone", ["istio-cni"]],
    ["by the auxiliary chain and a definition of the same network", ["istio-cni", "istio-cni"]],
    ["by the auxiliary chain and a definition of another network", ["istio-cni", "second"]],
  ])("is captured once before ADD answers, and let go with its last attachment: %s", async (_, networks) => {
    expect(await node.call.onlyThroughMultus(networks)).toEqual({
      adds: 1,
      changes: [],
      probe: probeAddress,
    });
  });
});

describe("a pod whose second network has our entry, too", () => {
  test.each(["with the first", "while it runs", "alone through us"] as const)(
    "has its probes pass to the addresses of its status, and to no others: net1 comes %s",
    async (how) => {
      const { members, status, probe, after } = await node.call.secondLeg(how);
      expect(members).toEqual(status);
      expect(probe).toBe(probeAddress);
      expect(after).toEqual(status);
    },
  );
});

describe("bad input", () => {
  test("DEL and GC of what nobody knows succeed without a word and touch nothing", async () => {
    const { calls, lines } = await node.call.nobodyKnows();
    expect(lines).toEqual([]);
    expect(calls).toBe(39);
  });

  test("DEL before ADD, twice, and after the pod is gone, succeeds without a word, as CHECK does", async () => {
    expect(await node.call.beforeAndAfter()).toEqual({ lines: [] });
  });

  test("kept files that are cut off, of another boot or about a namespace of somebody else are one line in the log", async () => {
    const { warned, left } = await node.call.badFiles();
    console.info(warned.join("\n"));
    expect(warned[0]).toMatch(/"otherBoot":1,"ended":2,"damaged":2/);
    expect(warned).toHaveLength(3);
    expect(left).toEqual([]);
  });
});

describe("a sandbox without a process", () => {
  test.each(["SIGKILL", "SIGTERM"] as const)(
    "and without an address is served over a restart of the agent by %s, and its DEL lets it go",
    async (signal) => {
      await node.call.overARestart(signal);
    },
  );

  test.each(["kept", "pinned"] as const)(
    "is served within 1 s after agent and ztunnel were both replaced, when it is %s",
    async (how) => {
      const servedMs = await node.call.crashLoop(how);
      console.info(`served ${servedMs} ms after both were there (${how})`);
      expect(servedMs).toBeLessThan(1_000);
    },
  );
});

test("a running pod that ztunnel refuses stays as it was until the program that holds the port lets go of it", async () => {
  const { message, pid, probes, changes, capturedMs } = await node.call.portTaken();
  console.info(`captured ${capturedMs} ms after the port was free; ${message}`);
  expect(message).toMatch(new RegExp(`tcp port 15008 is held by "\\S*node" \\(process ${pid}\\)`));
  expect(probes).toEqual(["10.210.0.1", "10.210.0.1"]);
  expect(changes).toEqual([]);
  expect(capturedMs).toBeLessThan(6_000);
});

test("nothing is held or kept when all pods are gone", async () => {
  expect(await node.call.remains()).toEqual({ held: [], files: [] });
});
