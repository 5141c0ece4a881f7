// SPDX-License-Identifier: Apache-2.0
// What probes.cluster.ts does inside a node: Deployments with every kind of probe in an ambient namespace, a stand-in
// ztunnel that refuses all inbound traffic, and somebody who flushes the host's rules and sets.
import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { connect } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { AgentProcess } from "../../support/node/agent-process.ts";
import { claimCaptured } from "../../support/node/capture-state.ts";
import { requireNode } from "../../support/node/inside.ts";
import { inNetns } from "../../support/node/kernel.ts";
import { run } from "../../support/node/run.ts";
import { waitFor } from "../../support/node/wait-for.ts";
import { StandIn } from "../../support/ztunnel/stand-in.ts";
import type { StandInStats } from "../../support/ztunnel/ztunnel-process.ts";
import { agentKubeconfig } from "../support/agent-role.ts";
import type { KubeJson } from "../support/kube-admin.ts";
import { KubeNode, nodeName } from "../support/kube-node.ts";
import {
  appPort,
  createDeployment,
  deploymentPath,
  lastLines,
  meshNamespace,
  netnsOf,
  patience,
  runningPods,
  serve,
  workload,
} from "../support/workloads.ts";

const node = requireNode();
const probeAddress = "169.254.7.127";
const inboundPort = 15006;
const closedPort = 9999;
const steadyMs = 60_000;
const sets = ["istio-inpod-probes-v4", "istio-inpod-probes-v6"] as const;
/** What the chain and the jump have to be, by the tool that prints them. Source: istio/istio cni/pkg/iptables. */
const rulesOf = {
  "iptables-save": `-A ISTIO_POSTRT -p tcp -m owner --socket-exists -m set --match-set ${sets[0]} dst -j SNAT --to-source ${probeAddress}`,
  "ip6tables-save": `-A ISTIO_POSTRT -p tcp -m owner --socket-exists -m set --match-set ${sets[1]} dst -j SNAT --to-source fd16:9254:7127:1337:ffff:ffff:ffff:ffff`,
} as const;

/** Deployments that must be ready. */
const probed = ["http", "tcp", "exec"] as const;
/** Ready only if something else than the application accepts its probe: its port is closed. */
const closed = "closed";

let kube: KubeNode;
let agent: AgentProcess;
let ztunnel: StandIn;
let kubeconfig = "";

/** Starts everything; returns what it took. */
export async function start(binDir: string): Promise<Record<string, number>> {
  const began = performance.now();
  kube = await KubeNode.start(node, binDir);
  const nodeMs = performance.now() - began;
  kubeconfig = await agentKubeconfig(kube);
  await startAgent();
  ztunnel = await StandIn.start({
    socket: "/var/run/ztunnel/ztunnel.sock",
    depth: "sockets",
    refuseInbound: true,
    maxBackoffMs: 200,
  });
  await ztunnel.waitForReady(20_000);
  const labels = { "istio.io/dataplane-mode": "ambient" };
  await kube.admin.create("/api/v1/namespaces", { metadata: { name: meshNamespace, labels } });
  return { "node ready": Math.round(nodeMs), "mesh ready": Math.round(performance.now() - began) };
}

async function startAgent(): Promise<void> {
  agent = await AgentProcess.start({ nodeName, kubeconfig });
  await agent.waitReady();
}

/** What a failure needs: the last lines of every part, the host's rules and sets, what the kubelet said about probes. */
export async function logs(): Promise<string> {
  const { stdout: rules } = await run(["iptables-save", "-t", "nat"], { mayFail: true });
  const { stdout: members } = await run(["ipset", "save"], { mayFail: true });
  const failures = await failedProbes().catch(() => []);
  const parts = [agent, kube?.daemon("kubelet"), kube?.daemon("containerd")];
  return [lastLines(parts), "--- nat", rules, "--- sets", members, "--- failed probes", ...failures].join(
    "\n",
  );
}

/**
 * A flush may last 5 s, so up to two probes in a row meet it. The kubelet's defaults (10 s, 3 failures) allow far more;
 * these give a node that fails the test within 9 s.
 */
const often = { initialDelaySeconds: 1, periodSeconds: 3, timeoutSeconds: 5, failureThreshold: 3 };

function probes(kind: object): object {
  return { readinessProbe: { ...kind, ...often }, livenessProbe: { ...kind, ...often } };
}

const templates: Readonly<Record<(typeof probed)[number] | typeof closed, object>> = {
  http: workload("http", serve, probes({ httpGet: { path: "/", port: appPort } })),
  tcp: workload("tcp", serve, probes({ tcpSocket: { port: appPort } })),
  exec: workload(
    "exec",
    serve,
    probes({ exec: { command: ["wget", "-q", "-O", "-", `http://127.0.0.1:${appPort}/`] } }),
  ),
  closed: workload(closed, serve, { readinessProbe: { tcpSocket: { port: closedPort }, ...often } }),
};

