// SPDX-License-Identifier: Apache-2.0
// What boot.test.ts and its slow sister do inside a node: a machine that has just booted, with all its pods to be run at once.
import assert from "node:assert/strict";
import { readFile, rm } from "node:fs/promises";
import { setTimeout as delay } from "node:timers/promises";
import { forEachLimited, percentile } from "../bench/samples.ts";
import { claimCaptured, claimUntouched } from "../support/node/capture-state.ts";
import { CriNode, type CriPod, meshNamespace, plainNamespace } from "./support/cri-node.ts";
import { holdingsOf, waitForNothing } from "./support/holdings.ts";
import { type Attempt, runUntilItRuns } from "./support/impatient-kubelet.ts";

const concurrency = 8;

/** What a boot was like. */
export interface BootReport {
  readonly totalMs: number;
  /** RunPodSandbox that succeeded: p50, p95, longest. */
  readonly succeededMs: readonly [number, number, number];
  readonly longestFailedMs: number;
  /** Failed RunPodSandbox by code and message. */
  readonly failures: Readonly<Record<string, number>>;
  /** Most memory the agent ever had. */
  readonly agentPeakBytes: number;
}

let node: CriNode;

/** What a boot leaves of an agent: launcher and chain, and nothing in /run. */
export async function start(agentWaitSeconds: number): Promise<void> {
  node = await CriNode.start({ agentEnv: { AGENT_WAIT_SECONDS: String(agentWaitSeconds) } });
  await node.install();
  await node.agent.kill();
  await rm("/var/run/istio-cni", { recursive: true, force: true });
}

/** All pods at once, 8 under way; the agent comes after a while, and ztunnel after that. */
export async function boot(options: {
  readonly count: number;
  readonly agentAfterMs: number;
}): Promise<BootReport> {
  const { count, agentAfterMs } = options;
  const attempts: Attempt[] = [];
  const pods: CriPod[] = [];
  const specs = Array.from({ length: count }, (_, index) =>
    node.createPod(index % 3 === 2 ? plainNamespace : meshNamespace),
  );
  const began = performance.now();
  const allRun = forEachLimited(specs, concurrency, async (spec) => {
    pods.push(await runUntilItRuns(node, spec, { attempts }));
  });
  const lateParts = startLate(agentAfterMs);
  await Promise.all([allRun, lateParts]);
  const totalMs = performance.now() - began;
  const inMesh = specs.filter(({ namespace }) => namespace === meshNamespace);
  await forEachLimited(pods, 4, (pod) =>
    pod.spec.namespace === meshNamespace
      ? claimCaptured({ netns: pod.netns, spec: pod.spec })
      : claimUntouched({ netns: pod.netns, spec: pod.spec }),
  );
  const held = await holdingsOf(node);
  assert.deepEqual(held.ztunnelPods.toSorted(), inMesh.map(({ uid }) => uid).sort());
  assert.equal(held.netnsFiles.length, count);
  const agentPeakBytes = await peakBytes(node.agent.pid);
  await forEachLimited(pods, concurrency, (pod) => node.deletePod(pod));
  await waitForNothing(node, 30_000);
  return { totalMs, agentPeakBytes, ...summary(attempts) };
}

async function startLate(afterMs: number): Promise<void> {
  // the time a node's kubelet takes to get to the agent's pod
  await delay(afterMs);
  await node.startAgent();
  await node.startZtunnel();
}

function summary(
  attempts: readonly Attempt[],
): Pick<BootReport, "succeededMs" | "longestFailedMs" | "failures"> {
  const good = attempts.filter(({ error }) => error === undefined).map(({ ms }) => ms);
  const bad = attempts.filter(({ error }) => error !== undefined);
  const failures: Record<string, number> = {};
  for (const { code, error } of bad) {
    const reason = `${code}: ${error?.replace(/\d+(\.\d+)? s\b/g, "N s").replace(/attempts: \d+/, "attempts: N")}`;
    failures[reason] = (failures[reason] ?? 0) + 1;
  }
  return {
    succeededMs: [percentile(good, 50), percentile(good, 95), Math.max(...good)],
    longestFailedMs: Math.max(0, ...bad.map(({ ms }) => ms)),
    failures,
  };
}

/** Source: proc_pid_status(5), VmHWM. */
async function peakBytes(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return Number(/^VmHWM:\s+(\d+) kB/m.exec(status)?.[1]) * 1024;
}

/** The last lines of the node's processes, for a failure that needs them. */
export function logs(): string {
  const lines = [node?.agent, node?.containerd.process].flatMap((each) => each?.lines.slice(-15) ?? []);
  return lines.map(({ text }) => text.slice(0, 500)).join("\n");
}
