// SPDX-License-Identifier: Apache-2.0
// What verified.test.ts does inside a node: captured pods are hurt while nothing happens that could make anybody look at them.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { claimCaptured } from "../support/node/capture-state.ts";
import { iptablesSave } from "../support/node/kernel.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { ruleGeneration } from "../support/node/rule-generation.ts";
import { waitFor } from "../support/node/wait-for.ts";
import type { StandIn } from "../support/ztunnel/stand-in.ts";
import { startFleet } from "./verified-fleet.ts";

const mesh = await MeshNode.start({
  agentEnv: { RECONCILE_INTERVAL_SECONDS: "1", KERNEL_NOTICES: "false", LOG_LEVEL: "debug" },
});
mesh.kubelet.createNamespace("mesh", { "istio.io/dataplane-mode": "ambient" });
mesh.kubelet.createNamespace("fleet");
await mesh.startAgent();
// a ztunnel that would try again by itself, but not while we look
await mesh.startZtunnel({ retryMs: 600_000 });
const hurt = await mesh.kubelet.runPod({ namespace: "mesh", name: "hurt" });
const bystander = await mesh.kubelet.runPod({ namespace: "mesh", name: "bystander" });
await settledAnnotations();

async function settledAnnotations(): Promise<void> {
  const enabled = (pod: Pod): boolean =>
    mesh.kubelet.annotation(pod, "ambient.istio.io/redirection") === "enabled";
  await waitFor("the annotations", () => enabled(hurt) && enabled(bystander));
}

/** Drift by name: what is done to the pod. */
export const drifts = {
  "a rule of IPv4 is gone": ["iptables", "-t", "nat", "-D", "ISTIO_OUTPUT", "1"],
  "all rules of IPv4 are gone": ["iptables", "-t", "nat", "-F"],
  "a rule of IPv6 is gone": ["ip6tables", "-t", "mangle", "-F", "ISTIO_OUTPUT"],
  "nothing enters a chain": ["ip6tables", "-t", "nat", "-D", "OUTPUT", "-j", "ISTIO_OUTPUT"],
  "somebody's rule comes first": ["iptables", "-t", "nat", "-I", "ISTIO_OUTPUT", "-j", "ACCEPT"],
  "everything is gone": ["nft", "flush", "ruleset"],
  "the ip rule of IPv4 is gone": ["ip", "-4", "rule", "del", "pref", "32764"],
  "the ip rule of IPv6 is gone": ["ip", "-6", "rule", "del", "pref", "32764"],
  "the route of IPv4 is gone": ["ip", "-4", "route", "flush", "table", "100"],
  "the route of IPv6 is gone": ["ip", "-6", "route", "flush", "table", "100"],
} as const;

/** What the agent made of a drift. */
export interface RepairSeen {
  readonly ms: number;
  /** Kinds of drift in its log. */
  readonly kinds: readonly string[];
  /** Rule transactions in the pod that nobody touched. */
  readonly bystanderWrites: number;
  /** What the API's watches told the agent meanwhile, and what ztunnel was told. */
  readonly apiWrites: number;
  readonly messages: number;
}

/** Hurts the pod and waits until it is captured again. */
export async function repair(name: keyof typeof drifts): Promise<RepairSeen> {
  await claimCaptured(hurt);
  const before = await ruleGeneration(bystander.netns);
  const version = mesh.api.store.version;
  const messages = mesh.ztunnel.messages.length;
  const logged = mesh.agent.lines.length;
  const startMs = performance.now();
  await hurt.exec(drifts[name]);
  const repairs = (): readonly { readonly kind: string }[] =>
    mesh.agent.lines
      .slice(logged)
      .flatMap(({ json }) => (json?.msg === "repaired the redirection of a pod" ? [json] : []))
      .flatMap((json) => json.drift as { kind: string }[]);
  await waitFor("a repair", () => repairs().length > 0, { timeoutMs: 4000 });
  const ms = performance.now() - startMs;
  await claimCaptured(hurt);
  return {
    ms,
    kinds: [...new Set(repairs().map(({ kind }) => kind))].sort(),
    bystanderWrites: (await ruleGeneration(bystander.netns)) - before,
    // Events about the repair are no reason for the agent to look
    apiWrites: mesh.api.store.since("pods", version)?.length ?? -1,
    messages: mesh.ztunnel.messages.length - messages,
  };
}

async function untilServed(ztunnel: StandIn, uid: string): Promise<void> {
  const serves = async (): Promise<boolean> => (await ztunnel.stats()).workloads[uid] !== undefined;
  await waitFor(`ztunnel to have ${uid}`, serves, { timeoutMs: 4000, intervalMs: 20 });
}

