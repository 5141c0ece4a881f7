// SPDX-License-Identifier: Apache-2.0
// Probes of a real kubelet to enrolled pods, behind a ztunnel that refuses all inbound traffic.
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { NodeModule } from "../../support/node/node-module.ts";
import { clusterMeans, saySkipped } from "../support/cluster-means.ts";
import { nodeTools, RealNode, say, sayTimes } from "../support/real-node.ts";

type Inside = typeof import("./probes.inside.ts");
const means = await clusterMeans({ apiServerOnly: false, tools: [...nodeTools, "ipset"] });
saySkipped("test/cluster/node/probes", means);

/** The promise: what somebody flushed is back within this time. */
const healedMs = 5_000;

describe.skipIf(means.lacks !== undefined)("probes on a real node", () => {
  let real: RealNode<Inside> | undefined;
  let node: NodeModule<Inside>;

  beforeAll(async () => {
    real = await RealNode.start<Inside>(join(import.meta.dirname, "probes.inside.ts"));
    node = real.module;
    try {
      sayTimes("cluster", await node.call.start(means.binDir ?? ""));
    } catch (error) {
      say(await node.call.logs());
      throw error;
    }
  });
  afterEach(async (context) => {
    if (context.task.result?.state === "fail") say(await node.call.logs());
  });
  afterAll(async () => {
    expect((await real?.stop()) ?? []).toEqual([]);
  });

  test("let Deployments become ready under a ztunnel that refuses everything", async () => {
    sayTimes("Deployments to ready", await node.call.becomeReady());
  });
  test("keep them ready for a minute, through flushes of the host's rules and of its sets", async () => {
    const { probesPassed, rulesMs, setsMs } = await node.call.stayReady();
    sayTimes(`${probesPassed} probes past ztunnel; healed`, { rules: rulesMs, sets: setsMs });
    expect(probesPassed).toBeGreaterThan(20);
    expect(rulesMs).toBeLessThan(healedMs);
    expect(setsMs).toBeLessThan(healedMs);
  }, 100_000);
  test("do not arrive without the host's rule: what kept the pods ready is the rule", async () => {
    sayTimes("rule taken away", await node.call.withoutRule());
  });
  test("pass again when an agent has put the rule back", async () => {
    sayTimes("agent started", await node.call.ruleBack());
  });
  test("of pods that are gone leave no entry in the sets", async () => {
    const { before, after } = await node.call.deleteAll();
    expect(before).toBeGreaterThan(0);
    expect(after).toEqual([]);
  });
});
