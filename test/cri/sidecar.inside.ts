// SPDX-License-Identifier: Apache-2.0
// What sidecar.test.ts does inside a node: injected pods of a real containerd, with and without those who write their rules.
import assert from "node:assert/strict";
import { rm, stat, writeFile } from "node:fs/promises";
import { claimUntouched } from "../support/node/capture-state.ts";
import { inNetns, iptablesSave, netnsUsers } from "../support/node/kernel.ts";
import { ruleGeneration } from "../support/node/rule-generation.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { bareHandler } from "./support/chain.ts";
import { appPort, appUrl, CriNode, type CriPod, type PodSpec, plainNamespace } from "./support/cri-node.ts";
import { waitForNothing } from "./support/holdings.ts";
import { type Attempt, runUntilItRuns } from "./support/impatient-kubelet.ts";
import { type SidecarPod, SidecarPods } from "./support/sidecar-pods.ts";

/** Namespace whose pods are injected, and that is in no ambient mesh. */
const injectedNamespace = "shop";
const failedCheck = /^Error: istio-validation of pod-\d+ ended with 126$/;
const actedPatience = { timeoutMs: 15_000, intervalMs: 20 };

let node: CriNode;
let pods: SidecarPods;
/** A pod that belongs to no mesh, and its application's container. */
let peer: CriPod;
let peerApp: string;

export async function start(): Promise<void> {
  node = await CriNode.start({
    agentEnv: { AGENT_WAIT_SECONDS: "1", ZTUNNEL_WAIT_SECONDS: "2", RECONCILE_INTERVAL_SECONDS: "1" },
  });
  const labels = { "istio-injection": "enabled" };
  node.api.put("namespaces", { metadata: { name: injectedNamespace, labels }, status: { phase: "Active" } });
  pods = await SidecarPods.on(node);
  await node.startMesh();
  peer = await node.runPod(node.createPod(plainNamespace));
  peerApp = await node.startApp(peer);
  await waitFor("the peer's server", async () => (await fetch(appUrl(peer))).ok);
}

/** What a pod's traffic met. */
export interface Traffic {
  /** Exit codes of the init container. */
  readonly exitCodes: readonly number[];
  /** Pages that the pod's application and the peer fetched from each other. */
  readonly pages: readonly string[];
  /** What the proxy was led to, by whom it was for. */
  readonly led: Readonly<Record<string, number>>;
}

/** A pod and one outside fetch a page from each other. @param pod is deleted in the end */
async function talk(pod: SidecarPod): Promise<Traffic> {
  const before = (await pods.ledToProxy(pod)).length;
  const fetchPage = (container: string, from: CriPod) =>
    node.cri.execSync(container, ["wget", "-q", "-O", "-", appUrl(from)]);
  const fetched = [await fetchPage(pod.app, peer), await fetchPage(peerApp, pod)];
  // the runtime writes down what a container printed a moment later
  const led = async () => (await pods.ledToProxy(pod)).slice(before);
  await waitFor("the proxy's log", async () => (await led()).length >= fetched.length).catch(() => {});
  const ways = new Map([
    [`outbound ${peer.ips[0]}:${appPort}`, "outbound to the peer"],
    [`inbound ${pod.ips[0]}:${appPort}`, "inbound to the pod"],
  ]);
  const byName = Map.groupBy(await led(), (line) => ways.get(line) ?? line);
  const counts = Object.fromEntries([...byName].map(([name, lines]) => [name, lines.length]));
  const names = new Map([
    [peer.spec.name, "PEER"],
    [pod.spec.name, "POD"],
  ]);
  const pages = fetched.map((page) => names.get(page.trim()) ?? page);
  await node.deletePod(pod);
  return { exitCodes: pod.exitCodes, pages, led: counts };
}

/** The agent and its API server are there. */
export async function starts(): Promise<Traffic> {
  return await talk(await pods.run(pods.create(injectedNamespace)));
}

/** A pod of both families whose loopback device comes up late: the runtime runs its plugin beside the chain. */
export async function withSlowLoopback(): Promise<Traffic> {
  await writeFile(node.chains.loopbackDelay, "1");
  const pod = await node
    .runPod(pods.create(injectedNamespace, { env: { ISTIO_DUAL_STACK: "true" } }), { phase: "Pending" })
    .finally(() => writeFile(node.chains.loopbackDelay, "0"));
  return await talk(await pods.start(pod, { maxAttempts: 1 }));
}

/** The same with another agent. @returns also in whose tables of iptables the rules stand */
export async function startsWith(
  env: Readonly<Record<string, string>>,
): Promise<Traffic & { readonly variants: readonly string[] }> {
  await replaceAgent(env);
  const pod = await pods.run(pods.create(injectedNamespace));
  const variants: string[] = [];
  for (const variant of ["nft", "legacy"] as const)
    if ((await iptablesSave(pod.netns, 4, { variant })).includes("-A ISTIO_OUTPUT ")) variants.push(variant);
  return { ...(await talk(pod)), variants };
}

