// SPDX-License-Identifier: Apache-2.0
// What notices-legacy.test.ts does inside a node whose pods have rules of iptables-legacy.
import { setTimeout as delay } from "node:timers/promises";
import { ipRules, iptablesSave } from "../support/node/kernel.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { waitFor } from "../support/node/wait-for.ts";

const mesh = await MeshNode.start({
  agentEnv: { RECONCILE_INTERVAL_SECONDS: "3600", FORCE_IPTABLES_BINARY: "legacy" },
});
mesh.kubelet.createNamespace("mesh", { "istio.io/dataplane-mode": "ambient" });
await mesh.startAgent();
await mesh.startZtunnel();
await mesh.ztunnel.waitForReady();

const isWhole = async ({ netns }: Pod) =>
  /-A ISTIO_OUTPUT .*--to-ports 15001/.test(await iptablesSave(netns, 4, { variant: "legacy" }));

/** Breaks each of five pods at another moment. @returns how long each was broken, in ms */
export async function broken(): Promise<{ rulesMs: number[]; routingMs: number }> {
  const pods: Pod[] = [];
  for (let i = 0; i < 5; i++) pods.push(await mesh.kubelet.runPod({ namespace: "mesh", name: `pod-${i}` }));
  // the first glance, and the look that it brings
  await delay(12_000);
  const rulesMs = await Promise.all(
    pods.map(async (pod, i) => {
      await delay(i * 1_700);
      await pod.exec(["iptables-legacy", "-t", "nat", "-F", "ISTIO_OUTPUT"]);
      return await until(`rules of ${pod.spec.name}`, () => isWhole(pod));
    }),
  );
  const [pod] = pods as [Pod];
  await pod.exec(["ip", "rule", "del", "pref", "32764"]);
  const hasRule = async () => (await ipRules(pod.netns, 4)).some((rule) => rule.includes("0x111/0xfff"));
  return { rulesMs, routingMs: await until("the ip rule", hasRule) };
}

async function until(what: string, isRight: () => Promise<boolean>): Promise<number> {
  const startMs = performance.now();
  await waitFor(what, isRight, { timeoutMs: 30_000, intervalMs: 50 });
  return performance.now() - startMs;
}
