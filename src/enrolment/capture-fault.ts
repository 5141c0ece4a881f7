// SPDX-License-Identifier: Apache-2.0
// The answer to CNI's CHECK: is a pod captured as its labels ask for it?
import type { PodFacts } from "../kube/pod-facts.ts";
import type { Desired } from "./desired-state.ts";
import type { ReconcilerParts } from "./pod-reconciler.ts";
import type { Sandbox } from "./sandbox-finder.ts";

/** What is known of the pod to look at. */
export interface CheckedPod {
  readonly pod: PodFacts;
  /** `Netns.key` of the namespace the runtime has for the pod. */
  readonly netnsKey: string | undefined;
  readonly sandbox: Sandbox | undefined;
  readonly desired: Desired | undefined;
}

/** What is wrong with a pod's capture, looked at in the kernel and at ztunnel's word; `undefined` when nothing is. */
export async function captureFault(
  { pod, netnsKey, sandbox, desired }: CheckedPod,
  { redirection, ztunnel }: Pick<ReconcilerParts, "redirection" | "ztunnel">,
): Promise<string | undefined> {
  if (sandbox === undefined) return "its sandbox is not known to the agent";
  if (netnsKey !== sandbox.netns.key)
    return `the agent serves another namespace (${sandbox.netns.key}) for it`;
  if (desired === undefined) return "the labels of its namespace are not known";
  if (!desired.wanted) return undefined;
  const { drift } = await redirection.verify(sandbox.netns, desired.redirect);
  if (drift.length > 0) return `its redirection differs: ${drift.map((item) => item.detail).join(", ")}`;
  if (ztunnel.acknowledged(pod.uid) !== netnsKey) return "ztunnel has not acknowledged it";
  return undefined;
}