async function replaceAgent(env: Readonly<Record<string, string>>): Promise<void> {
  await node.agent.stop();
  await node.startAgent(env);
  await node.agent.waitReady();
}

/** What became of a pod that came while somebody was away. */
export interface Held {
  /** RunPodSandbox until somebody was back. */
  readonly refusals: readonly Attempt[];
  /** Rules in both families when its sandbox ran at last, before its first container. */
  readonly rules: number;
  readonly traffic: Traffic;
}

/** A pod comes while the agent is away over a boot, and the agent comes back. */
export function withoutAgent(): Promise<Held> {
  return held({
    begin: async () => {
      await node.agent.kill();
      // what a boot takes away
      await rm("/var/run/istio-cni", { recursive: true, force: true });
    },
    end: async () => {
      await node.startAgent();
    },
  });
}

/** A pod comes while the API server cannot be asked, and it comes back. */
export function withoutApi(): Promise<Held> {
  return held({ begin: () => node.api.refuse(), end: () => node.api.listenAgain() });
}

async function held(absence: { begin(): Promise<void>; end(): Promise<void> }): Promise<Held> {
  await absence.begin();
  const spec = pods.create(injectedNamespace);
  const attempts: Attempt[] = [];
  const running = runUntilItRuns(node, spec, { attempts, phase: "Pending" });
  await waitFor("some tries", () => attempts.length >= 3, actedPatience);
  const refusals = attempts.filter(({ error }) => error !== undefined);
  assert.equal(refusals.length, attempts.length, "the pod has started");
  await absence.end();
  const pod = await running;
  const rules = (await rulesOf(pod)).match(/^-A /gm)?.length ?? 0;
  const traffic = await talk(await pods.start(pod, { maxAttempts: 1 }));
  await node.agent.waitReady();
  return { refusals, rules, traffic };
}

/** What a repair did about a pod whose sandbox was made while nobody wrote its rules. */
export interface Repaired {
  /** REASON of each Event on the pod. */
  readonly events: readonly string[];
  /** Lines of the repair's counter that are not 0. */
  readonly counted: readonly string[];
}

/** The agent is replaced by one that repairs so, and a pod starts whose chain had no entry of ours. */
async function startUnplugged(setting: string): Promise<CriPod> {
  await replaceAgent({ REPAIR_ENABLED: "true", [setting]: "true" });
  const spec = pods.create(injectedNamespace, { ownerUid: crypto.randomUUID() });
  const pod = await node.runPod(spec, { handler: bareHandler, phase: "Pending" });
  await claimUntouched(pod);
  return pod;
}

