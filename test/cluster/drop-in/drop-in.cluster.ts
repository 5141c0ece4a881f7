// SPDX-License-Identifier: Apache-2.0
// The agent on a real Kubernetes node as users install it: image, manifests, DaemonSets of agent and ztunnel.
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { findHelm } from "../../../scripts/helm.ts";
import type { NodeModule } from "../../support/node/node-module.ts";
import { clusterMeans, saySkipped } from "../support/cluster-means.ts";
import { nodeTools, RealNode, say, sayTimes } from "../support/real-node.ts";

type Inside = typeof import("./drop-in.inside.ts");
const means = await clusterMeans({
  apiServerOnly: false,
  tools: [...nodeTools, "tcpdump", "ipset", "sysctl"],
});
saySkipped("test/cluster/drop-in", means);

/** The default of LEAVE_PAUSE_MS: a pod is not opened before istiod had it. */
const LEAVE_PAUSE_MS = 500;

describe.skipIf(means.lacks !== undefined)("an installed agent", () => {
  let real: RealNode<Inside> | undefined;
  let node: NodeModule<Inside>;

  beforeAll(async () => {
    real = await RealNode.start<Inside>(join(import.meta.dirname, "drop-in.inside.ts"));
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

  test("has a chart whose objects the API server takes, with all documented values", async ({ skip }) => {
    const helm = await findHelm();
    if ("lacks" in helm) return skip(helm.lacks);
    say(`objects of the chart that passed server-side apply: ${await node.call.tryChart(helm.program)}`);
  });
  test("is ready within 10 s when its manifests are applied to a fresh node", async () => {
    const times = await node.call.install();
    sayTimes("manifests applied to DaemonSet ready", times);
    expect(times.readyMs).toBeLessThan(10_000);
  });
  test("says in kubectl describe why a pod of the mesh waits, while there is no ztunnel", async () => {
    const { events, phase } = await node.call.podWithoutZtunnel();
    expect(events).toMatch(
      /FailedCreatePodSandBox.*Cannot capture pod "mesh\/early" for the ambient mesh: no ztunnel connection for 20 s; check the ztunnel pod of this node: kubectl get pods -A -l app=ztunnel -o wide/,
    );
    expect(phase).toBe("Pending");
  });
  test("makes a ztunnel ready", async () => {
    sayTimes("ztunnel", await node.call.startZtunnel());
    sayTimes("the pod that waited for it", await node.call.earlyPodRuns());
  }, 120_000);
  test("captures running pods within a second when their namespace is labelled", async () => {
    const times = await node.call.captureRunning();
    sayTimes("label to captured, 3 pods", times);
    expect(times.capturedMs).toBeLessThan(1_000);
  });
  test("answers the commands of deploy/README.md as it says", async () => {
    const { rollout, annotations, ztunnel, agents, doctor, agentsDoctor } = await node.call.readmeCommands();
    expect(rollout).toMatch(/successfully rolled out/);
    expect(annotations).toMatch(/^POD +MESH\n(?:web-\S+ +enabled\n){3}$/);
    expect(ztunnel).toMatch(/^istio-system +ztunnel-\S+ +1\/1 +Running/m);
    expect(agents).toMatch(/^ambient-cni-node-\S+ +1\/1 +Running/m);
    for (const text of [doctor, agentsDoctor]) expect(text).toMatch(/^ok +ztunnel/m);
  });
  test("carries their traffic through ztunnel", async () => {
    await node.call.traffic();
  });
  test("captures new pods before their init containers connect", async () => {
    sayTimes("3 pods with init containers", await node.call.newPods());
  });
  test("frees pods within a second of istiod's pause when the label is taken away", async () => {
    const times = await node.call.release();
    sayTimes("label off to free, 3 pods", times);
    expect(times.freeMs).toBeLessThan(LEAVE_PAUSE_MS + 1_000);
  });
  test("leaves the node as it was, and pods in the mesh, when its DaemonSet is deleted", async () => {
    sayTimes("DaemonSet deleted", await node.call.uninstall());
  }, 150_000);
  test("can be installed again, and finds its pods", async () => {
    sayTimes("second installation", await node.call.installAgain());
  });
  test("leaves the node as it was when all manifests are deleted in one go", async () => {
    sayTimes("manifests deleted", await node.call.uninstallAll());
  }, 150_000);
  test("leaves by both runbooks of deploy/README.md, with pods in the mesh and out of it", async () => {
    await node.call.installAgain();
    sayTimes("left by the runbook", await node.call.leaveByRunbook());
    await node.call.installAgain();
    await node.call.releaseByRunbook();
    await node.call.installAgain();
    sayTimes("manifests deleted", await node.call.uninstallAll());
  }, 300_000);
  test("does all of that in the DaemonSet of istio-cni, with its runbooks for the way in and back", async () => {
    sayTimes("drop-in", await node.call.dropIn());
  }, 200_000);
  test("is updated under traffic while pods come and go, and nobody notices", async () => {
    sayTimes("installed again", await node.call.installAgain());
    sayTimes("agent updated", await node.call.updateAgent());
  }, 300_000);
  test("lets a ztunnel take over from another without a failed connection", async () => {
    sayTimes("ztunnel updated", await node.call.updateZtunnel());
  }, 240_000);
  test("keeps everything captured over a minute without API server", async () => {
    const times = await node.call.withoutApiServer();
    sayTimes("API server back", times);
    // a server that nobody answers at is tried every 5 to 10 s
    expect(times.labelSeenMs).toBeLessThan(12_000);
  }, 180_000);
  test.each(["kubelet", "containerd"] as const)(
    "keeps everything captured over a restart of %s",
    async (name) => {
      sayTimes(`${name} restarted`, await node.call.restartDaemon(name));
    },
    120_000,
  );
  test("comes up by itself after a reboot, and captures all pods before they send", async () => {
    sayTimes("power back", await node.call.reboot());
  }, 240_000);
});
