// SPDX-License-Identifier: Apache-2.0
// What agent-away.test.ts and its slow sister do inside a node: pods that come and go while the agent is away.
import assert from "node:assert/strict";
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { claimCaptured, claimUntouched } from "../support/node/capture-state.ts";
import { waitFor } from "../support/node/wait-for.ts";
import {
  agentNamespace,
  agentPodName,
  CriNode,
  type CriPod,
  meshNamespace,
  type PodSpec,
  plainNamespace,
} from "./support/cri-node.ts";
import { holdingsOf, waitForNothing } from "./support/holdings.ts";
import { type Attempt, runUntilItRuns } from "./support/impatient-kubelet.ts";

/** How long each thing took, in milliseconds. */
export interface AwayTimes {
  /** Stop and Remove of a pod in and of one outside the mesh. */
  readonly dels: number[];
  /** RunPodSandbox of pods that start without the agent: right after its death, and after a boot. */
  readonly exempt: number[];
  readonly afterBoot: number[];
  /** From the start of the agent's process: until it was ready, and until each waiting pod ran. */
  readonly ready: number;
  readonly meshPods: number[];
  /** Of namespaces that the agent could not tell to be outside the mesh. */
  readonly unsurePods: number[];
  /** Every RunPodSandbox of the waiting pods. */
  readonly attempts: Attempt[];
}

let node: CriNode;
const named = (pod: CriPod) => ({ netns: pod.netns, spec: pod.spec });

/** Namespace of a pod that opted in by its own label, and one that no agent has seen. */
const optedNamespace = "opted";
const newNamespace = "new";

/** @param agentWaitSeconds how long the launcher waits for the agent */
export async function start(agentWaitSeconds: number): Promise<void> {
  const agentEnv = { AGENT_WAIT_SECONDS: String(agentWaitSeconds), EXCLUDE_NAMESPACES: "kube-system" };
  node = await CriNode.start({ agentEnv });
  for (const name of ["kube-system", optedNamespace])
    node.api.put("namespaces", { metadata: { name }, status: { phase: "Active" } });
  await node.startMesh();
}

/** A pod that is in the mesh by its own label comes and goes, and its namespace is held from then on. */
async function optIn(): Promise<void> {
  const { name } = node.createPod(optedNamespace, { labels: { "istio.io/dataplane-mode": "ambient" } });
  const path = join(node.chains.binDir, "ambient-cni.exempt-namespaces");
  await waitFor("the namespace to be held", async () =>
    (await readFile(path, "utf8")).includes("hold opted "),
  );
  node.api.delete("pods", name, optedNamespace);
}

/** The agent is killed, the node boots without it, and it comes back after a while. */
export async function away(options: {
  readonly awayMs: number;
  readonly meshPods: number;
}): Promise<AwayTimes> {
  await optIn();
  const old = [
    await node.runPod(node.createPod(meshNamespace)),
    await node.runPod(node.createPod(plainNamespace)),
  ];
  const stays = await node.runPod(node.createPod(meshNamespace));
  await node.agent.kill();
  const goneAt = performance.now();

  const dels: number[] = [];
  for (const pod of old) dels.push(await timed(() => node.deletePod(pod)));
  const runOutside = async (specs: readonly PodSpec[]): Promise<number[]> => {
    const times: number[] = [];
    for (const spec of specs) {
      const pod = await node.runPod(spec);
      times.push(pod.runMs);
      await claimUntouched(named(pod));
      await node.deletePod(pod);
    }
    return times;
  };
  const outside = ["kube-system", plainNamespace, agentNamespace] as const;
  const exempt = await runOutside([...outside.map((name) => node.createPod(name)), agentPod()]);
  // what a boot takes away
  await rm("/var/run/istio-cni", { recursive: true, force: true });
  const afterBoot = await runOutside([...outside.map((name) => node.createPod(name)), agentPod()]);
  node.api.put("namespaces", { metadata: { name: newNamespace }, status: { phase: "Active" } });

  const attempts: Attempt[] = [];
  const arrivals = { mesh: [] as number[], unsure: [] as number[] };
  const meshSpecs = Array.from({ length: options.meshPods }, () => node.createPod(meshNamespace));
  const unsure = [optedNamespace, newNamespace].map((name) => node.createPod(name));
  const waiting = [...meshSpecs, ...unsure].map(async (spec) => {
    const pod = await runUntilItRuns(node, spec, { attempts });
    arrivals[spec.namespace === meshNamespace ? "mesh" : "unsure"].push(performance.now());
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
  const { mesh, unsure: others } = arrivals;
  return { dels, exempt, afterBoot, ready, meshPods: since(mesh), unsurePods: since(others), attempts };
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