async function outcomeOf(pod: CriPod): Promise<Repaired> {
  const eventsOf = (): string[] =>
    node.api.store
      .list("events")
      .filter(({ involvedObject }) => (involvedObject as { uid: string }).uid === pod.spec.uid)
      .map(({ reason }) => String(reason));
  await waitFor("an Event on the pod", () => eventsOf().length > 0, actedPatience);
  const lines = (await node.agent.metrics()).split("\n");
  const counted = lines.filter((line) => /^istio_cni_repair_pods_repaired_total\{.*[1-9]\d*$/.test(line));
  return { events: eventsOf(), counted };
}

/** Rules are written while the pod runs. */
export async function repairedInPlace(): Promise<Repaired & { readonly traffic: Traffic }> {
  const pod = await startUnplugged("REPAIR_REPAIR_PODS");
  const healed = await pods.start(pod, { maxAttempts: 3 });
  const outcome = await outcomeOf(pod);
  return { ...outcome, traffic: await talk(healed) };
}

/** The same for a pod whose rules somebody broke after its ADD, on a node that is looked at seldom. */
export async function brokenIsRepaired(): Promise<Repaired & { readonly traffic: Traffic }> {
  const seldom = { RECONCILE_INTERVAL_SECONDS: "300" };
  await replaceAgent({ ...seldom, REPAIR_ENABLED: "true", REPAIR_REPAIR_PODS: "true" });
  const pod = await node.runPod(pods.create(injectedNamespace), { phase: "Pending" });
  for (const chain of ["ISTIO_OUTPUT", "ISTIO_IN_REDIRECT"])
    await inNetns(pod.netns, ["iptables-nft", "-t", "nat", "-F", chain]);
  const healed = await pods.start(pod, { maxAttempts: 3 });
  const outcome = await outcomeOf(pod);
  return { ...outcome, traffic: await talk(healed) };
}

/** The pod is deleted, and its owner makes another one. */
export async function repairedByDeletion(): Promise<
  Repaired & {
    /** Of each deletion that the API server was asked for, and what the pod was then. */
    readonly preconditions: readonly unknown[];
    readonly identity: unknown;
    readonly successor: Traffic;
  }
> {
  const pod = await startUnplugged("REPAIR_DELETE_PODS");
  await assert.rejects(pods.start(pod, { maxAttempts: 1 }), failedCheck);
  const { uid, resourceVersion } = metadataOf(pod.spec);
  await waitFor("the deletion", () => metadataOf(pod.spec).deletionTimestamp, actedPatience);
  const outcome = await outcomeOf(pod);
  const requests = node.api.requestsOf("delete", "pods").filter(({ name }) => name === pod.spec.name);
  await node.deletePod(pod);
  const successor = await talk(await pods.run(pods.create(injectedNamespace)));
  const preconditions = requests.map(({ body }) => (body as { preconditions: unknown }).preconditions);
  return { ...outcome, preconditions, identity: { uid, resourceVersion }, successor };
}

/** The pod is labelled for others to see to it. */
export async function repairedByLabel(): Promise<
  Repaired & { readonly labels: unknown; readonly isLeaving: boolean }
> {
  const pod = await startUnplugged("REPAIR_LABEL_PODS");
  await assert.rejects(pods.start(pod, { maxAttempts: 1 }), failedCheck);
  const labelsOf = () => metadataOf(pod.spec).labels ?? {};
  await waitFor("the label", () => Object.keys(labelsOf()).length > 0, actedPatience);
  const outcome = await outcomeOf(pod);
  await claimUntouched(pod);
  const isLeaving = metadataOf(pod.spec).deletionTimestamp !== undefined;
  const labels = labelsOf();
  await node.deletePod(pod);
  return { ...outcome, labels, isLeaving };
}

function metadataOf({ name, namespace }: PodSpec) {
  return node.api.store.get("pods", name, namespace).metadata;
}

/**
 * A pod whose own init container writes its rules: nothing is there after its ADD, and what it writes, in chains of the same names, nobody
 * changes while the agent mends those of a pod beside it.
 */
export async function withInit(): Promise<{ readonly changes: number; readonly looks: number }> {
  const own = await node.runPod(pods.create(injectedNamespace, { hasInit: true }));
  await claimUntouched(own);
  for (const rule of [
    ["-N", "ISTIO_OUTPUT"],
    ["-A", "OUTPUT", "-p", "tcp", "-j", "ISTIO_OUTPUT"],
  ])
    await inNetns(own.netns, ["iptables-nft", "-t", "nat", ...rule]);
  const before = await ruleGeneration(own.netns);
  const beside = await node.runPod(pods.create(injectedNamespace));
  const right = await rulesOf(beside);
  let looks = 0;
  for (; looks < 2; looks += 1) {
    await inNetns(beside.netns, ["iptables-nft", "-t", "nat", "-F", "ISTIO_OUTPUT"]);
    await waitFor("the next look", async () => (await rulesOf(beside)) === right, actedPatience);
  }
  const changes = (await ruleGeneration(own.netns)) - before;
  for (const pod of [own, beside]) await node.deletePod(pod);
  return { changes, looks };
}

/**
 * The sandbox of a pod dies, the kubelet makes another one and then takes the old one away, and after a restart of the agent somebody
 * empties a chain in the new one.
 */
export async function sandboxDies(): Promise<Traffic> {
  const spec = pods.create(injectedNamespace);
  const former = await node.runPod(spec, { phase: "Pending" });
  const { ino } = await stat(former.netns);
  // an agent that looks into it has only a descriptor
  for (const pid of await netnsUsers(ino))
    if ((await stat(`/proc/${pid}/ns/net`)).ino === ino) process.kill(pid, "SIGKILL");
  const pod = await node.runPod(spec, { phase: "Pending", attempt: 1 });
  const right = await rulesOf(pod);
  await node.cri.stopPodSandbox(former.id);
  await node.cri.removePodSandbox(former.id);
  await replaceAgent({});
  await inNetns(pod.netns, ["iptables-nft", "-t", "nat", "-F", "ISTIO_REDIRECT"]);
  await waitFor("the next look", async () => (await rulesOf(pod)) === right, actedPatience);
  return await talk(await pods.start(pod, { maxAttempts: 1 }));
}

/** Nothing is left but the peer. */
export async function end(): Promise<void> {
  await node.deletePod(peer);
  await waitForNothing(node);
}

async function rulesOf({ netns }: CriPod): Promise<string> {
  return (await iptablesSave(netns, 4)) + (await iptablesSave(netns, 6));
}

/** The last lines of the node's processes, for a failure that needs them. */
export function logs(): string {
  const lines = [node?.agent, node?.containerd.process].flatMap((each) => each?.lines.slice(-15) ?? []);
  return lines.map(({ text }) => text.slice(0, 500)).join("\n");
}
