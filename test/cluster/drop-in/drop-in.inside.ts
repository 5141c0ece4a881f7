// SPDX-License-Identifier: Apache-2.0
// What drop-in.cluster.ts does inside a node: installs the agent from its image and manifests, and watches what pods get.
import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { istioCniObjects } from "../../deploy/istio-cni-daemonset.ts";
import { claimCaptured } from "../../support/node/capture-state.ts";
import { inNetns } from "../../support/node/kernel.ts";
import { waitFor } from "../../support/node/wait-for.ts";
import type { KubeJson } from "../support/kube-admin.ts";
import {
  identities,
  inspected,
  labelNamespace,
  untilAnnotated,
  untilCaptured,
  untilUntouched,
} from "../support/mesh-pods.ts";
import { agentImage } from "../support/node-images.ts";
import { createDeployment, runningPods, serve, workload } from "../support/workloads.ts";
import { createEarly, deletePod } from "./constant-traffic.ts";
import * as outages from "./outages.ts";
import * as rolling from "./rolling.ts";
import * as scene from "./scene.ts";

const ownLabel = "k8s-app=ambient-cni-node";
const istioLabel = "k8s-app=istio-cni-node";
const nextImage = agentImage.replace(/:[^:]+$/, ":next");

export const { reboot, restartDaemon, withoutApiServer } = outages;
export const { updateAgent, updateZtunnel } = rolling;
/** Starts the node with nothing of ours on it. */
export const start = scene.startScene;
export const logs = scene.sceneLogs;
export const { tryChart } = scene;

const web = () => runningPods(scene.kube.admin, "web", 3);

/** The manifests are applied to a node that never saw us. @returns how long until the agent's pod is ready */
export async function install(): Promise<{ readyMs: number }> {
  const began = performance.now();
  await scene.apply(await scene.manifestWith());
  await scene.untilRolledOut("ambient-cni-node");
  const readyMs = Math.round(performance.now() - began);
  await scene.claimInstalled();
  const [pod] = (await scene.systemPods(ownLabel)) as [KubeJson];
  assert.equal(pod.status.containerStatuses[0].restartCount, 0);
  return { readyMs };
}

/** A pod that asks for the mesh while there is no ztunnel. @returns what `kubectl describe` shows of its Events */
export async function podWithoutZtunnel(): Promise<{ events: string; phase: string }> {
  const metadata = { name: "early", labels: { app: "early", "istio.io/dataplane-mode": "ambient" } };
  const pod = { ...workload("early", serve), metadata };
  await scene.kube.admin.create("/api/v1/namespaces/mesh/pods", pod);
  let events = "";
  const isTold = async (): Promise<boolean> => {
    const { stdout } = await scene.kube.kubectl(["-n", "mesh", "describe", "pod", "early"]);
    events = stdout.slice(stdout.indexOf("Events:"));
    return events.includes("FailedCreatePodSandBox");
  };
  await waitFor("the kubelet to tell of it", isTold, { timeoutMs: 45_000, intervalMs: 500 });
  const { stdout } = await scene.kube.kubectl([
    "-n",
    "mesh",
    "get",
    "pod",
    "early",
    "-o",
    "jsonpath={.status.phase}",
  ]);
  return { events, phase: stdout };
}

/** The same pod runs, captured, once there is a ztunnel. */
export async function earlyPodRuns(): Promise<{ runningMs: number }> {
  const began = performance.now();
  const [pod] = await runningPods(scene.kube.admin, "early", 1);
  const runningMs = Math.round(performance.now() - began);
  await claimCaptured(await inspected(pod as KubeJson));
  await deletePod("early");
  return { runningMs };
}

/** ztunnel comes as a DaemonSet; what a ztunnel needs from the agent is there before it. */
export async function startZtunnel(): Promise<{ readyMs: number }> {
  const began = performance.now();
  await scene.startZtunnel();
  return { readyMs: Math.round(performance.now() - began) };
}

/** Pods that run outside the mesh are brought in by a label, as they are. */
export async function captureRunning(): Promise<{ capturedMs: number }> {
  const { admin } = scene.kube;
  await createDeployment(admin, "web", { replicas: 3, template: workload("web", serve) });
  const pods = await web();
  await untilUntouched(pods);
  const [a, b] = pods as [KubeJson, KubeJson];
  const mark = scene.trap.mark;
  assert.deepEqual(await scene.request(a, b), { outbound: 0, inbound: 0 });
  await waitFor("the trap to catch what goes in clear", () => scene.trap.caught(mark).length > 0);
  await labelNamespace(admin, "ambient");
  // ztunnel has a running pod before its rules stand, so its word is not the end
  const capturedMs = await untilCaptured(pods);
  await untilAnnotated(admin, pods, "enabled");
  assert.deepEqual(identities(await web()), identities(pods), "a pod was made anew");
  return { capturedMs };
}

