// SPDX-License-Identifier: Apache-2.0
// A full node: 110 running pods captured by one label, and an agent that is restarted among them.
import { setTimeout as delay } from "node:timers/promises";
import { Netns } from "../../src/linux/netns.ts";
import { NetnsNotices } from "../../src/linux/netns-notices.ts";
import { systemClock } from "../../src/loop/clock.ts";
import { within } from "../../src/loop/deadline.ts";
import { ipRules, iptablesSave } from "../support/node/kernel.ts";
import type { MeshNode } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { ruleGeneration } from "../support/node/rule-generation.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { forEachLimited } from "./samples.ts";

/** What a full node costs. */
export interface FleetCosts {
  /** From the label to the rules of one pod alone, and of the first of all, in ms. */
  readonly singlePodMs: number;
  readonly firstPodMs: number;
  readonly labelSeconds: number;
  readonly restartSeconds: number;
  /** Rule transactions in all pods, counted by the kernel. */
  readonly restartRuleWrites: number;
  readonly rssBytes: number;
  /** Processor time of the agent in a minute in which nothing happens. */
  readonly idleCpuSeconds: number;
}

/** Two looks at each pod, by the default interval. */
const idleMs = 60_000;

/** Starts the pods of a namespace, labels it, restarts the agent. @throws Error when a pod is not as it should be. */
export async function measureFleet(
  mesh: MeshNode,
  options: { pods: number; say: (line: string) => void },
): Promise<FleetCosts> {
  const { pods: count, say } = options;
  const [single] = await startPods(mesh, "single", 1);
  if (single === undefined) throw new Error("Cannot measure one pod: it did not start");
  const [singlePodMs = Number.NaN] = await capturedAfterMs(mesh, "single", [single]);
  await mesh.kubelet.deletePod(single);
  const pods = await startPods(mesh, "fleet", count);
  say(`one pod captured after ${singlePodMs.toFixed()} ms; ${count} run outside the mesh; now the label`);
  const tookMs = await capturedAfterMs(mesh, "fleet", pods);
  const [firstPodMs, labelSeconds] = [Math.min(...tookMs), Math.max(...tookMs) / 1000];
  await untilHeld(mesh, count);
  await assertCaptured(pods);
  await settled(mesh);
  const rssBytes = mesh.agent.rssBytes();
  say(`captured after ${labelSeconds.toFixed(2)} s; now the restart`);
  const before = await generations(pods);
  const connections = (await mesh.ztunnel.stats()).connections;
  const restartStart = performance.now();
  await mesh.agent.stop();
  await mesh.startAgent();
  await mesh.ztunnel.waitForStats((stats) => stats.ready && stats.connections > connections, 30_000);
  const restartSeconds = (performance.now() - restartStart) / 1000;
  await untilHeld(mesh, count);
  await settled(mesh);
  const after = await generations(pods);
  const restartRuleWrites = after.reduce((sum, generation, i) => sum + generation - (before[i] as number), 0);
  await assertCaptured(pods);
  const idleCpuSeconds = await idleCost(mesh);
  say(`idle: ${idleCpuSeconds.toFixed(3)} s of processor time a minute`);
  return {
    singlePodMs,
    firstPodMs,
    labelSeconds,
    restartSeconds,
    restartRuleWrites,
    rssBytes,
    idleCpuSeconds,
  };
}

/**
 * Labels the namespace and waits for the rules of its pods: the last that a running pod gets before it is captured, in one batch, which
 * the kernel counts and announces. Nobody asks again and again: that took half a processor from what is measured.
 * @returns from the label to the rules of each, in ms
 */
async function capturedAfterMs(mesh: MeshNode, namespace: string, pods: readonly Pod[]): Promise<number[]> {
  const bare = await generations(pods);
  const netnses = pods.map(({ netns }) => Netns.open(netns));
  const ears = await Promise.all(netnses.map((netns) => NetnsNotices.open(netns, "host")));
  let startMs = 0;
  const hasRules = (pod: Pod, i: number): Promise<number> =>
    new Promise((resolve, reject) => {
      const hear = (): void => {
        const heardMs = performance.now();
        // before the question: what is announced after its answer is heard
        ears[i]?.listen(hear);
        ruleGeneration(pod.netns).then((generation) => {
          if (generation !== bare[i]) resolve(heardMs - startMs);
        }, reject);
      };
      ears[i]?.listen(hear);
    });
  const all = Promise.all(pods.map(hasRules));
  startMs = performance.now();
  mesh.kubelet.labelNamespace(namespace, { "istio.io/dataplane-mode": "ambient" });
  const message = `rules in ${pods.length} pods`;
  const took = await within(all, { ms: 60_000, clock: systemClock, message });
  for (const netns of netnses) netns.close();
  return took;
}

async function idleCost(mesh: MeshNode): Promise<number> {
  const beforeMs = mesh.agent.cpuMs();
  await delay(idleMs);
  return (mesh.agent.cpuMs() - beforeMs) / 1000;
}

/** Waits until the agent has nothing more to do. */
export async function settled(mesh: MeshNode): Promise<void> {
  let last = -1;
  const idle = (): boolean => {
    const now = mesh.agent.cpuMs();
    const same = now === last;
    last = now;
    return same;
  };
  await waitFor("the agent to be idle", idle, { intervalMs: 500, timeoutMs: 30_000 });
}

async function startPods(mesh: MeshNode, namespace: string, count: number): Promise<Pod[]> {
  mesh.kubelet.createNamespace(namespace);
  const pods: Pod[] = [];
  const names = Array.from({ length: count }, (_, i) => `pod-${i}`);
  await forEachLimited(names, 3, async (name) => pods.push(await mesh.kubelet.runPod({ namespace, name })));
  await settled(mesh);
  return pods;
}

async function untilHeld(mesh: MeshNode, count: number): Promise<void> {
  const all = async (): Promise<boolean> => {
    const { workloads, pending } = await mesh.ztunnel.stats();
    return Object.keys(workloads).length === count && pending.length === 0;
  };
  await waitFor(`ztunnel to have ${count} pods`, all, { intervalMs: 20, timeoutMs: 60_000 });
}

async function generations(pods: readonly Pod[]): Promise<number[]> {
  return Promise.all(pods.map((pod) => ruleGeneration(pod.netns)));
}

async function assertCaptured(pods: readonly Pod[]): Promise<void> {
  await forEachLimited(pods, 4, async (pod) => {
    for (const family of [4, 6] as const) {
      const save = await iptablesSave(pod.netns, family, { variant: "nft" });
      const rules = await ipRules(pod.netns, family);
      const captured =
        save.includes("--to-ports 15001") && rules.some((rule) => rule.includes("0x111/0xfff"));
      if (!captured) throw new Error(`Pod "${pod.spec.name}" is not captured in IPv${family}:\n${save}`);
    }
  });
}
