// SPDX-License-Identifier: Apache-2.0
// What nri.test.ts does inside a node: sandboxes that no ADD of ours announces, of which the runtime tells by NRI.
import assert from "node:assert/strict";
import { claimCaptured, claimUntouched, untilCaptured } from "../support/node/capture-state.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { bareHandler, ourChain } from "./support/chain.ts";
import {
  CriNode,
  type CriPod,
  meshNamespace,
  type PodSpec,
  plainNamespace,
  type RunOptions,
} from "./support/cri-node.ts";
import { waitForNothing } from "./support/holdings.ts";

let node: CriNode;
const named = (pod: CriPod) => ({ netns: pod.netns, spec: pod.spec });
/** A chain without our plugin; the object's status stays without an address, so that nobody finds the pod by it. */
const bare: RunOptions = { handler: bareHandler, isTold: false };
const nri = (say: string) => `ambient_cni_nri_answer_duration_seconds_count{outcome="${say}"}`;

/** @returns name and version of the runtime */
export async function start(): Promise<string> {
  node = await CriNode.start({ agentEnv: { LOG_LEVEL: "debug", AGENT_WAIT_SECONDS: "1" } });
  await node.startMesh();
  await untilTold(1);
  return await node.cri.version();
}

async function metric(line: string): Promise<number> {
  const text = (await node.agent.metrics()).split("\n").find((each) => each.startsWith(`${line} `));
  return Number(text?.split(" ").at(-1) ?? Number.NaN);
}

/** Until so many sessions with the runtime have begun, and the last one goes on. */
async function untilTold(times: number): Promise<void> {
  await waitFor(
    `${times} sessions with the runtime`,
    async () =>
      (await metric("ambient_cni_nri_connects_total")) >= times &&
      (await metric("ambient_cni_nri_connected")) === 1,
    { timeoutMs: 15_000, intervalMs: 50 },
  );
}

async function restartAgent(env: Readonly<Record<string, string>> = {}): Promise<void> {
  await node.agent.stop();
  await node.startAgent(env);
  await node.agent.waitReady();
  await node.ztunnel.waitForReady();
  await node.containerd.waitForChain(ourChain);
}

async function remove(pod: CriPod): Promise<void> {
  await node.deletePod(pod);
}

/** A pod of the mesh whose chain lacks us is captured when its sandbox is there, and gone when that ends. Returns how long that took. */
export async function captured(): Promise<{ readonly runMs: number; readonly sources: string }> {
  const before = await metric(nri("captured"));
  const pod = await node.runPod(node.createPod(meshNamespace), bare);
  await claimCaptured(named(pod));
  const { workloads } = await node.ztunnel.stats();
  assert.deepEqual(Object.keys(workloads), [pod.spec.uid]);
  assert.equal(await metric(nri("captured")), before + 1);
  const sources = (await node.agent.metrics())
    .split("\n")
    .filter((line) => line.startsWith("ambient_cni_sandboxes{"));
  await node.startApp(pod);
  await remove(pod);
  await waitForNothing(node);
  return { runMs: pod.runMs, sources: sources.join(" ") };
}

/** How long many sandboxes took. */
export interface ManyTimes {
  readonly slowestMs: number;
  /** That the runtime waited for our answer, with the capture in it; the mean. */
  readonly answerMs: number;
}

/** Many of them, four at a time, each looked at once its sandbox is there. */
export async function many(count: number): Promise<ManyTimes> {
  const answers = 'ambient_cni_nri_answer_duration_seconds_sum{outcome="captured"}';
  const before = await metric(answers);
  const specs = Array.from({ length: count }, () => node.createPod(meshNamespace));
  const pods: CriPod[] = [];
  const worker = async (): Promise<void> => {
    for (let spec = specs.pop(); spec !== undefined; spec = specs.pop()) {
      const pod = await node.runPod(spec, bare);
      await claimCaptured(named(pod));
      pods.push(pod);
    }
  };
  await Promise.all([worker(), worker(), worker(), worker()]);
  const answerMs = (1000 * ((await metric(answers)) - before)) / count;
  for (const pod of pods) await remove(pod);
  await waitForNothing(node);
  return { slowestMs: Math.max(...pods.map(({ runMs }) => runMs)), answerMs };
}

/** The same with an agent that does not hear the runtime: the control. */
export async function control(): Promise<void> {
  await restartAgent({ NRI_ENABLED: "false" });
  const pod = await node.runPod(node.createPod(meshNamespace), bare);
  await claimUntouched(named(pod));
  await remove(pod);
  await restartAgent();
  await untilTold(1);
}

/** What the runtime is told of pods that are not ours to capture, or whose ADD was answered. */
export async function others(): Promise<Record<"announced" | "outside", number>> {
  const [announced, outside] = [await metric(nri("announced")), await metric(nri("outside"))];
  const ours = await node.runPod(node.createPod(meshNamespace));
  await claimCaptured(named(ours));
  const plain = await node.runPod(node.createPod(plainNamespace), bare);
  await claimUntouched(named(plain));
  await remove(ours);
  await remove(plain);
  await waitForNothing(node);
  return {
    announced: (await metric(nri("announced"))) - announced,
    outside: (await metric(nri("outside"))) - outside,
  };
}

