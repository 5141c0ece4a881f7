// SPDX-License-Identifier: Apache-2.0
// Updates that nobody must notice: of the agent and of ztunnel, under traffic and with pods that come and go.
import assert from "node:assert/strict";
import { inNetns } from "../../support/node/kernel.ts";
import { ruleGeneration } from "../../support/node/rule-generation.ts";
import { waitFor } from "../../support/node/wait-for.ts";
import type { KubeJson } from "../support/kube-admin.ts";
import { inspected, untilAnnotated, untilCaptured } from "../support/mesh-pods.ts";
import { agentImage } from "../support/node-images.ts";
import { runningPods } from "../support/workloads.ts";
import { PodChurn, underTraffic } from "./constant-traffic.ts";
import * as scene from "./scene.ts";

const nextImage = agentImage.replace(/:[^:]+$/, ":next");
const web = () => runningPods(scene.kube.admin, "web", 3);

/** What the kernel counts in the pods: equal numbers mean that nobody wrote a rule. */
async function ruleGenerations(pods: readonly KubeJson[]): Promise<number[]> {
  return Promise.all(pods.map(async (pod) => ruleGeneration((await inspected(pod)).netns)));
}

/** The agent is replaced by another image and back. */
export async function updateAgent(): Promise<Record<string, number>> {
  await scene.kube.ctr(["images", "tag", "--force", agentImage, nextImage]);
  const pods = await web();
  const mark = scene.trap.mark;
  const before = await ruleGenerations(pods);
  const churn = new PodChurn(pods[0] as KubeJson);
  const times: Record<string, number> = {};
  const replace = async (name: string, image: string) => {
    const bornBefore = churn.born;
    const began = performance.now();
    await scene.apply(await scene.manifestWith(image));
    await scene.untilRolledOut("ambient-cni-node");
    times[name] = Math.round(performance.now() - began);
    await waitFor("more pods to come", () => churn.born > bornBefore + 2, {
      timeoutMs: 90_000,
      intervalMs: 50,
    });
  };
  const sums = await underTraffic({ pods }, async () => {
    try {
      await replace("update", nextImage);
      await replace("update back", agentImage);
    } finally {
      Object.assign(times, await churn.stop());
    }
  });
  assert.deepEqual(await ruleGenerations(pods), before, "rules of pods that were right were written");
  scene.claimNothingInClear(mark);
  await untilCaptured(pods);
  await scene.untilHeld(pods);
  await untilAnnotated(scene.kube.admin, pods, "enabled");
  await scene.claimInstalled();
  return { ...times, "slowest request": sums.longestMs, requests: sums.sent };
}

/**
 * ztunnel is replaced as its DaemonSet does it where Kubernetes can (maxSurge, since 1.22): the next one starts beside the
 * old one, which leaves the new connections to it and ends.
 */
export async function updateZtunnel(): Promise<Record<string, number>> {
  const pods = await web();
  for (const pod of pods) await letConnectionsMigrate(pod);
  const before = await ruleGenerations(pods);
  const times: Record<string, number> = {};
  const replace = async (old: string, next: string) => {
    const began = performance.now();
    const [oldPod] = (await scene.systemPods(`set=${old}`)) as [KubeJson];
    const log = await scene.ContainerLog.open(oldPod, "istio-proxy");
    try {
      await scene.startZtunnel(next);
      await scene.kube.kubectl(["-n", "istio-system", "delete", "daemonset", old]);
      await scene.untilGone(`set=${old}`);
    } catch (error) {
      const last = (await log.lines()).slice(-5).map(({ text }) => text);
      throw new Error(`${(error as Error).message}; its last words:\n${last.join("\n")}`);
    } finally {
      await log.close();
    }
    times[`${old} to ${next}`] = Math.round(performance.now() - began);
    await scene.untilHeld(pods);
  };
  const sums = await underTraffic({ pods, pauseMs: 10 }, async () => {
    await replace("ztunnel", "ztunnel-next");
    await replace("ztunnel-next", "ztunnel");
  });
  // the trap proves nothing here: a stand-in that starts takes a pod that its snapshot has not named yet for one outside the
  // mesh, where ztunnel knows it from istiod
  assert.deepEqual(await ruleGenerations(pods), before, "rules of pods that were right were written");
  await untilCaptured(pods);
  return { ...times, "slowest request": sums.longestMs, requests: sums.sent };
}

/**
 * A listener that closes resets the connections that it has not accepted yet, unless the kernel may give them to the other one:
 * what this test is about is whether there is another one at every moment. Source: kernel ip-sysctl.rst, tcp_migrate_req.
 */
async function letConnectionsMigrate(pod: KubeJson): Promise<void> {
  const { netns } = await inspected(pod);
  await inNetns(netns, ["sysctl", "-q", "-w", "net.ipv4.tcp_migrate_req=1"]);
}
