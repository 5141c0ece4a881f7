// SPDX-License-Identifier: Apache-2.0
// What failed-add.test.ts does inside a node: an ADD that fails at one step, what is left of it, and the second try.
import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { setTimeout as delay } from "node:timers/promises";
import { claimCaptured } from "../support/node/capture-state.ts";
import { injectedPod } from "../support/node/injected-pod.ts";
import { iptablesSave } from "../support/node/kernel.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { CriError } from "./support/cri-client.ts";
import { CriNode, meshNamespace, type PodSpec, plainNamespace, type RunOptions } from "./support/cri-node.ts";
import { holdingsOf, waitForNothing } from "./support/holdings.ts";
import { RuleTools } from "./support/rule-tools.ts";

/** What the kubelet would put into an Event. */
export interface Failure {
  readonly code: string;
  readonly message: string;
  readonly ms: number;
}

/** For how long a failed recording answers those who ask again. */
const RECORDED_AGAIN_AFTER_MS = 5_000;

let node: CriNode;
let tools: RuleTools;

export async function start(): Promise<void> {
  node = await CriNode.start({
    agentEnv: { AGENT_WAIT_SECONDS: "4", ZTUNNEL_WAIT_SECONDS: "2", RECONCILE_INTERVAL_SECONDS: "1" },
  });
  tools = await RuleTools.install(node.node.scratch);
  await node.startMesh();
}

/** Runs a pod that must not start. Names of pod and sandbox are taken out of the message. */
async function failing(spec: PodSpec, options: RunOptions = {}): Promise<Failure> {
  const began = performance.now();
  const error: unknown = await node.runPod(spec, options).then(
    () => assert.fail(`${spec.name} has started`),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof CriError, String(error));
  const message = error.message.replaceAll(spec.name, "POD").replace(/[0-9a-f]{64}/g, "SANDBOX");
  return { code: error.code, message, ms: performance.now() - began };
}

/** DELs that the plugins before ours got, by the sandbox; the first of a sandbox names its namespace. */
async function dels(): Promise<string[]> {
  const lines = (await readFile(node.chains.callLog, "utf8")).split("\n");
  return lines.filter((line) => line.startsWith("DEL "));
}

/** Lets the cause pass, sees that nothing is left of the failure, and that the pod starts when it is tried again. */
async function secondTry(spec: PodSpec): Promise<void> {
  await waitForNothing(node);
  const pod = await node.runPod(spec);
  await claimCaptured({ netns: pod.netns, spec });
  assert.deepEqual((await holdingsOf(node)).ztunnelPods, [spec.uid]);
  await node.deletePod(pod);
  await waitForNothing(node);
}

/** A pod whose rules nobody had before: their bytes are recorded with the program when it comes. */
function createPodOfItsOwnRules(): PodSpec {
  return node.createPod(meshNamespace, {
    annotations: { "istio.io/reroute-virtual-interfaces": `tap${performance.now().toFixed(0)}` },
  });
}

/** Fails an ADD, looks for containerd's DEL, then has a second try. */
async function failAndTryAgain(cause: {
  begin(): Promise<unknown>;
  end(): Promise<unknown>;
  options?: RunOptions;
  spec?: PodSpec;
}): Promise<Failure> {
  const before = (await dels()).length;
  await cause.begin();
  const spec = cause.spec ?? node.createPod(meshNamespace);
  const failure = await failing(spec, cause.options);
  // a caller that gives up has its answer before containerd has cleared up
  const sent = async (): Promise<string | undefined> => (await dels())[before];
  const first = await waitFor("containerd to send a DEL through the chain", sent);
  assert.match(first, /^DEL [0-9a-f]{64} \/var\/run\/netns\/cni-/);
  await cause.end();
  await secondTry(spec);
  return failure;
}

/** The kernel refuses a rule when the agent has its bytes recorded. What failed is tried again only after a while. */
export async function rulesRefused(): Promise<Failure> {
  return failAndTryAgain({
    begin: () => tools.set("fail"),
    end: async () => {
      await tools.set("work");
      await delay(RECORDED_AGAIN_AFTER_MS);
    },
    spec: createPodOfItsOwnRules(),
  });
}

/** The same for a pod whose sidecar waits for rules that nobody had before. @returns also its rules after the second try */
export async function sidecarRulesRefused(): Promise<Failure & { readonly rules: string }> {
  // a port by which these rules are its own
  const port = String(20_000 + (Math.floor(performance.now()) % 10_000));
  const injection = { annotations: { "traffic.sidecar.istio.io/excludeOutboundPorts": port } };
  await tools.set("fail");
  const spec = node.createPod(plainNamespace, injectedPod(injection));
  const failure = await failing(spec);
  await waitForNothing(node);
  await tools.set("work");
  await delay(RECORDED_AGAIN_AFTER_MS);
  const pod = await node.runPod(spec);
  const rules = (await iptablesSave(pod.netns, 4)).replaceAll(port, "PORT");
  await node.deletePod(pod);
  await waitForNothing(node);
  return { ...failure, rules };
}

/** ztunnel refuses the pod. */
export async function ztunnelRefuses(): Promise<Failure> {
  return failAndTryAgain({
    begin: () => node.ztunnel.setFaults("nack=failure to start proxy : address in use"),
    end: () => node.ztunnel.setFaults(),
  });
}

/** ztunnel takes the pod and never answers. */
export async function ztunnelSilent(): Promise<Failure> {
  return failAndTryAgain({
    begin: () => node.ztunnel.setFaults("never-ack"),
    end: () => ztunnelAnswers(),
  });
}

