// SPDX-License-Identifier: Apache-2.0
// What agent-away.test.ts and its slow sister do inside a node: pods that come and go while the agent is away.
import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";
import { claimCaptured, claimUntouched } from "../support/node/capture-state.ts";
import {
  agentNamespace,
  agentPodName,
  CriNode,
  type CriPod,
  meshNamespace,
  plainNamespace,
} from "./support/cri-node.ts";
import { holdingsOf, waitForNothing } from "./support/holdings.ts";
import { type Attempt, runUntilItRuns } from "./support/impatient-kubelet.ts";

/** How long each thing took, in milliseconds. */
export interface AwayTimes {
  /** Stop and Remove of a pod in and of one outside the mesh. */
  readonly dels: number[];
  /** RunPodSandbox of pods that may start without the agent. */
  readonly exempt: number[];
  /** From the start of the agent's process: until it was ready, and until each waiting pod ran. */
  readonly ready: number;
  readonly meshPods: number[];
  readonly plainPods: number[];
  /** Every RunPodSandbox of the waiting pods. */
  readonly attempts: Attempt[];
}

let node: CriNode;
const named = (pod: CriPod) => ({ netns: pod.netns, spec: pod.spec });

/** @param agentWaitSeconds how long the launcher waits for the agent */
export async function start(agentWaitSeconds: number): Promise<void> {
  const agentEnv = { AGENT_WAIT_SECONDS: String(agentWaitSeconds), EXCLUDE_NAMESPACES: "kube-system" };
  node = await CriNode.start({ agentEnv });
  node.api.put("namespaces", { metadata: { name: "kube-system" }, status: { phase: "Active" } });
  await node.startMesh();
}

/** The agent is killed, and comes back after a while. */
export async function away(options: {
  readonly awayMs: number;
  readonly meshPods: number;
}): Promise<AwayTimes> {
  const old = [
    await node.runPod(node.createPod(meshNamespace)),
    await node.runPod(node.createPod(plainNamespace)),
  ];
  const stays = await node.runPod(node.createPod(meshNamespace));
  await node.agent.kill();
  const goneAt = performance.now();

  const dels: number[] = [];
  for (const pod of old) dels.push(await timed(() => node.deletePod(pod)));
  const exempt: number[] = [];
  for (const spec of [node.createPod("kube-system"), agentPod()]) {
    const pod = await node.runPod(spec);
    exempt.push(pod.runMs);
    await claimUntouched(named(pod));
    await node.deletePod(pod);
  }

  const attempts: Attempt[] = [];
  const arrivals = { [meshNamespace]: [] as number[], [plainNamespace]: [] as number[] };
  const meshSpecs = Array.from({ length: options.meshPods }, () => node.createPod(meshNamespace));
  const waiting = [...meshSpecs, node.createPod(plainNamespace)].map(async (spec) => {
    const pod = await runUntilItRuns(node, spec, { attempts });
    arrivals[spec.namespace as typeof meshNamespace].push(performance.now());
    return pod;
  });
  // the length of the absence is what is tested
  await delay(Math.max(0, options.awayMs - (performance.now() - goneAt)));
  assert.deepEqual(Object.values(arrivals).flat(), [], "a pod has started without the agent");

  const backAt = performance.now();
  await node.startAgent();
  await node.agent.waitReady();
  const ready = performance.now() - backAt;
  const pods = await Promise.all(waiting);
  for (const pod of [...pods, stays]) {
    if (pod.spec.namespace === meshNamespace) await claimCaptured(named(pod));
    else await claimUntouched(named(pod));
  }
  const held = (await holdingsOf(node)).ztunnelPods.toSorted();
  assert.deepEqual(held, [...meshSpecs, stays.spec].map(({ uid }) => uid).sort());
  for (const pod of [...pods, stays]) await node.deletePod(pod);
  await waitForNothing(node);
  const since = (times: number[]) => times.map((time) => time - backAt);
  const { [meshNamespace]: mesh, [plainNamespace]: plain } = arrivals;
  return { dels, exempt, ready, meshPods: since(mesh), plainPods: since(plain), attempts };
}

/** The object of a pod of the agent's own DaemonSet. */
function agentPod(): ReturnType<CriNode["createPod"]> {
  const spec = { ...node.createPod(agentNamespace), name: agentPodName.replace(/[^-]+$/, "x7k2p") };
  node.api.put("pods", {
    metadata: { name: spec.name, namespace: spec.namespace, uid: spec.uid },
    spec: { nodeName: "node-1" },
    status: { phase: "Pending" },
  });
  return spec;
}

async function timed(action: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await action();
  return performance.now() - began;
}

/** The last lines of the node's processes, for a failure that needs them. */
export function logs(): string {
  const lines = [node?.agent, node?.containerd.process].flatMap((each) => each?.lines.slice(-15) ?? []);
  return lines.map(({ text }) => text.slice(0, 500)).join("\n");
}