/** The one pod of a Deployment. */
async function podOf(name: string): Promise<KubeJson> {
  return (await runningPods(kube.admin, name, 1))[0] as KubeJson;
}

const isReady = (pod: KubeJson): boolean => pod.status.containerStatuses[0].ready;
const restartsOf = (pod: KubeJson): number => pod.status.containerStatuses[0].restartCount;

/** All four kinds, enrolled; the three with an open door become ready. */
export async function becomeReady(): Promise<{ readyMs: number }> {
  const began = performance.now();
  for (const [name, template] of Object.entries(templates)) {
    await createDeployment(kube.admin, name, { replicas: 1, template });
  }
  await untilAvailable();
  const readyMs = Math.round(performance.now() - began);
  for (const name of [...probed, closed]) {
    const pod = await podOf(name);
    await claimCaptured({ netns: await netnsOf(pod.status.podIP), spec: { name } });
    assert.equal(restartsOf(pod), 0);
  }
  assert.deepEqual(await failedProbes(), []);
  return { readyMs };
}

async function untilAvailable(): Promise<void> {
  for (const name of probed) {
    await kube.admin.until(
      deploymentPath(name),
      ({ status }) => status.readyReplicas === 1 && status.availableReplicas === 1,
      patience.timeoutMs,
    );
  }
}

/**
 * A minute in which nothing may happen to a pod, although the host's rules and later its sets are flushed. While nobody
 * interferes, not one probe may fail and none may come near ztunnel.
 */
export async function stayReady(): Promise<{ probesPassed: number; rulesMs: number; setsMs: number }> {
  const before = await Promise.all(probed.map(podOf));
  await claimRefused();
  const began = performance.now();
  const seen = { samples: 0 };
  const end = new AbortController();
  const watching = watchReadiness(before, { seen, signal: end.signal });
  try {
    // a pod that is hurt ends the test at once
    const steadily = <T>(work: Promise<T>) => Promise.race([work, watching.then(() => work)]);
    const until = (ms: number) => steadily(delay(Math.max(0, began + ms - performance.now())));
    const quiet = await quietProbes(() => until(20_000));
    const flushRules = async () => {
      for (const tool of ["iptables", "ip6tables"]) await run([tool, "-t", "nat", "-F"]);
    };
    const rulesMs = await steadily(healed(flushRules));
    await until(35_000);
    const flushSets = async () => {
      for (const name of sets) await run(["ipset", "flush", name]);
    };
    const setsMs = await steadily(healed(flushSets));
    // the failures of the gap are told within a probe's period
    await until(45_000);
    const late = await quietProbes(() => until(steadyMs));
    end.abort();
    await watching;
    assert.ok(seen.samples > 60, `looked only ${seen.samples} times`);
    await claimRefused();
    await claimSteady(before);
    return { probesPassed: quiet + late, rulesMs, setsMs };
  } finally {
    end.abort();
    await watching.catch(() => {});
  }
}

/** Rejects as soon as a pod is not ready, or its container is another one. */
async function watchReadiness(
  before: readonly KubeJson[],
  options: { seen: { samples: number }; signal: AbortSignal },
): Promise<void> {
  const wanted = readinessOf(before);
  while (!options.signal.aborted) {
    const pods = await kube.admin.list(`/api/v1/namespaces/${meshNamespace}/pods`);
    const ofOurs = pods.filter(({ metadata }) =>
      before.some(({ metadata: { uid } }) => uid === metadata.uid),
    );
    assert.deepEqual(readinessOf(ofOurs), wanted);
    options.seen.samples++;
    await delay(400);
  }
}

/** Changes when a pod was not ready for a moment, also between two looks, and when a container was made anew. */
function readinessOf(pods: readonly KubeJson[]): Record<string, unknown> {
  return Object.fromEntries(
    pods.map((pod) => {
      const [{ containerID, restartCount, ready }] = pod.status.containerStatuses;
      const condition = pod.status.conditions.find(({ type }: { type: string }) => type === "Ready");
      const { status, lastTransitionTime } = condition;
      return [pod.metadata.name, { containerID, restartCount, ready, status, since: lastTransitionTime }];
    }),
  );
}

