// SPDX-License-Identifier: Apache-2.0
// The agent and the launcher on a real Kubernetes node: kubelet, containerd, controllers and API server are what users have.
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { NodeModule } from "../../support/node/node-module.ts";
import { clusterMeans, saySkipped } from "../support/cluster-means.ts";
import { nodeTools, RealNode, say, sayTimes } from "../support/real-node.ts";

type Inside = typeof import("./node.inside.ts");
const means = await clusterMeans({ apiServerOnly: false, tools: [...nodeTools, "tcpdump"] });
saySkipped("test/cluster/node", means);

describe.skipIf(means.lacks !== undefined)("a real node", () => {
  let real: RealNode<Inside> | undefined;
  let node: NodeModule<Inside>;

  beforeAll(async () => {
    real = await RealNode.start<Inside>(join(import.meta.dirname, "node.inside.ts"));
    node = real.module;
    try {
      sayTimes("cluster", await node.call.start(means.binDir ?? ""));
    } catch (error) {
      say(await node.call.logs());
      throw error;
    }
  });
  afterEach(async (context) => {
    if (context.task.result?.state !== "fail") return;
    say(await node.call.logs());
    await node.call.restore();
  });
  afterAll(async () => {
    expect((await real?.stop()) ?? []).toEqual([]);
  });

  test("captures the running pods of a Deployment when their namespace is labelled", async () => {
    sayTimes("label to captured, 3 pods", await node.call.captureRunning());
  });
  test("carries traffic between pods through ztunnel", async () => {
    await node.call.traffic();
  });
  test("captures a new pod before its first init container connects", async () => {
    sayTimes("pod with an init container", await node.call.newPod());
  });
  test("leaves nothing of a pod that is deleted", async () => {
    await node.call.deletePod();
  });
  test("frees pods when the label is taken away, and takes them back", async () => {
    sayTimes("label off to free, 3 pods", await node.call.release());
  });
  test("keeps running pods as they are over a restart of the agent, and holds new ones meanwhile", async () => {
    await node.call.restartAgent();
  });
  test("serves every pod through a ztunnel that was restarted", async () => {
    sayTimes("ztunnel", await node.call.restartZtunnel());
  });
  test("captures a static pod, whose UID is another one in the runtime", async () => {
    const { apiUid, runtimeUid } = await node.call.staticPod();
    expect(runtimeUid).toMatch(/^[0-9a-f]{32}$/);
    expect(runtimeUid).not.toBe(apiUid);
  });
  test("finds a static pod that runs already", async () => {
    await node.call.staticPodFound();
  });
  test("keeps pods captured while the API server is away, holds new ones, and catches up", async () => {
    sayTimes("API server back to captured", await node.call.withoutApiServer());
  });
  test("lets a pod go that has done its work", async () => {
    await node.call.job();
  });
  test("holds nothing when all pods are gone", async () => {
    expect(await node.call.remains()).toMatchObject({ held: [], namespaces: [] });
  });
});
