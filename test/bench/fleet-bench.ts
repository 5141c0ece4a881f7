// SPDX-License-Identifier: Apache-2.0
// A full node: 110 running pods captured by one label, and an agent that is restarted among them.
import { setTimeout as delay } from "node:timers/promises";
import { ipRules, iptablesSave } from "../support/node/kernel.ts";
import type { MeshNode } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { ruleGeneration } from "../support/node/rule-generation.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { forEachLimited } from "./samples.ts";

/** What a full node costs. */
export interface FleetCosts {
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
  const pods = await startPods(mesh, count);
  say(`${count} pods run outside the mesh; now the label`);
  const bare = await generations(pods);
  const labelStart = performance.now();
  mesh.kubelet.labelNamespace("fleet", { "istio.io/dataplane-mode": "ambient" });
  // rules are the last that a running pod gets before it is captured, in one batch, which the kernel counts. Who has them is not asked again:
  // 110 questions every 20 ms took half a processor from what is measured
  let done = 0;
  const hasRules = async (): Promise<boolean> => {
    for (let pod = pods[done]; pod !== undefined; pod = pods[++done])
      if ((await ruleGeneration(pod.netns)) === bare[done]) return false;
    return true;
  };
  await waitFor(`rules in ${count} pods`, hasRules, { intervalMs: 20, timeoutMs: 60_000 });
  const labelSeconds = (performance.now() - labelStart) / 1000;
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
  return { labelSeconds, restartSeconds, restartRuleWrites, rssBytes, idleCpuSeconds };
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

async function startPods(mesh: MeshNode, count: number): Promise<Pod[]> {
  mesh.kubelet.createNamespace("fleet");
  const pods: Pod[] = [];
  const names = Array.from({ length: count }, (_, i) => `pod-${i}`);
  await forEachLimited(names, 3, async (name) =>
    pods.push(await mesh.kubelet.runPod({ namespace: "fleet", name })),
  );
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