async function claimSteady(before: readonly KubeJson[]): Promise<void> {
  const after = await Promise.all(probed.map(podOf));
  assert.deepEqual(readinessOf(after), readinessOf(before));
  assert.deepEqual(after.map(restartsOf), [0, 0, 0]);
  for (const name of probed) {
    assert.equal((await kube.admin.get(deploymentPath(name))).status.availableReplicas, 1);
  }
  assert.equal(isReady(await podOf(closed)), false, "a probe of a closed port was answered");
}

/** Passes the time, and claims that no probe failed in it. @returns how many the host's rule let pass */
async function quietProbes(passTime: () => Promise<void>): Promise<number> {
  const [failedBefore, atZtunnel, answered] = await Promise.all([failedProbes(), inbound(), ruleMatches()]);
  await passTime();
  const failedAfter = await failedProbes();
  assert.deepEqual(failedAfter, failedBefore, "a probe failed although nobody interfered");
  assert.equal(await inbound(), atZtunnel, "probes came to ztunnel although nobody interfered");
  return (await ruleMatches()) - answered;
}

/** Connections that the host's rule has given the probes' address. */
async function ruleMatches(): Promise<number> {
  const { stdout } = await run(["iptables-save", "-c", "-t", "nat"]);
  return Number(/^\[(\d+):\d+\] -A ISTIO_POSTRT /m.exec(stdout)?.[1] ?? 0);
}

/** Inbound connections that ztunnel has met, of all pods. */
async function inbound(): Promise<number> {
  const { workloads } = await ztunnel.stats();
  return Object.values(workloads).reduce((sum, { ports }) => sum + (ports[inboundPort]?.connections ?? 0), 0);
}

/** What the kubelet said about probes of the pods that must be ready, with how often. */
async function failedProbes(): Promise<string[]> {
  const path = `/api/v1/namespaces/${meshNamespace}/events?fieldSelector=reason%3DUnhealthy`;
  return (await kube.admin.list(path))
    .filter(({ involvedObject }) => !involvedObject.name.startsWith(`${closed}-`))
    .map(({ involvedObject, message, count }) => `${involvedObject.name}: ${message} (${count})`)
    .sort();
}

/**
 * Does damage while the agent is stopped, for it may mend it between two looks; then waits until the kernel has
 * everything again. @returns how long that took
 */
async function healed(damage: () => Promise<void>): Promise<number> {
  const wanted = await hostState();
  assert.equal(wanted.faults.length, 0, wanted.faults.join("\n"));
  process.kill(agent.pid, "SIGSTOP");
  try {
    await damage();
    assert.notEqual((await differences(wanted)).length, 0, "the damage does not show");
  } finally {
    process.kill(agent.pid, "SIGCONT");
  }
  const began = performance.now();
  await waitFor(
    "the host to be healed",
    async () => {
      const left = await differences(wanted);
      if (left.length > 0) throw new Error(left.join("; "));
      return true;
    },
    { timeoutMs: 20_000, intervalMs: 50 },
  );
  return Math.round(performance.now() - began);
}

interface HostState {
  readonly faults: readonly string[];
  readonly members: readonly string[];
}

/** The host's side as the kernel has it. */
async function hostState(): Promise<HostState> {
  const faults: string[] = [];
  for (const [tool, rule] of Object.entries(rulesOf)) {
    const lines = (await run([tool, "-t", "nat"])).stdout.split("\n");
    const [first] = lines.filter((line) => line.startsWith("-A POSTROUTING"));
    if (first !== "-A POSTROUTING -j ISTIO_POSTRT") faults.push(`${tool}: the first rule is ${first}`);
    const chain = lines.filter((line) => line.startsWith("-A ISTIO_POSTRT"));
    if (chain.join("\n") !== rule) faults.push(`${tool}: the chain holds ${chain.join(", ") || "nothing"}`);
  }
  return { faults, members: await members() };
}

/** Entries of both sets, each with its comment. */
async function members(): Promise<string[]> {
  const { stdout } = await run(["ipset", "save"]);
  return stdout
    .split("\n")
    .filter((line) => sets.some((name) => line.startsWith(`add ${name} `)))
    .sort();
}

/** The addresses of a pod in the sets. */
async function memberAddresses(uid: string): Promise<string[]> {
  const ofPod = (await members()).filter((line) => line.endsWith(` comment "${uid}"`));
  return ofPod.map((line) => line.split(" ")[2] ?? "");
}

async function differences(wanted: HostState): Promise<string[]> {
  const now = await hostState();
  const lost = wanted.members.filter((line) => !now.members.includes(line));
  return [...now.faults, ...lost.map((line) => `lost: ${line}`)];
}