/** Without a ztunnel: how long the sandbox took, and what the runtime says of its first container; it starts once there is one. */
export async function held(): Promise<{
  readonly message: string;
  readonly runMs: number;
  readonly createMs: number;
}> {
  await node.ztunnel.stop();
  const pod = await node.runPod(node.createPod(meshNamespace), bare);
  await claimUntouched(named(pod));
  const refusals = await metric("ambient_cni_nri_refused_containers_total");
  const began = performance.now();
  const message = await node.startApp(pod).then(
    () => "",
    (error: Error) => error.message,
  );
  const createMs = performance.now() - began;
  assert.equal(await metric("ambient_cni_nri_refused_containers_total"), refusals + 1);
  // others start meanwhile
  const plain = await node.runPod(node.createPod(plainNamespace), bare);
  await node.startApp(plain);
  await remove(plain);
  await node.startZtunnel();
  await node.ztunnel.waitForReady();
  await untilCaptured(named(pod));
  await node.startApp(pod);
  await remove(pod);
  await waitForNothing(node);
  return { message, runMs: pod.runMs, createMs };
}

/** The same where nothing is to be refused: the pod starts, and is captured once there is a ztunnel. */
export async function passed(): Promise<void> {
  await restartAgent({ NRI_REFUSE: "false" });
  await untilTold(1);
  await node.ztunnel.stop();
  const pod = await node.runPod(node.createPod(meshNamespace), bare);
  await node.startApp(pod);
  await claimUntouched(named(pod));
  assert.equal(await metric(nri("passed")), 1);
  await node.startZtunnel();
  await untilCaptured(named(pod));
  await remove(pod);
  await restartAgent();
  await untilTold(1);
  await waitForNothing(node);
}

/** Sandboxes that began while the agent was away, and whose pods nobody can find: no address, and no process with their name. */
export async function agentAway(): Promise<string> {
  await node.agent.kill();
  const pods = [
    await node.runPod(node.createPod(meshNamespace), bare),
    await node.runPod(node.createPod(meshNamespace), { ...bare, isNameless: true }),
  ];
  for (const pod of pods) await claimUntouched(named(pod));
  await node.startAgent();
  await node.agent.waitReady();
  for (const pod of pods) await untilCaptured(named(pod), { timeoutMs: 10_000 });
  const source = 'ambient_cni_sandboxes{source="nri"}';
  const found = `${source} ${await metric(source)}`;
  for (const pod of pods) await remove(pod);
  await waitForNothing(node);
  return found;
}

/** The runtime is renewed: we register again, and hear of the next sandbox. */
export async function runtimeRenewed(how: "stop" | "kill"): Promise<void> {
  const sessions = await metric("ambient_cni_nri_connects_total");
  const pod = await node.runPod(node.createPod(meshNamespace), bare);
  if (how === "kill") await node.containerd.process.kill();
  await node.restartContainerd();
  await untilTold(sessions + 1);
  await claimCaptured(named(pod));
  await remove(pod);
  await waitForNothing(node);
  await captured();
}

/** An agent that stands still: how long pods took to start, and what becomes of them once it goes on. */
export async function stopped(): Promise<{ readonly firstMs: number; readonly secondMs: number }> {
  const sessions = await metric("ambient_cni_nri_connects_total");
  const first = await standstill(async () => {
    const pods: [PodSpec, PodSpec] = [node.createPod(meshNamespace), node.createPod(meshNamespace)];
    await node.agent.untilLine("the pods to be known", ({ text }) => text.includes(pods[1].uid));
    process.kill(node.agent.pid, "SIGSTOP");
    const run = [await node.runPod(pods[0], bare), await node.runPod(pods[1], bare)];
    for (const pod of run) await node.startApp(pod);
    return run;
  });
  for (const pod of first) await claimUntouched(named(pod));
  process.kill(node.agent.pid, "SIGCONT");
  await untilTold(sessions + 1);
  for (const pod of first) await untilCaptured(named(pod));
  for (const pod of first) await remove(pod);
  await waitForNothing(node);
  return { firstMs: first[0]?.runMs ?? 0, secondMs: first[1]?.runMs ?? 0 };
}

/** Goes on with the agent whatever happens. */
async function standstill(work: () => Promise<CriPod[]>): Promise<CriPod[]> {
  try {
    return await work();
  } catch (error) {
    process.kill(node.agent.pid, "SIGCONT");
    throw error;
  }
}

/** The last lines of the node's processes, for a failure that needs them. */
export function logs(): string {
  const lines = [node?.agent, node?.containerd.process].flatMap((each) => each?.lines.slice(-25) ?? []);
  return lines.map(({ text }) => text.slice(0, 500)).join("\n");
}