/** The kubelet gives up before anybody else does; containerd then kills the plugin. */
export async function kubeletGivesUp(): Promise<Failure> {
  return failAndTryAgain({
    begin: () => node.ztunnel.setFaults("ack-delay=4000"),
    end: () => node.ztunnel.setFaults(),
    options: { timeoutMs: 1500 },
  });
}

/** There is no ztunnel. */
export async function ztunnelAway(): Promise<Failure> {
  return failAndTryAgain({
    begin: () => node.ztunnel.stop(),
    end: async () => {
      await node.startZtunnel();
      await node.ztunnel.waitForReady();
    },
  });
}

/** The API server cannot be asked about a pod that is not known yet. */
export async function apiAway(): Promise<Failure> {
  return failAndTryAgain({
    begin: () => node.api.refuse(),
    end: () => node.api.listenAgain(),
  });
}

/** ztunnel is itself again, on a new connection: the one it kept silent on may still be waited for. */
async function ztunnelAnswers(): Promise<void> {
  const seen = node.ztunnel.events.length;
  await node.ztunnel.setFaults();
  await node.ztunnel.command({ do: "reconnect" });
  await node.ztunnel.waitFor(({ kind }) => kind === "snapshot-sent", 20_000, seen);
}

/**
 * A second ztunnel connects, as in an upgrade, after the DEL of a pod whose ADD still waits for the first one's answer: the
 * namespace that is being torn down must not be handed out once more.
 * @returns how often the second one was told of the pod
 */
export async function ztunnelConnectsAfterDel(): Promise<number> {
  const before = (await dels()).length;
  const first = node.ztunnel;
  await first.setFaults("ack-delay=4000");
  const spec = node.createPod(meshNamespace);
  await failing(spec, { timeoutMs: 1500 });
  await waitFor("containerd's DEL", async () => (await dels())[before]);
  const second = await node.startZtunnel();
  await second.waitFor(({ kind }) => kind === "snapshot-sent");
  const told = second.messages.filter(({ uid, kind }) => uid === spec.uid && kind !== "del");
  await first.stop();
  await secondTry(spec);
  return told.length;
}

/** The loopback plugin, which runs beside the chain, has not come to its end when our plugin is called. */
export async function slowLoopback(): Promise<void> {
  const spec = node.createPod(meshNamespace);
  await writeFile(node.chains.loopbackDelay, "0.7");
  try {
    const pod = await node.runPod(spec);
    await claimCaptured({ netns: pod.netns, spec });
    await node.deletePod(pod);
  } finally {
    await writeFile(node.chains.loopbackDelay, "0");
    await waitForNothing(node);
  }
}

/** Where an agent is killed. */
export type KillPoint = "rules" | "ack";

/** Starts an ADD and kills the agent in the middle of it. */
async function killIn(point: KillPoint, adding: () => Promise<unknown>): Promise<void> {
  const seen = node.ztunnel.messages.length;
  if (point === "rules") await tools.set("hang");
  else await node.ztunnel.setFaults("ack-delay=3000");
  // its end is the caller's business
  void adding().catch(() => {});
  await waitFor(`the ADD to be at "${point}"`, async () =>
    point === "rules" ? restoring() : node.ztunnel.messages.slice(seen).some(({ kind }) => kind === "add"),
  );
  await node.agent.kill();
  await tools.set("work");
  await node.ztunnel.setFaults();
}

/** Whether a program of ours that writes rules is under way. */
async function restoring(): Promise<boolean> {
  const calls = await readFile(`/proc/${node.agent.pid}/task/${node.agent.pid}/children`, "utf8");
  return calls.trim() !== "";
}

/** The agent dies and stays away: the ADD fails, its DEL succeeds, and the next agent puts everything in order. */
export async function killedAndAway(point: KillPoint): Promise<Failure> {
  const spec = point === "rules" ? createPodOfItsOwnRules() : node.createPod(meshNamespace);
  let failure: Promise<Failure> | undefined;
  await killIn(point, () => {
    failure = failing(spec);
    return failure;
  });
  const result = await (failure as Promise<Failure>);
  // ztunnel cannot be told before there is an agent
  await waitFor("the runtime to have cleared up", async () => {
    const { netnsFiles, leases, links, sandboxes } = await holdingsOf(node);
    return [netnsFiles, leases, links, sandboxes].every((list) => list.length === 0);
  });
  await node.startAgent();
  await node.agent.waitReady();
  await node.ztunnel.waitForReady(20_000);
  await secondTry(spec);
  return result;
}

/** The agent dies and comes back while the launcher waits: the same ADD succeeds. */
export async function killedAndBack(point: KillPoint): Promise<void> {
  const spec = point === "rules" ? createPodOfItsOwnRules() : node.createPod(meshNamespace);
  let running: ReturnType<CriNode["runPod"]> | undefined;
  await killIn(point, () => {
    running = node.runPod(spec);
    return running;
  });
  await node.startAgent();
  const pod = await (running as ReturnType<CriNode["runPod"]>);
  await claimCaptured({ netns: pod.netns, spec });
  await node.deletePod(pod);
  await node.agent.waitReady();
  await waitForNothing(node);
}

/** Puts everything back for the next test. */
export async function reset(): Promise<void> {
  await tools.set("work");
  if (!node.agent.running) await node.startAgent();
  await node.agent.waitReady();
  // a stand-in that met a broken rule has ended
  await node.ztunnel.stop();
  await node.startZtunnel();
  await node.ztunnel.waitForReady(20_000);
}

/** The last lines of the node's processes, for a failure that needs them. */
export function logs(): string {
  const lines = [node?.agent, node?.containerd.process].flatMap((each) => each?.lines.slice(-15) ?? []);
  return lines.map(({ text }) => text.slice(0, 500)).join("\n");
}
