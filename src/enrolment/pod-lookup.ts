// SPDX-License-Identifier: Apache-2.0
// Finds what is needed to decide about a pod that the runtime is just making: from the watches, or from the API server.
import type { NodeState } from "../kube/node-state.ts";
import type { NamespaceFacts, PodFacts, PodIdentity } from "../kube/pod-facts.ts";
import type { Logger } from "../log/logger.ts";
import { runtimeUid } from "./runtime-pod.ts";

export interface PodLookupOptions {
  readonly node: NodeState;
  readonly log: Logger;
  /** How long the API server may take. */
  readonly timeoutMs?: number;
}

/** Looks pods up for ADD. "Not found" and "cannot know" are errors: such a pod is held, never passed. */
export class PodLookup {
  readonly #options: PodLookupOptions;

  constructor(options: PodLookupOptions) {
    this.#options = options;
  }

  /** @param named as the runtime does; `uid` is empty when it does not say. @throws Error with the cause and what will happen next */
  async find(named: PodIdentity): Promise<{ pod: PodFacts; namespace: NamespaceFacts }> {
    const signal = AbortSignal.timeout(this.#options.timeoutMs ?? 5000);
    const pod = await this.#pod(named, signal);
    const namespace = await this.#ask(named, () =>
      this.#options.node.findNamespace(named.namespace, { signal }),
    );
    if (namespace.facts === undefined) {
      throw new Error(`namespace "${named.namespace}" is not known to the API server; kubelet tries again`);
    }
    return { pod, namespace: namespace.facts };
  }

  async #pod(named: PodIdentity, signal: AbortSignal): Promise<PodFacts> {
    // without a UID a cached pod of this name may be the predecessor of the one that is being made
    const { facts: pod } = await this.#ask(named, () => this.#options.node.findPod(named, { signal }));
    const name = `"${named.namespace}/${named.name}"`;
    if (pod === undefined) {
      throw new Error(
        `pod ${name} is not known to the API server: it was deleted, or a static pod's mirror is not there yet; kubelet tries again`,
      );
    }
    if (!isSame(pod, named)) {
      throw new Error(
        `pod ${name} has UID ${pod.uid} at the API server, the runtime asks for ${named.uid}: it was replaced meanwhile; kubelet tries again`,
      );
    }
    return pod;
  }

  async #ask<T>(named: PodIdentity, request: () => Promise<T>): Promise<T> {
    try {
      return await request();
    } catch (error) {
      this.#options.log.warn(
        { ns: named.namespace, pod: named.name, err: error },
        "cannot ask the API server about a pod",
      );
      const reason = (error as Error).message;
      throw new Error(
        `cannot know whether pod "${named.namespace}/${named.name}" belongs to the ambient mesh: ${reason}; it is held until the API server answers, kubelet tries again`,
        { cause: error },
      );
    }
  }
}

function isSame(pod: PodFacts, named: PodIdentity): boolean {
  return named.uid === "" || pod.uid === named.uid || runtimeUid(pod) === named.uid;
}
