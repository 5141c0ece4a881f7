// SPDX-License-Identifier: Apache-2.0
// What node.cluster.ts does inside a node: a real Kubernetes with our launcher in containerd's chain, the real agent with the
// rights of its service account, a stand-in ztunnel that carries traffic between mesh pods through port 15008.
import assert from "node:assert/strict";
import { readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { AgentProcess } from "../../support/node/agent-process.ts";
import { type CaptureSubject, claimCaptured, claimUntouched } from "../../support/node/capture-state.ts";
import { requireNode } from "../../support/node/inside.ts";
import { inNetns, rulesWithHandles } from "../../support/node/kernel.ts";
import { PacketCapture } from "../../support/node/packet-capture.ts";
import { run } from "../../support/node/run.ts";
import { waitFor } from "../../support/node/wait-for.ts";
import { StandIn } from "../../support/ztunnel/stand-in.ts";
import type { StandInStats } from "../../support/ztunnel/ztunnel-process.ts";
import { agentKubeconfig } from "../support/agent-role.ts";
import type { KubeJson } from "../support/kube-admin.ts";
import { KubeNode, nodeName } from "../support/kube-node.ts";
import {
  appPort,
  container,
  createDeployment,
  deploymentPath,
  lastLines,
  netnsOf,
  patience,
  podPath,
  runningPods as podsOf,
  serve,
  workload,
} from "../support/workloads.ts";

const node = requireNode();
const modeLabel = "istio.io/dataplane-mode";
const redirection = "ambient.istio.io/redirection";
const quick = { timeoutMs: 20_000, intervalMs: 20 };

let kube: KubeNode;
let agent: AgentProcess;
let ztunnel: StandIn;
let kubeconfig = "";

/** Starts everything; returns what each part took. */
export async function start(binDir: string): Promise<Record<string, number>> {
  const began = performance.now();
  kube = await KubeNode.start(node, binDir);
  const nodeMs = performance.now() - began;
  kubeconfig = await agentKubeconfig(kube);
  await startAgent();
  await startZtunnel();
  await kube.admin.create("/api/v1/namespaces", { metadata: { name: "mesh" } });
  return { "node ready": Math.round(nodeMs), "mesh ready": Math.round(performance.now() - began) };
}

/** The last lines of every part, for a failure that needs them. */
export async function logs(): Promise<string> {
  return lastLines([agent, kube?.daemon("kubelet"), kube?.daemon("containerd")]);
}

/** Starts again what a failed test left lying; the next one shall fail for its own reasons only. */
export async function restore(): Promise<void> {
  const { status } = await kube.admin.probe("/readyz").catch(() => ({ status: 0 }));
  if (status !== 200) {
    await kube.plane.killApiServer();
    await kube.plane.startApiServer();
  }
  if (!agent.running) await startAgent();
  const alive = await Promise.race([
    ztunnel.exited.then(() => false),
    ztunnel.stats().then(() => true),
  ]).catch(() => false);
  if (!alive) await startZtunnel();
}

async function startAgent(): Promise<void> {
  agent = await AgentProcess.start({ nodeName, kubeconfig, env: { RECONCILE_INTERVAL_SECONDS: "5" } });
  await agent.waitReady();
}

async function startZtunnel(): Promise<void> {
  ztunnel = await StandIn.start({
    socket: "/var/run/ztunnel/ztunnel.sock",
    depth: "sockets",
    maxBackoffMs: 200,
  });
  await ztunnel.waitForReady(20_000);
}

const runningPods = (app: string, count: number) => podsOf(kube.admin, app, count);

/** A pod of the cluster as the claims about a pod's namespace want it. */
async function inspected(pod: KubeJson): Promise<CaptureSubject> {
  return { netns: await netnsOf(pod.status.podIP), spec: { name: pod.metadata.name } };
}

/** Waits until the claim holds for all pods; returns how long that took. */
async function untilAll(
  pods: readonly KubeJson[],
  claim: (pod: CaptureSubject) => Promise<void>,
): Promise<number> {
  const subjects = await Promise.all(pods.map(inspected));
  const began = performance.now();
  for (const subject of subjects) {
    const holds = async () => {
      await claim(subject);
      return true;
    };
    await waitFor(`"${subject.spec.name}"`, holds, quick);
  }
  return Math.round(performance.now() - began);
}

async function untilAnnotated(pods: readonly KubeJson[], value: string | undefined): Promise<void> {
  for (const { metadata } of pods) {
    await kube.admin.until(
      podPath(metadata.name),
      (pod) => pod.metadata.annotations?.[redirection] === value,
    );
  }
}

async function labelNamespace(mode: string | null): Promise<void> {
  await kube.admin.patch("/api/v1/namespaces/mesh", { metadata: { labels: { [modeLabel]: mode } } });
}

/** What is about the pods themselves: a pod that was made anew would differ. */
const identities = (pods: readonly KubeJson[]) =>
  pods
    .map(({ metadata, status }) => [metadata.uid, status.podIP, status.containerStatuses[0].containerID])
    .sort();

/** Sends a request from one pod to another; returns the connections that ztunnel counted at both ends. */
async function request(from: KubeJson, to: KubeJson): Promise<{ outbound: number; inbound: number }> {
  const before = await ztunnel.stats();
  const url = `http://${to.status.podIP}:${appPort}/`;
  const netns = await netnsOf(from.status.podIP);
  const { stdout } = await inNetns(netns, ["busybox", "wget", "-q", "-O", "-", url]);
  assert.equal(stdout, "hello\n");
  const after = await ztunnel.stats();
  const more = (pod: KubeJson, port: number) =>
    connections(after, pod.metadata.uid, port) - connections(before, pod.metadata.uid, port);
  return { outbound: more(from, 15001), inbound: more(to, 15008) };
}

const connections = (stats: StandInStats, uid: string, port: number) =>
  stats.workloads[uid]?.ports[port]?.connections ?? 0;

async function held(): Promise<string[]> {
  return Object.keys((await ztunnel.stats()).workloads);
}

/** Pods of a Deployment run outside the mesh; a label on their namespace brings them in as they are. */
export async function captureRunning(): Promise<{ capturedMs: number }> {
  await createDeployment(kube.admin, "web", { replicas: 3, template: workload("web", serve) });
  const pods = await runningPods("web", 3);
  await untilAll(pods, claimUntouched);
  assert.deepEqual(await request(pods[0] as KubeJson, pods[1] as KubeJson), { outbound: 0, inbound: 0 });
  await labelNamespace("ambient");
  const capturedMs = await untilAll(pods, claimCaptured);
  await untilAnnotated(pods, "enabled");
  assert.deepEqual(identities(await runningPods("web", 3)), identities(pods), "a pod was made anew");
  assert.deepEqual((await held()).sort(), pods.map(({ metadata }) => metadata.uid).sort());
  return { capturedMs };
}

/** Requests between mesh pods, and from the mesh to a pod outside. */
export async function traffic(): Promise<void> {
  const [a, b] = (await runningPods("web", 3)) as [KubeJson, KubeJson];
  assert.deepEqual(await request(a, b), { outbound: 1, inbound: 1 });
  assert.deepEqual(await request(b, a), { outbound: 1, inbound: 1 });
}

/** An init container that connects at once already goes through ztunnel; nothing in clear passes the bridge. */
export async function newPod(): Promise<{ readyMs: number }> {
  const [server] = (await runningPods("web", 3)) as [KubeJson];
  const url = `http://${server.status.podIP}:${appPort}/`;
  const file = join(node.scratch, "new-pod.pcap");
  const capture = await PacketCapture.start("/proc/self/ns/net", { interfaceName: "cni0", file });
  const began = performance.now();
  await kube.admin.create("/api/v1/namespaces/mesh/pods", {
    metadata: { name: "early", labels: { app: "early" } },
    spec: {
      terminationGracePeriodSeconds: 0,
      restartPolicy: "Never",
      initContainers: [container("first", `exec wget -q -O - ${url}`)],
      containers: [container("app", "exec sleep 1000000")],
    },
  });
  const pods = await runningPods("early", 1);
  const readyMs = Math.round(performance.now() - began);
  const [pod] = pods as [KubeJson];
  assert.equal(pod.status.initContainerStatuses[0].restartCount, 0, "the first request failed");
  assert.equal(connections(await ztunnel.stats(), pod.metadata.uid, 15001), 1);
  const ip = pod.status.podIP;
  const segments = await capture.finish(
    "the request through ztunnel",
    ({ opens, source, destinationPort }) => opens && source === ip && destinationPort === 15008,
  );
  const inClear = segments.filter(({ opens, destinationPort }) => opens && destinationPort === appPort);
  assert.deepEqual(inClear, [], "a connection passed the bridge in clear");
  await untilAll(pods, claimCaptured);
  await untilAnnotated(pods, "enabled");
  return { readyMs };
}

/** kubelet and containerd take a pod away: nothing of it stays, here or at ztunnel. */
export async function deletePod(): Promise<void> {
  const pod = await kube.admin.get(podPath("early"));
  const netns = await netnsOf(pod.status.podIP);
  await kube.admin.delete(podPath("early"), 0);
  await waitFor(
    "ztunnel to let go of the pod",
    async () => !(await held()).includes(pod.metadata.uid),
    quick,
  );
  const exists = async () => (await readdir("/run/netns")).some((name) => netns.endsWith(name));
  await waitFor("the namespace to be gone", async () => !(await exists()), patience);
  const failedDels = kube
    .daemon("containerd")
    .lines.filter(({ text }) => /ambient-cni.*failed \(delete\)/.test(text));
  assert.deepEqual(failedDels, []);
}

/** The label is taken away: pods are as they were before, without a restart. Then it is put back. */
export async function release(): Promise<{ freeMs: number }> {
  const pods = await runningPods("web", 3);
  await labelNamespace(null);
  const freeMs = await untilAll(pods, claimUntouched);
  await untilAnnotated(pods, undefined);
  assert.deepEqual(await held(), []);
  assert.deepEqual(identities(await runningPods("web", 3)), identities(pods), "a pod was made anew");
  assert.deepEqual(await request(pods[0] as KubeJson, pods[1] as KubeJson), { outbound: 0, inbound: 0 });
  await labelNamespace("ambient");
  await untilAll(pods, claimCaptured);
  return { freeMs };
}

/** A restart of the agent writes no rule; a pod made meanwhile is held, and captured afterwards. */
export async function restartAgent(): Promise<void> {
  const pods = await runningPods("web", 3);
  const subjects = await Promise.all(pods.map(inspected));
  const rules = () => Promise.all(subjects.map(({ netns }) => rulesWithHandles(netns)));
  const before = await rules();
  await agent.kill();
  await scaleWeb(4);
  const kubelet = kube.daemon("kubelet");
  await kubelet.untilLine(
    "to be told that the agent is away",
    ({ text }) => text.includes("Cannot get an answer from the ambient-cni agent"),
    patience,
  );
  assert.equal((await runningWeb()).length, 3, "a mesh pod runs that nobody captured");
  await startAgent();
  await ztunnel.waitForReady(20_000);
  assert.deepEqual(await rules(), before, "rules of pods that were right were written");
  const all = await runningPods("web", 4);
  await untilAll(all, claimCaptured);
  await untilHeld(all);
  await scaleWeb(3);
  await runningPods("web", 3);
}

async function scaleWeb(replicas: number): Promise<void> {
  await kube.admin.patch(deploymentPath("web"), { spec: { replicas } });
}

async function runningWeb(): Promise<KubeJson[]> {
  const pods = await kube.admin.list("/api/v1/namespaces/mesh/pods?labelSelector=app%3Dweb");
  return pods.filter(({ status }) => status.phase === "Running");
}

async function untilHeld(pods: readonly KubeJson[]): Promise<void> {
  const wanted = pods.map(({ metadata }) => metadata.uid);
  await waitFor(
    "ztunnel to have the pods",
    async () =>
      wanted.every(
        (
          (all) => (uid) =>
            all.includes(uid)
        )(await held()),
      ),
    quick,
  );
}

/** A new ztunnel gets every pod, and carries their traffic again. */
export async function restartZtunnel(): Promise<{ servedMs: number }> {
  const pods = await runningPods("web", 3);
  await ztunnel.kill();
  const began = performance.now();
  await startZtunnel();
  await untilHeld(pods);
  const servedMs = Math.round(performance.now() - began);
  await untilAll(pods, claimCaptured);
  assert.deepEqual(await request(pods[0] as KubeJson, pods[1] as KubeJson), { outbound: 1, inbound: 1 });
  return { servedMs };
}

/** A pod of the kubelet's own manifest folder: the runtime knows it by another UID than the API server. */
export async function staticPod(): Promise<{ apiUid: string; runtimeUid: string }> {
  await writeManifest("static");
  const [mirror] = (await runningPods("static", 1)) as [KubeJson];
  assert.equal(mirror.metadata.name, `static-${nodeName}`);
  const runtimeUid = mirror.metadata.annotations?.["kubernetes.io/config.hash"] ?? "";
  await untilAll([mirror], claimCaptured);
  await untilAnnotated([mirror], "enabled");
  const [web] = (await runningPods("web", 3)) as [KubeJson];
  const { ports, cgroups } = { ports: await request(mirror, web), cgroups: await cgroupsIn(mirror) };
  assert.deepEqual(ports, { outbound: 1, inbound: 1 });
  assert.match(cgroups, new RegExp(`pod${runtimeUid}`), "the runtime knows the pod by another UID");
  return { apiUid: mirror.metadata.uid, runtimeUid };
}

/** A static pod that is found running: the label comes after it. */
export async function staticPodFound(): Promise<void> {
  const [mirror] = (await runningPods("static", 1)) as [KubeJson];
  const all = [mirror, ...(await runningPods("web", 3))];
  await labelNamespace(null);
  await untilAll(all, claimUntouched);
  await labelNamespace("ambient");
  await untilAll(all, claimCaptured);
  await rm(join(kube.manifestFolder, "static.json"));
  await waitFor(
    "ztunnel to let go of it",
    async () => !(await held()).includes(mirror.metadata.uid),
    patience,
  );
}

async function writeManifest(name: string): Promise<void> {
  const metadata = { name, namespace: "mesh", labels: { app: name } };
  const manifest = { apiVersion: "v1", kind: "Pod", ...workload(name, serve), metadata };
  await writeFile(join(kube.manifestFolder, `${name}.json`), JSON.stringify(manifest));
}

/** Cgroup paths of the processes in a pod's namespace. */
async function cgroupsIn(pod: KubeJson): Promise<string> {
  const netns = await netnsOf(pod.status.podIP);
  const { stdout } = await run(["ip", "netns", "pids", netns.split("/").at(-1) ?? ""]);
  const [pid] = stdout.trim().split("\n");
  return (await run(["cat", `/proc/${pid}/cgroup`])).stdout;
}

/** While the API server is away, running pods stay as they are and a new one is held; afterwards everything is right. */
export async function withoutApiServer(): Promise<{ recoveredMs: number }> {
  const pods = await runningPods("web", 3);
  await kube.plane.killApiServer();
  const linesBefore = kube.daemon("kubelet").lines.length;
  await writeManifest("late");
  const heldBack = ({ text }: { text: string }) =>
    text.includes("ambient-cni") &&
    (text.includes("cannot know") || text.includes("not known to the API server"));
  await kube
    .daemon("kubelet")
    .until(
      "to be told why it is held",
      () => kube.daemon("kubelet").lines.slice(linesBefore).some(heldBack),
      patience,
    );
  await untilAll(pods, claimCaptured);
  assert.deepEqual(await request(pods[0] as KubeJson, pods[1] as KubeJson), { outbound: 1, inbound: 1 });
  await kube.plane.startApiServer();
  const began = performance.now();
  const late = await runningPods("late", 1);
  await untilAll([...pods, ...late], claimCaptured);
  await untilAnnotated(late, "enabled");
  const recoveredMs = Math.round(performance.now() - began);
  await rm(join(kube.manifestFolder, "late.json"));
  return { recoveredMs };
}

/** A pod that has done its work leaves the mesh, although its object stays. */
export async function job(): Promise<void> {
  const [web] = (await runningPods("web", 3)) as [KubeJson];
  const url = `http://${web.status.podIP}:${appPort}/`;
  const template = {
    metadata: { labels: { app: "job" } },
    spec: { restartPolicy: "Never", containers: [container("app", `exec wget -q -O - ${url}`)] },
  };
  await kube.admin.create("/apis/batch/v1/namespaces/mesh/jobs", {
    metadata: { name: "job" },
    spec: { backoffLimit: 0, template },
  });
  await kube.admin.until(
    "/apis/batch/v1/namespaces/mesh/jobs/job",
    ({ status }) => status.succeeded === 1,
    40_000,
  );
  const [pod] = (await kube.admin.list("/api/v1/namespaces/mesh/pods?labelSelector=app%3Djob")) as [KubeJson];
  assert.equal(pod.status.phase, "Succeeded");
  await waitFor("ztunnel to let go of it", async () => !(await held()).includes(pod.metadata.uid), quick);
  await untilAnnotated([pod], undefined);
  const said = (text: string) =>
    agent.lines.some(({ json }) => json?.uid === pod.metadata.uid && json.msg === text);
  assert.ok(said("pod enrolled"), "the pod was never in the mesh");
}

/** What is there after everything was taken away. */
export async function remains(): Promise<{ held: string[]; namespaces: string[]; openFds: number }> {
  await kube.admin.delete(deploymentPath("web"));
  await waitFor(
    "all pods to be gone",
    async () =>
      (await kube.admin.list("/api/v1/namespaces/mesh/pods")).every(
        ({ status }) => status.phase === "Succeeded",
      ),
    patience,
  );
  const namespaces = async () => (await readdir("/run/netns")).filter((name) => name.startsWith("cni-"));
  await waitFor("the namespaces to be gone", async () => (await namespaces()).length === 0, patience);
  await waitFor("ztunnel to hold nothing", async () => (await held()).length === 0, quick);
  const openFds = (await readdir(`/proc/${agent.pid}/fd`)).length;
  return { held: await held(), namespaces: await namespaces(), openFds };
}
