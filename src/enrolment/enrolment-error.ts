// SPDX-License-Identifier: Apache-2.0
// Why a pod could not be captured, in the words `kubectl describe pod` will show.
import type { PodFacts } from "../kube/pod-facts.ts";
import { ZdsError } from "../ztunnel/zds-error.ts";

/** A pod that must not start, because it would start outside the mesh. The message has cause and remedy. */
export class EnrolmentError extends Error {
  override readonly name = "EnrolmentError";

  constructor(pod: PodFacts, cause: unknown) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    super(
      `Cannot capture pod "${pod.namespace}/${pod.name}" for the ambient mesh: ${reason}${remedy(cause, reason)}`,
      { cause },
    );
  }
}

function remedy(cause: unknown, reason: string): string {
  if (cause instanceof ZdsError || reason.includes("ztunnel")) {
    return "; check the ztunnel pod of this node: kubectl get pods -A -l app=ztunnel -o wide. The pod is tried again by kubelet";
  }
  return "; the log of this node's CNI agent has the details. The pod is tried again by kubelet";
}
