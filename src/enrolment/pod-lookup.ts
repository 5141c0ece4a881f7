// SPDX-License-Identifier: Apache-2.0
// Finds what is needed to decide about a pod that the runtime is just making: from the watches, or from the API server.
import type { CallOptions } from "../kube/api-client.ts";
import { ApiError } from "../kube/api-error.ts";
import type { NodeState } from "../kube/node-state.ts";
import type { NamespaceFacts, PodFacts, PodIdentity } from "../kube/pod-facts.ts";
import type { Logger } from "../log/logger.ts";
import { systemClock } from "../loop/clock.ts";
import { runtimeUid } from "./runtime-pod.ts";

export interface PodLookupOptions {
  readonly node: NodeState;
  readonly log: Logger;
  /** How long the API server may take. */
  readonly timeoutMs?: number;
}

/** How long a call may last: until the signal, which comes then. */
interface CallTime {
  readonly signal: AbortSignal;
  readonly endMs: number;
}

/** Looks pods up for ADD. "Not found" and "cannot know" are errors: such a pod is held, never passed. */
export class PodLookup {
  readonly #options: PodLookupOptions;

  constructor(options: PodLookupOptions) {
    this.#options = options;
  }

  /** @param named as the runtime does; `uid` is empty when it does not say. @throws Error with the cause and what will happen next */
  async find(named: PodIdentity): Promise<{ pod: PodFacts; namespace: NamespaceFacts }> {
    const { timeoutMs = 5000 } = this.#options;
    const time: CallTime = { signal: AbortSignal.timeout(timeoutMs), endMs: performance.now() + timeoutMs };
    const pod = await this.#pod(named, time);
    const namespace = await this.#ask(named, time, (options) =>
      this.#options.node.findNamespace(named.namespace, options),
    );
    if (namespace.facts === undefined) {
      throw new Error(`namespace "${named.namespace}" is not known to the API server; kubelet tries again`);
    }
    return { pod, namespace: namespace.facts };
  }

  async #pod(named: PodIdentity, time: CallTime): Promise<PodFacts> {
    // without a UID a cached pod of this name may be the predecessor of the one that is being made
    const { facts: pod } = await this.#ask(named, time, (options) =>
      this.#options.node.findPod(named, options),
    );
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

  async #ask<T>(
    named: PodIdentity,
    time: CallTime,
    request: (options: CallOptions) => Promise<T>,
  ): Promise<T> {
    try {
      return await unlessAskedToWait(() => request({ signal: time.signal }), time);
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

/**
 * Asks again when the server said so, where that is in time: kubelet would come back only after ten seconds, with a new sandbox.
 * Source: client-go rest/with_retry.go, which every other client of the node heeds; kubernetes pkg/kubelet/kubelet.go, backOffPeriod.
 */
async function unlessAskedToWait<T>(request: () => Promise<T>, { signal, endMs }: CallTime): Promise<T> {
  for (;;) {
    try {
      return await request();
    } catch (error) {
      const pauseMs = error instanceof ApiError ? (error.retryAfterMs ?? 0) : 0;
      if (pauseMs === 0 || performance.now() + pauseMs >= endMs) throw error;
      await systemClock.sleep(pauseMs, signal);
    }
  }
}

function isSame(pod: PodFacts, named: PodIdentity): boolean {
  return named.uid === "" || pod.uid === named.uid || runtimeUid(pod) === named.uid;
}
