// SPDX-License-Identifier: Apache-2.0
// Pods of the cluster as tests about the mesh look at them: whether the kernel says that they are captured.
import { type CaptureSubject, claimCaptured, claimUntouched } from "../../support/node/capture-state.ts";
import { waitFor } from "../../support/node/wait-for.ts";
import type { KubeAdmin, KubeJson } from "./kube-admin.ts";
import { meshNamespace, netnsOf, podPath } from "./workloads.ts";

const redirection = "ambient.istio.io/redirection";
const quick = { timeoutMs: 20_000, intervalMs: 20 };

/** A pod of the cluster as the claims about a pod's namespace want it. */
export async function inspected(pod: KubeJson): Promise<CaptureSubject> {
  return { netns: await netnsOf(pod.status.podIP), spec: { name: pod.metadata.name } };
}

/** Waits until the claim holds for all pods; returns how long that took. */
export async function untilAll(
  pods: readonly KubeJson[],
  claim: (pod: CaptureSubject) => Promise<void>,
): Promise<number> {
  const began = performance.now();
  for (const pod of pods) {
    const holds = async () => {
      await claim(await inspected(pod));
      return true;
    };
    await waitFor(`"${pod.metadata.name}"`, holds, quick);
  }
  return Math.round(performance.now() - began);
}

/** Waits until the rules, routes and sockets of a capture are in all of the pods. */
export const untilCaptured = (pods: readonly KubeJson[]): Promise<number> => untilAll(pods, claimCaptured);
/** Waits until nothing of a capture is in any of the pods. */
export const untilUntouched = (pods: readonly KubeJson[]): Promise<number> => untilAll(pods, claimUntouched);

/** Waits until istiod would be told so about all pods. */
export async function untilAnnotated(
  admin: KubeAdmin,
  pods: readonly KubeJson[],
  value: string | undefined,
): Promise<void> {
  for (const { metadata } of pods) {
    await admin.until(podPath(metadata.name), (pod) => pod.metadata.annotations?.[redirection] === value);
  }
}

/** Puts the namespace of the workloads into the mesh or takes it out. */
export async function labelNamespace(admin: KubeAdmin, mode: "ambient" | null): Promise<void> {
  const labels = { "istio.io/dataplane-mode": mode };
  await admin.patch(`/api/v1/namespaces/${meshNamespace}`, { metadata: { labels } });
}

/** What is about the pods themselves: a pod that was made anew would differ. */
export function identities(pods: readonly KubeJson[]): string[][] {
  return pods
    .map(({ metadata, status }) => [metadata.uid, status.podIP, status.containerStatuses[0].containerID])
    .sort();
}