/** A ztunnel that could not start a pod of its snapshot gets it again. @returns kinds of messages after the snapshot */
export async function refusedInSnapshot(): Promise<string[]> {
  await mesh.ztunnel.kill();
  const faults = ["nack=failure to start proxy : address in use,1"];
  await mesh.startZtunnel({ retryMs: 600_000, faults });
  await mesh.ztunnel.waitFor((event) => event.event === "response" && event.to === "snapshot-sent", 10_000);
  const refused = mesh.ztunnel.events.filter((event) => event.event === "response" && event.ok === false);
  assert.equal(refused.length, 1, "one pod of the snapshot is refused");
  await Promise.all([hurt, bystander].map((pod) => untilServed(mesh.ztunnel, pod.uid)));
  await mesh.ztunnel.waitForReady();
  await claimCaptured(hurt);
  await claimCaptured(bystander);
  const kinds = mesh.ztunnel.messages.map((message) => String(message.kind));
  return kinds.slice(kinds.indexOf("snapshot-sent") + 1);
}

/** What only the newer of two ztunnels was told is handed to the older one when the newer one dies. */
export async function newerZtunnelDies(): Promise<void> {
  const older = mesh.ztunnel;
  const newer = await mesh.startZtunnel();
  await newer.waitForReady();
  const pod = await mesh.kubelet.runPod({ namespace: "mesh", name: "late" });
  assert.equal((await older.stats()).workloads[pod.uid], undefined, "the older ztunnel has heard of the pod");
  await newer.kill();
  await untilServed(older, pod.uid);
  await claimCaptured(pod);
  await mesh.kubelet.deletePod(pod);
  const forgot = async (): Promise<boolean> => (await older.stats()).workloads[pod.uid] === undefined;
  await waitFor("the older ztunnel to have dropped the pod", forgot);
}

/** What looking at pods again and again costs, all of them being right. */
export interface CheckCosts {
  readonly checks: number;
  readonly cpuMsPerCheck: number;
  /** What it costs here and now to have the programs print a pod's rules of both families once. */
  readonly cpuMsOfPrograms: number;
  readonly ruleWrites: number;
  readonly annotationWrites: number;
}

/** A process' time with that of the programs it has run. Source: proc_pid_stat(5), fields 14 to 17 in ticks of 10 ms. */
function cpuMs(pid: number | "self" = mesh.agent.pid): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks) * 10, 0);
}

/** The processor time of a look with the programs, ours for starting them included. */
async function programCosts(pods: readonly { readonly netns: string }[]): Promise<number> {
  const before = cpuMs("self");
  for (const { netns } of pods)
    for (const family of [4, 6] as const) await iptablesSave(netns, family, { variant: "nft" });
  return (cpuMs("self") - before) / pods.length;
}

/** Counts the periodic checks of a full node and the agent's processor time for them, its log included. */
export async function checkCosts(options: { pods: number; checks: number }): Promise<CheckCosts> {
  const pods = await startFleet(mesh, "fleet", options.pods);
  mesh.kubelet.labelNamespace("fleet", { "istio.io/dataplane-mode": "ambient" });
  const patches = (): number => mesh.api.requestsOf("patch", "pods").length;
  const enabled = (): boolean =>
    pods.every(({ name }) => {
      const { metadata } = mesh.api.store.get("pods", name, "fleet");
      return metadata.annotations?.["ambient.istio.io/redirection"] === "enabled";
    });
  await waitFor("every pod to be captured", enabled, { timeoutMs: 20_000, intervalMs: 50 });
  const looks = (): number => mesh.agent.lines.filter(({ json }) => json?.msg === "looked at a pod").length;
  // the runs that the annotations caused are over when only timers are left
  const first = looks();
  await waitFor("a first round", () => looks() > first + 2 * pods.length, {
    timeoutMs: 20_000,
    intervalMs: 50,
  });
  const generations = await Promise.all(pods.map(({ netns }) => ruleGeneration(netns)));
  const before = { looks: looks(), patches: patches(), cpuMs: cpuMs() };
  await waitFor("the checks", () => looks() >= before.looks + options.checks, {
    timeoutMs: 30_000,
    intervalMs: 50,
  });
  const checks = looks() - before.looks;
  const usedMs = cpuMs() - before.cpuMs;
  const after = await Promise.all(pods.map(({ netns }) => ruleGeneration(netns)));
  return {
    checks,
    cpuMsPerCheck: usedMs / checks,
    cpuMsOfPrograms: await programCosts(pods),
    ruleWrites: after.reduce((sum, each, index) => sum + each - (generations[index] ?? 0), 0),
    annotationWrites: patches() - before.patches,
  };
}
