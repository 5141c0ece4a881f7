// SPDX-License-Identifier: Apache-2.0
// A pod as the runtime knows it, which for a static pod is not what the API server calls it.
import { hasFinished, type PodFacts, podAnnotations } from "../kube/pod-facts.ts";
import type { SoughtPod } from "./sandbox-finder.ts";

/** How the runtime knows a pod: a static pod has the hash of its file as UID there, not its API object's UID. */
export function soughtPod(pod: PodFacts): SoughtPod {
  const { containerIds, ips } = pod;
  return { uid: runtimeUid(pod), containerIds, ips, hasFinished: hasFinished(pod) };
}

/** The UID in cgroup paths and CNI_ARGS. Source: kubernetes pkg/kubelet/config/common.go, static pods. */
export function runtimeUid(pod: PodFacts): string {
  const hash = pod.annotations[podAnnotations.configHash];
  return pod.annotations[podAnnotations.configMirror] !== undefined && hash !== undefined ? hash : pod.uid;
}
