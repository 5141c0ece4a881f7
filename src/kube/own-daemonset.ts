// SPDX-License-Identifier: Apache-2.0
// The DaemonSet that the agent's own pod belongs to: its end, and that it has no place for this node any more, are the signs
// that the agent is to leave the node for good.

import { Backoff } from "../loop/backoff.ts";
import type { ApiClient } from "./api-client.ts";
import { ApiError } from "./api-error.ts";
import { controllerOf, recordOf, textOf } from "./json-fields.ts";
import { fitsNode, toNodeFacts } from "./node-fit.ts";
import type { PodFacts } from "./pod-facts.ts";

/** `deleted` and `elsewhere` (it places no pod on this node any more) are only said when the API server said so. */
export type DaemonSetState = "present" | "deleted" | "elsewhere" | "unknown";

export interface OwnDaemonSetOptions {
  readonly client: Pick<ApiClient, "getPod" | "get" | "isReady">;
  readonly podNamespace: string;
  readonly podName: string;
  /** Node of the agent; empty: not asked about. */
  readonly nodeName: string;
  /**
   * Whether the API server still told us of the agent's own pod when it was last heard: a token ends with its pod, so that
   * a refusal says nothing about the DaemonSet once the pod is gone.
   */
  readonly hasOwnPod: () => boolean;
}

type Owner = Pick<PodFacts, "uid" | "namespace" | "name">;

const requestTimeoutMs = 1_000;

/** Asks the API server about the agent's own DaemonSet. */
export class OwnDaemonSet {
  readonly #options: OwnDaemonSetOptions;
  /** Which DaemonSet made the pod. */
  #owner: Owner | undefined;
  #wasSeen = false;

  constructor(options: OwnDaemonSetOptions) {
    this.#options = options;
  }

  /** The owner as the pod names it; `undefined` outside a DaemonSet. @throws ApiError when it cannot be known */
  async owner(): Promise<Owner | undefined> {
    const { client, podNamespace, podName } = this.#options;
    if (this.#owner !== undefined || podNamespace === "" || podName === "") return this.#owner;
    const pod = await client.getPod(podNamespace, podName, { signal: AbortSignal.timeout(requestTimeoutMs) });
    const { kind, name, uid } = controllerOf(recordOf(recordOf(pod).metadata).ownerReferences);
    if (kind === "DaemonSet") this.#owner = { namespace: podNamespace, name: textOf(name), uid: textOf(uid) };
    return this.#owner;
  }

  /** Sees the DaemonSet while all is well, so that a refusal later on has a meaning. @throws ApiError */
  async remember(): Promise<void> {
    await this.#ask();
  }

  /**
   * Whether the DaemonSet is still there, asked again until the deadline while the API server does not answer. One of the
   * same name with another UID takes this agent's place: the chain is its to keep.
   *
   * An agent that was allowed to ask and is refused now was deprived of its rights before it was stopped, which is what
   * deleting everything at once does (kubectl delete -f, helm uninstall): that counts as deleted.
   * Source: istio/istio issue 57601.
   *
   * One that has just started forbids everything, too, until it has read its roles: only what it forbids after it said that it
   * is ready counts. Whom it does not know any more (401) it cannot be asked by, and no start was seen to answer so.
   * Source: kube-apiserver 1.36, asked from its first moment on; issue kubernetes/kubernetes 121635.
   */
  async state(options: { deadlineMs: number }): Promise<DaemonSetState> {
    const until = performance.now() + options.deadlineMs;
    const backoff = new Backoff({ baseMs: 100, capMs: 500 });
    let wasReady = false;
    for (;;) {
      try {
        return await this.#ask();
      } catch (error) {
        if (error instanceof ApiError && error.isRefused) {
          if (!this.#wasSeen || !this.#options.hasOwnPod()) return "unknown";
          if (wasReady || error.reason === "Unauthorized") return "deleted";
          wasReady = await this.#options.client.isReady({ signal: AbortSignal.timeout(requestTimeoutMs) });
          if (wasReady) continue;
        }
        const pauseMs = backoff.nextMs();
        if (performance.now() + pauseMs >= until) return "unknown";
        await new Promise((resolve) => setTimeout(resolve, pauseMs));
      }
    }
  }

  async #ask(): Promise<DaemonSetState> {
    const owner = await this.owner();
    if (owner === undefined) return "present";
    const path = `/apis/apps/v1/namespaces/${encodeURIComponent(owner.namespace)}/daemonsets/${encodeURIComponent(owner.name)}`;
    try {
      const daemonSet = await this.#get(path);
      const found = recordOf(recordOf(daemonSet).metadata);
      const isOurs = textOf(found.uid) === owner.uid;
      this.#wasSeen ||= isOurs;
      if (isOurs && found.deletionTimestamp !== undefined) return "deleted";
      return (await this.#isElsewhere(daemonSet)) ? "elsewhere" : "present";
    } catch (error) {
      if (error instanceof ApiError && error.isNotFound) return "deleted";
      throw error;
    }
  }

  /** A node that cannot be looked at is taken for one of the DaemonSet's: with less rights nothing is concluded. */
  async #isElsewhere(daemonSet: unknown): Promise<boolean> {
    const { nodeName } = this.#options;
    if (nodeName === "") return false;
    try {
      const node = toNodeFacts(await this.#get(`/api/v1/nodes/${encodeURIComponent(nodeName)}`));
      return !fitsNode(daemonSet, node);
    } catch (error) {
      if (error instanceof ApiError && [401, 403, 404].includes(error.status)) return false;
      throw error;
    }
  }

  #get(path: string): Promise<unknown> {
    return this.#options.client.get(path, { signal: AbortSignal.timeout(requestTimeoutMs) });
  }
}
