// SPDX-License-Identifier: Apache-2.0
// Parts of the node and of the control plane go away and come back: everything is captured again without a hand.
import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { basename } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { run } from "../../support/node/run.ts";
import { waitFor } from "../../support/node/wait-for.ts";
import type { KubeJson } from "../support/kube-admin.ts";
import { untilAnnotated, untilCaptured, untilUntouched } from "../support/mesh-pods.ts";
import { nodeAddress } from "../support/node-places.ts";
import { losePower } from "../support/reboot.ts";
import {
  appPort,
  createDeployment,
  createPod,
  deploymentPath,
  netnsOf,
  patience,
  podPath,
  runningPods,
  workload,
} from "../support/workloads.ts";
import { createEarly, deletePod, underTraffic } from "./constant-traffic.ts";
import * as scene from "./scene.ts";

const web = () => runningPods(scene.kube.admin, "web", 3);
const ownLabel = "k8s-app=ambient-cni-node";
const outageMs = 60_000;

async function claimAllWell(pods: readonly KubeJson[]): Promise<void> {
  await scene.untilHeld(pods);
  await untilCaptured(pods);
  await untilAnnotated(scene.kube.admin, pods, "enabled");
  const [a, b] = pods as [KubeJson, KubeJson];
  assert.deepEqual(await scene.request(a, b), { outbound: 1, inbound: 1 });
}

/** A minute without API server, in which a pod loses its sandbox. */
export async function withoutApiServer(): Promise<Record<string, number>> {
  const { admin, plane } = scene.kube;
  // nobody's: a controller may take half a minute after the outage to notice that it is to delete something
  await createPod(admin, "victim", workload("victim", "exec sleep 1000000"));
  const [victim] = (await runningPods(admin, "victim", 1)) as [KubeJson];
  const pods = await web();
  await scene.untilHeld([...pods, victim]);
  const mark = scene.trap.mark;
  const sums = await underTraffic({ pods }, async () => {
    await plane.killApiServer();
    const began = performance.now();
    const netns = await netnsOf(victim.status.podIP);
    await killSandbox(netns);
    const isGone = async () => !(await readdir("/run/netns")).includes(basename(netns));
    await waitFor("the old sandbox to be gone", isGone, patience);
    await delay(outageMs - (performance.now() - began));
  }).finally(() => plane.startApiServer());
  const back = performance.now();
  const labelSeenMs = await leaveAndReturn(pods[2] as KubeJson);
  const anew = (pod: KubeJson) => pod.status.podIP !== victim.status.podIP;
  const isThere = async () => (await runningPods(admin, "victim", 1)).find(anew);
  const after = await waitFor("the pod to have a new sandbox", isThere, patience);
  assert.equal(after.metadata.uid, victim.metadata.uid);
  await claimAllWell([...pods, after]);
  const recoveredMs = Math.round(performance.now() - back);
  scene.claimNothingInClear(mark);
  await deletePod("victim");
  return { labelSeenMs, recoveredMs, "slowest request": sums.longestMs, requests: sums.sent };
}

/** Takes a pod out of the mesh by its own label, and back. @returns how long until the first was seen in the kernel, in ms */
async function leaveAndReturn(pod: KubeJson): Promise<number> {
  const label = (mode: "none" | null) =>
    scene.kube.admin.patch(podPath(pod.metadata.name), {
      metadata: { labels: { "istio.io/dataplane-mode": mode } },
    });
  await label("none");
  const seenMs = await untilUntouched([pod]);
  await label(null);
  await untilCaptured([pod]);
  return seenMs;
}

/** Ends all processes of a sandbox. */
async function killSandbox(netns: string): Promise<void> {
  const { stdout } = await run(["ip", "netns", "pids", basename(netns)]);
  const pids = stdout.split("\n").filter((pid) => pid !== "");
  assert.ok(pids.length > 0, "nobody is in the sandbox");
  for (const pid of pids) process.kill(Number(pid), "SIGKILL");
}

/** A daemon of the node is killed and started again. @returns how long until a new pod ran afterwards */
export async function restartDaemon(name: "kubelet" | "containerd"): Promise<Record<string, number>> {
  const pods = await web();
  const mark = scene.trap.mark;
  let podMs = 0;
  const sums = await underTraffic({ pods }, async () => {
    await scene.kube.killDaemon(name);
    await scene.kube.startDaemon(name);
    const began = performance.now();
    await scene.kube.untilReady();
    const early = await createEarly("early", pods[0] as KubeJson);
    podMs = Math.round(performance.now() - began);
    await untilCaptured([early]);
    await deletePod("early");
  });
  await claimAllWell(await web());
  scene.claimNothingInClear(mark);
  return { podMs, "slowest request": sums.longestMs, requests: sums.sent };
}

