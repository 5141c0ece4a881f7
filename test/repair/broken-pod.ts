// SPDX-License-Identifier: Apache-2.0
// Pods as the injector makes them where istio-cni is to write the rules, and as a kubelet tells of them when nobody did.
import type { KubeObject } from "../support/api-server/objects.ts";

/** How a container is, as the API has it. */
export interface ContainerState {
  readonly waiting?: { readonly reason: string };
  readonly running?: { readonly startedAt: string };
  readonly terminated?: Ended;
}

export interface Ended {
  readonly exitCode: number;
  readonly reason?: string;
  readonly message?: string;
  readonly containerID?: string;
  readonly finishedAt?: string;
}

export interface BrokenPodOptions {
  readonly namespace?: string;
  readonly nodeName?: string;
  readonly uid?: string;
  readonly labels?: Record<string, string>;
  readonly annotations?: Record<string, string>;
  readonly ownerUid?: string;
  readonly phase?: string;
  readonly hostNetwork?: boolean;
  readonly container?: string;
  readonly state?: ContainerState;
  readonly lastState?: ContainerState;
}

/** The end by which istio-validation says that there are no rules. */
export const noRules: Ended = {
  exitCode: 126,
  reason: "Error",
  message: "no redirect\n",
  containerID: "containerd://c1",
  finishedAt: "2026-11-29T12:00:00Z",
};

/** A pod of the node "n1" whose check has failed and waits to be started again; each option takes the place of one thing of it. */
export function brokenPod(name: string, options: BrokenPodOptions = {}): KubeObject {
  const { ownerUid, labels } = options;
  return {
    metadata: {
      name,
      namespace: options.namespace ?? "shop",
      uid: options.uid ?? `uid-${name}`,
      ...(labels === undefined ? {} : { labels }),
      annotations: options.annotations ?? {
        "sidecar.istio.io/status": '{"initContainers":["istio-validation"]}',
      },
      ...(ownerUid === undefined
        ? {}
        : { ownerReferences: [{ kind: "ReplicaSet", name: "web", uid: ownerUid, controller: true }] }),
    },
    spec: {
      nodeName: options.nodeName ?? "n1",
      ...(options.hostNetwork === undefined ? {} : { hostNetwork: options.hostNetwork }),
    },
    status: {
      phase: options.phase ?? "Pending",
      initContainerStatuses: [
        {
          name: options.container ?? "istio-validation",
          state: options.state ?? { waiting: { reason: "CrashLoopBackOff" } },
          lastState: options.lastState ?? { terminated: noRules },
        },
      ],
    },
  };
}