/** The ztunnel of this moment lets nothing in but what passes it: a pod's request to another pod is cut, the host's is answered. */
async function claimRefused(): Promise<void> {
  const [http, exec] = await Promise.all([podOf("http"), podOf("exec")]);
  const url = `http://${http.status.podIP}:${appPort}/`;
  const { code } = await inNetns(
    await netnsOf(exec.status.podIP),
    ["busybox", "wget", "-q", "-O", "-", url],
    true,
  );
  assert.notEqual(code, 0, "ztunnel let a request in");
  const addresses = await memberAddresses(http.metadata.uid);
  assert.equal(addresses.length, 2, "one of IPv4 and one of IPv6");
  for (const address of addresses) assert.equal(await hostRequest(address), "200", address);
}

/** A request of the host to a pod as the kubelet makes it. @returns the status it is answered with, or the error's code */
function hostRequest(ip: string): Promise<string> {
  return new Promise((resolve) => {
    let text = "";
    const socket = connect({ host: ip, port: appPort, timeout: 2_000 });
    socket.setEncoding("latin1");
    socket.on("connect", () => socket.write("GET / HTTP/1.0\r\n\r\n"));
    socket.on("data", (chunk: string) => {
      text += chunk;
    });
    socket.on("timeout", () => socket.destroy(new Error("timeout")));
    socket.on("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    socket.on("end", () => resolve(/^HTTP\/\S+ (\d+)/.exec(text)?.[1] ?? `nothing but "${text}"`));
  });
}

/**
 * The agent ends and somebody empties its chain: HTTP probes are cut, a closed port seems open, and the kubelet makes the
 * container anew. What is probed from inside is as before.
 */
export async function withoutRule(): Promise<{ "not ready": number; "container restarted": number }> {
  const [http, exec] = await Promise.all([podOf("http"), podOf("exec")]);
  await agent.stop();
  assert.equal(await hostRequest(http.status.podIP), "200", "the agent took its rule along");
  const began = performance.now();
  const sinceBegan = () => Math.round(performance.now() - began);
  const before: StandInStats = await ztunnel.stats();
  await run(["iptables", "-t", "nat", "-F", "ISTIO_POSTRT"]);
  assert.equal(await hostRequest(http.status.podIP), "ECONNRESET");
  const eventually = (what: string, isSo: () => Promise<boolean>) => waitFor(what, isSo, patience);
  await eventually("the HTTP probe to fail", async () => !isReady(await podOf("http")));
  const notReadyMs = sinceBegan();
  await eventually("a closed port to seem open", async () => isReady(await podOf(closed)));
  await eventually("the kubelet to restart the container", async () => restartsOf(await podOf("http")) > 0);
  const restartedMs = sinceBegan();
  const after = await ztunnel.stats();
  for (const name of ["http", "tcp"]) {
    const { uid } = (await podOf(name)).metadata;
    const more = inboundOf(after, uid) - inboundOf(before, uid);
    assert.ok(more >= 3, `only ${more} probes of "${name}" came to ztunnel`);
  }
  assert.deepEqual(readinessOf([await podOf("exec")]), readinessOf([exec]));
  return { "not ready": notReadyMs, "container restarted": restartedMs };
}

const inboundOf = ({ workloads }: StandInStats, uid: string): number =>
  workloads[uid]?.ports[inboundPort]?.connections ?? 0;

/** An agent that starts puts the rule back, and the kubelet is content. */
export async function ruleBack(): Promise<{ "host whole": number; "Deployments ready": number }> {
  const began = performance.now();
  await startAgent();
  const whole = async () => (await hostState()).faults.length === 0;
  await waitFor("the host to be whole", whole, patience);
  const wholeMs = Math.round(performance.now() - began);
  await untilAvailable();
  const readyMs = Math.round(performance.now() - began);
  await waitFor("the closed port to be closed", async () => !isReady(await podOf(closed)), patience);
  await claimRefused();
  return { "host whole": wholeMs, "Deployments ready": readyMs };
}

/** All pods are deleted. @returns how many entries the sets had, and what is left of them */
export async function deleteAll(): Promise<{ before: number; after: string[] }> {
  const before = (await members()).length;
  for (const name of [...probed, closed]) await kube.admin.delete(deploymentPath(name));
  const path = `/api/v1/namespaces/${meshNamespace}/pods`;
  await waitFor("the pods to be gone", async () => (await kube.admin.list(path)).length === 0, patience);
  const namespaces = async () => (await readdir("/run/netns")).filter((name) => name.startsWith("cni-"));
  await waitFor("the namespaces to be gone", async () => (await namespaces()).length === 0, patience);
  const isEmpty = async () => (await members()).length === 0;
  // what is left is for the test to show
  await waitFor("the sets to be empty", isEmpty, { timeoutMs: 10_000, intervalMs: 50 }).catch(() => {});
  return { before, after: await members() };
}
