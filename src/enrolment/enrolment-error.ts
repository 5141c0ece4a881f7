// SPDX-License-Identifier: Apache-2.0
// Why a pod could not be captured, in the words `kubectl describe pod` will show.
import type { PodFacts } from "../kube/pod-facts.ts";

/** A pod that must not start, because it would start outside the mesh. The message has cause and remedy. */
export class EnrolmentError extends Error {
  override readonly name = "EnrolmentError";

  constructor(pod: PodFacts, cause: unknown) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    super(
      `Cannot capture pod "${pod.namespace}/${pod.name}" for the ambient mesh: ${reason}${remedyFor(reason)}. The pod is tried again by kubelet`,
      { cause },
    );
  }
}

/** What to do about a failure, as the end of a sentence that names it. */
export function remedyFor(reason: string): string {
  return reason.includes("ztunnel")
    ? "; check the ztunnel pod of this node: kubectl get pods -A -l app=ztunnel -o wide"
    : "; the log of this node's CNI agent has the details";
}