/** The commands of deploy/README.md, word for word but for the names that stand for one's own. @returns what each printed */
export async function readmeCommands(): Promise<Record<string, string>> {
  const readme = await readFile(join(import.meta.dirname, "../../../deploy/README.md"), "utf8");
  const [agent] = (await scene.systemPods(ownLabel)) as [KubeJson];
  const typed = async (beginning: string): Promise<string> => {
    const from = readme.indexOf(beginning);
    assert.ok(from >= 0, `deploy/README.md has no command ${beginning}`);
    // a comment or the end of a code block, or of a code span in a table
    const line = /^[^\n`]*?(?=\s+#|\n|`)/.exec(readme.slice(from))?.[0] ?? "";
    const { stdout } = await scene.kube.shell(
      line.replace("-n demo", "-n mesh").replace(" POD ", ` ${agent.metadata.name} `),
    );
    return stdout;
  };
  return {
    rollout: await typed("kubectl -n istio-system rollout status"),
    annotations: await typed("kubectl -n demo get pods -o custom-columns"),
    ztunnel: await typed("kubectl get pods -A -l app=ztunnel"),
    agents: await typed("kubectl -n istio-system get pods -o wide -l k8s-app"),
    doctor: await typed("kubectl -n istio-system exec ds/ambient-cni-node"),
    agentsDoctor: await typed("kubectl -n istio-system exec POD -- ambient-cni doctor"),
  };
}

/** Requests between mesh pods pass ztunnel at both ends, and nothing is in clear on the way. */
export async function traffic(): Promise<void> {
  const [a, b] = (await web()) as [KubeJson, KubeJson];
  const mark = scene.trap.mark;
  assert.deepEqual(await scene.request(a, b), { outbound: 1, inbound: 1 });
  assert.deepEqual(await scene.request(b, a), { outbound: 1, inbound: 1 });
  scene.claimNothingInClear(mark);
}

/** New pods are captured before their first packet. */
export async function newPods(): Promise<{ readyMs: number }> {
  const [server] = (await web()) as [KubeJson];
  const mark = scene.trap.mark;
  const began = performance.now();
  const names = ["early-1", "early-2", "early-3"];
  const pods = await Promise.all(names.map((name) => createEarly(name, server)));
  const readyMs = Math.round(performance.now() - began);
  const stats = await scene.ztunnelStats();
  for (const pod of pods) assert.equal(scene.connections(stats, pod, 15001), 1);
  await untilCaptured(pods);
  scene.claimNothingInClear(mark);
  for (const name of names) await deletePod(name);
  await scene.untilHeld(await web());
  return { readyMs };
}

/** The label is taken away: pods speak directly, as they are. Then it is put back. */
export async function release(): Promise<{ freeMs: number }> {
  const { admin } = scene.kube;
  const pods = await web();
  await labelNamespace(admin, null);
  const freeMs = await scene.untilHeld([]);
  await untilUntouched(pods);
  await untilAnnotated(admin, pods, undefined);
  const [a, b] = pods as [KubeJson, KubeJson];
  assert.deepEqual(await scene.request(a, b), { outbound: 0, inbound: 0 });
  assert.deepEqual(identities(await web()), identities(pods), "a pod was made anew");
  await labelNamespace(admin, "ambient");
  await scene.untilHeld(pods);
  await untilCaptured(pods);
  return { freeMs };
}

/** Claims that nothing of ours is in the pods, that they speak directly, and that pods start and stop. */
async function claimPodsFree(): Promise<void> {
  const pods = await web();
  for (const pod of pods) {
    const { netns } = await inspected(pod);
    for (const tool of ["iptables-save", "ip6tables-save"]) {
      assert.doesNotMatch((await inNetns(netns, [tool])).stdout, /ISTIO/, pod.metadata.name);
    }
    for (const family of ["-4", "-6"]) {
      assert.doesNotMatch((await inNetns(netns, ["ip", family, "rule"])).stdout, /0x111/, pod.metadata.name);
      const table = await inNetns(netns, ["ip", family, "route", "show", "table", "100"], true);
      assert.equal(table.stdout.trim(), "", pod.metadata.name);
    }
  }
  const [a, b] = pods as [KubeJson, KubeJson];
  assert.deepEqual(await scene.request(a, b), { outbound: 0, inbound: 0 });
  await createEarly("plain", a);
  await deletePod("plain");
}

/** Claims that the pods are still in the mesh, served by ztunnel, and that pods start and stop beside them. */
async function claimPodsStay(): Promise<void> {
  const pods = await web();
  await untilCaptured(pods);
  await untilAnnotated(scene.kube.admin, pods, "enabled");
  const [a, b] = pods as [KubeJson, KubeJson];
  assert.deepEqual(await scene.request(a, b), { outbound: 1, inbound: 1 });
  await createEarly("plain", a);
  await deletePod("plain");
}

/**
 * Deletes the agent in some way, waits for its pod to go, and claims that it took itself out of the node before it ended.
 * @returns how long the agent worked on that, and how long it took until its pod was gone
 */
