// SPDX-License-Identifier: Apache-2.0
// What chain.test.ts does inside a node: a runtime whose network configuration the agent and another program fight over.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { setTimeout as delay } from "node:timers/promises";
import { claimCaptured, untilCaptured } from "../support/node/capture-state.ts";
import { ManagedProcess } from "../support/node/managed-process.ts";
import { conflistPath, ourChain } from "./support/chain.ts";
import { agentPodName, CriNode, type CriPod, meshNamespace, type PodSpec } from "./support/cri-node.ts";
import { waitForNothing } from "./support/holdings.ts";

let node: CriNode;

export async function start(): Promise<void> {
  node = await CriNode.start({ agentEnv: { RECONCILE_INTERVAL_SECONDS: "1" } });
  await node.startMesh();
}

/** What a fight did to the pods that were born in it. */
export interface FightReport {
  readonly pods: number;
  /** Pods that ran before they were captured, and for how long, in milliseconds. */
  readonly uncapturedMs: number[];
  readonly repairs: number;
  /** Messages of the Events of the agent's own pod. */
  readonly events: string[];
  /** What /readyz answered in the end. */
  readonly readiness: string;
}

/** Another program rewrites the configuration again and again, while pods come and go. */
export async function fight(rewrites: number): Promise<FightReport> {
  const before = node.agent.lines.length;
  const rewriter = new ManagedProcess(["/bin/sh", "-c", rewriterScript(rewrites)], { name: "rewriter" });
  const uncapturedMs: number[] = [];
  let pods = 0;
  const churn = async (): Promise<void> => {
    while (rewriter.running) {
      pods += 1;
      const ms = await uncapturedTime();
      if (ms > 0) uncapturedMs.push(ms);
    }
  };
  await Promise.all([churn(), churn()]);
  assert.equal(await rewriter.exited, 0, rewriter.text);
  await node.containerd.waitForChain(ourChain);
  const { plugins } = JSON.parse(await readFile(conflistPath(node.chains.confDir), "utf8")) as {
    plugins: { type: string }[];
  };
  assert.deepEqual(
    plugins.map(({ type }) => type),
    ourChain,
  );
  assert.equal(await uncapturedTime(), 0, "a pod of the repaired chain was not captured by its ADD");
  await waitForNothing(node);
  const written = node.agent.lines.slice(before).filter(({ json }) => json?.msg === "wrote the CNI chain");
  const readiness = await (await fetch("http://127.0.0.1:8000/readyz")).text();
  return { pods, uncapturedMs, repairs: written.length, events: eventsOfAgent(), readiness };
}

function eventsOfAgent(): string[] {
  return node.api.store.list("events").flatMap(({ involvedObject, regarding, message, note }) => {
    const { name } = (involvedObject ?? regarding) as { name: string };
    return name === agentPodName ? [String(message ?? note)] : [];
  });
}

/** By rename and in place, as programs do, at times with a pause in the middle. */
function rewriterScript(count: number): string {
  const path = conflistPath(node.chains.confDir);
  const own = conflistPath(node.chains.bareConfDir);
  return `n=0
while [ $n -lt ${count} ]; do
  case $((n % 5)) in
    0 | 2) cp ${own} ${path}.theirs && mv ${path}.theirs ${path} ;;
    4) head -c 40 ${own} >${path}; sleep 0.1; cat ${own} >${path} ;;
    *) cat ${own} >${path} ;;
  esac
  n=$((n + 1))
  sleep 0.0$((n % 9 + 1))
done`;
}

/** What the runtime says while it knows no chain, having read half a file of the other program; nothing else may fail. */
function isHalfFile(error: unknown): boolean {
  return (error as Error).message.includes("cni plugin not initialized");
}

/** Does it again until the runtime knows a chain, as the kubelet would. */
async function despiteHalfFiles<T>(action: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await action();
    } catch (error) {
      if (!isHalfFile(error)) throw error;
      await delay(20);
    }
  }
}

/**
 * The same for a new pod. A runtime that could not take the network of a failed attempt down again either keeps that
 * sandbox and its name: the next attempt has another number, and the kubelet takes the old one away.
 */
async function runDespiteHalfFiles(spec: PodSpec): Promise<CriPod> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await node.runPod(spec, { attempt });
    } catch (error) {
      if (!isHalfFile(error)) throw error;
      for (const id of await node.cri.listPodSandbox(spec.uid)) {
        await despiteHalfFiles(() => node.cri.stopPodSandbox(id));
        await despiteHalfFiles(() => node.cri.removePodSandbox(id));
      }
      await delay(20);
    }
  }
}

/** Runs and deletes a pod of the mesh. Returns for how long it ran without being captured, 0 for never. */
async function uncapturedTime(): Promise<number> {
  const spec = node.createPod(meshNamespace);
  const pod = await runDespiteHalfFiles(spec);
  const began = performance.now();
  const isHeld = async (): Promise<boolean> => pod.spec.uid in (await node.ztunnel.stats()).workloads;
  const atOnce = await isHeld();
  // ztunnel has a running pod before its rules stand
  if (!atOnce) await untilCaptured({ netns: pod.netns, spec: pod.spec }, { timeoutMs: 20_000 });
  const ms = performance.now() - began;
  await claimCaptured({ netns: pod.netns, spec: pod.spec });
  await despiteHalfFiles(() => node.deletePod(pod));
  return atOnce ? 0 : ms;
}

/** The last lines of the node's processes, for a failure that needs them. */
export function logs(): string {
  const lines = [node?.agent, node?.containerd.process].flatMap((each) => each?.lines.slice(-15) ?? []);
  return lines.map(({ text }) => text.slice(0, 500)).join("\n");
}