/** Asks somebody who is always there, from the first moment on: what it sends before it is captured is seen. */
const restless = `while :; do wget -q -O - http://${nodeAddress}:${appPort}/; sleep 0.1; done`;

/** The node loses its power and comes back: the agent's own pod has to get through a chain that waits for the agent. */
export async function reboot(): Promise<Record<string, number>> {
  const { admin } = scene.kube;
  await createDeployment(admin, "restless", { replicas: 2, template: workload("restless", restless) });
  const before = [...(await web()), ...(await runningPods(admin, "restless", 2))];
  await scene.untilHeld(before);
  await losePower(scene.kube);
  const mark = scene.trap.mark;
  const began = performance.now();
  const since = () => Math.round(performance.now() - began);
  await scene.serveClusterAddress();
  await scene.kube.startDaemon("containerd");
  await scene.kube.startDaemon("kubelet");
  const agent = await readyAnew(ownLabel);
  const agentMs = since();
  await readyAnew("app=ztunnel");
  const ztunnelMs = since();
  const pods = await rebuilt(before);
  await scene.untilHeld(pods);
  const allMs = since();
  await untilCaptured(pods);
  await untilAnnotated(admin, pods, "enabled");
  await scene.claimInstalled();
  const [a, b] = pods.filter(({ metadata }) => metadata.labels?.app === "web") as [KubeJson, KubeJson];
  assert.deepEqual(await scene.request(a, b), { outbound: 1, inbound: 1 });
  await claimNeverOutside(pods, { agent, mark });
  await admin.delete(deploymentPath("restless"));
  return { "agent ready": agentMs, "ztunnel ready": ztunnelMs, "pods captured": allMs };
}

/** Waits until the one pod with the label has a new, ready container. */
async function readyAnew(label: string): Promise<KubeJson> {
  const isReady = async () =>
    (await scene.systemPods(label)).find(({ status }) => {
      const [container] = status.containerStatuses ?? [];
      return container?.ready === true && container.restartCount > 0;
    });
  return waitFor(`a ready pod with ${label}`, isReady, { timeoutMs: 120_000, intervalMs: 100 });
}

/** Waits until the same pods run with other addresses. */
async function rebuilt(before: readonly KubeJson[]): Promise<KubeJson[]> {
  const old = new Map(before.map(({ metadata, status }) => [metadata.uid, status]));
  const isAnew = ({ metadata, status }: KubeJson) => {
    const was = old.get(metadata.uid);
    const [container] = status.containerStatuses;
    return was !== undefined && was.podIP !== status.podIP && container.state.running !== undefined;
  };
  return waitFor(
    "all pods to have new sandboxes",
    async () => {
      const pods = (await scene.kube.admin.list("/api/v1/namespaces/mesh/pods")).filter(isAnew);
      return pods.length === before.length ? pods : undefined;
    },
    { timeoutMs: 120_000, intervalMs: 100 },
  );
}

/** Claims that pods that never stop sending sent nothing before the agent had captured them. */
async function claimNeverOutside(
  pods: readonly KubeJson[],
  options: { agent: KubeJson; mark: number },
): Promise<void> {
  const log = await scene.ContainerLog.open(options.agent, "install-cni");
  const lines = await log.lines();
  await log.close();
  for (const { metadata, status } of pods) {
    const said = `"uid":"${metadata.uid}"`;
    const enrolled = lines.find(({ text }) => text.includes(said) && text.includes('"msg":"pod enrolled"'));
    assert.ok(enrolled, `the agent never said that it captured "${metadata.name}"`);
    const caught = () => scene.trap.caught(options.mark).filter(({ from }) => from === status.podIP);
    if (metadata.labels?.app === "restless") {
      await waitFor(`the trap to see "${metadata.name}"`, () => caught().length > 0);
    }
    const sent = caught();
    const first = Math.min(...sent.map(({ atMs }) => atMs));
    assert.ok(
      first > enrolled.atMs,
      `"${metadata.name}" sent ${Math.round(enrolled.atMs - first)} ms before it was captured`,
    );
  }
}