async function leave(
  selector: string,
  deletion: () => Promise<unknown>,
  claimPods = claimPodsStay,
): Promise<{ leavingMs: number; goneMs: number }> {
  const [pod] = (await scene.systemPods(selector)) as [KubeJson];
  const log = await scene.ContainerLog.open(pod, "install-cni");
  const began = performance.now();
  await deletion();
  await scene.untilGone(selector);
  const goneMs = Math.round(performance.now() - began);
  const lines = await log.lines();
  await log.close();
  const at = (message: string): number => {
    const line = lines.find(({ text }) => text.includes(`"msg":"${message}"`));
    const last = lines.slice(-6).map(({ text }) => text.slice(0, 800));
    assert.ok(line, `the agent never said "${message}":\n${last.join("\n")}`);
    return line.atMs;
  };
  const leavingMs = at("stopped") - at("stopping");
  // the pod is gone: nobody is left who could do the rest
  await scene.claimLeft();
  await claimPods();
  return { leavingMs, goneMs };
}

/** The DaemonSet is deleted: the node is as it was. */
export function uninstall(): Promise<{ leavingMs: number; goneMs: number }> {
  return leave(ownLabel, () => scene.deleteDaemonSet("ambient-cni-node", ownLabel));
}

/** A second installation finds the pods whose namespace still has its label. */
export async function installAgain(): Promise<{ readyMs: number; capturedMs: number }> {
  const began = performance.now();
  await scene.apply(await scene.manifestWith());
  const capturedMs = await untilCaptured(await web());
  await scene.untilRolledOut("ambient-cni-node");
  const readyMs = Math.round(performance.now() - began);
  await scene.claimInstalled();
  await traffic();
  return { readyMs, capturedMs };
}

/** Everything that was applied is deleted in one go, the agent's rights before the agent. */
export async function uninstallAll(): Promise<{ leavingMs: number; goneMs: number }> {
  const stdin = await scene.manifestWith();
  return leave(ownLabel, () => scene.kube.kubectl(["delete", "-f", "-"], { stdin }));
}

/** The commands of a runbook in deploy/README.md, word for word but for the names that stand for one's own. */
async function runbook(title: string): Promise<void> {
  const readme = await readFile(join(import.meta.dirname, "../../../deploy/README.md"), "utf8");
  const [, after = ""] = readme.split(`\n### ${title}\n`);
  const [block = ""] = after.trimStart().split("\n\n");
  const commands = block.split("\n").map((line) => line.trim().replace(/ +#.*$/, ""));
  assert.ok(
    commands.length > 0 && commands.every((line) => line.startsWith("kubectl ")),
    `no runbook "${title}"`,
  );
  const manifest = join(tmpdir(), "ambient-cni.yaml");
  await writeFile(manifest, await scene.manifestWith());
  for (const text of commands) {
    const command = text
      .replace("REGISTRY/ambient-cni:0.1.0", nextImage)
      .replace("deploy/manifests/ambient-cni.yaml", manifest);
    // ztunnel comes back to an agent in its own time, and doctor says so until then
    const timeoutMs = command.endsWith(" doctor") ? 20_000 : 0;
    const isDone = (): Promise<boolean> => scene.kube.shell(command).then(() => true);
    await waitFor(command, isDone, { timeoutMs, intervalMs: 500 });
  }
}

/** The runbook that leaves pods in the mesh. */
export function leaveByRunbook(): Promise<{ leavingMs: number; goneMs: number }> {
  return leave(ownLabel, () => runbook("Leave"));
}

/** The runbook that takes pods out of the mesh. */
export async function releaseByRunbook(): Promise<void> {
  await runbook("Leave, with pods out of the mesh");
  await scene.untilGone(ownLabel);
  await scene.claimLeft();
  await claimPodsFree();
}

/** The DaemonSet of istio-cni with nothing but our image: all of it once more, with the way to another image and back. */
export async function dropIn(): Promise<{ readyMs: number; leavingMs: number; goneMs: number }> {
  await scene.kube.ctr(["images", "tag", "--force", agentImage, nextImage]);
  const began = performance.now();
  const objects = istioCniObjects(agentImage);
  await scene.apply(JSON.stringify({ apiVersion: "v1", kind: "List", items: objects }));
  await scene.untilRolledOut("istio-cni-node");
  const readyMs = Math.round(performance.now() - began);
  await scene.claimInstalled("istio-cni");
  const pods = await web();
  await scene.untilHeld(pods);
  await untilCaptured(pods);
  await untilAnnotated(scene.kube.admin, pods, "enabled");
  for (const [title, image] of [
    ["Migrate", nextImage],
    ["Roll back", agentImage],
  ] as const) {
    await runbook(title);
    const [agent] = (await scene.systemPods(istioLabel)).filter(({ status }) => status.phase === "Running");
    assert.equal(agent?.spec.containers[0].image, image, title);
    await scene.claimInstalled("istio-cni");
  }
  await traffic();
  await newPods();
  const times = await leave(istioLabel, () => scene.deleteDaemonSet("istio-cni-node", istioLabel));
  return { readyMs, ...times };
}
