// SPDX-License-Identifier: Apache-2.0
// Pods of the node that have a sidecar which waits for rules: they get them before their ADD is answered. ztunnel never hears of them, and
// nothing is written to their annotations.
import type { NamespaceNames } from "../kube/namespace-patterns.ts";
import type { PodFacts } from "../kube/pod-facts.ts";
import type { Netns } from "../linux/netns.ts";
import type { Logger } from "../log/logger.ts";
import { defaultSidecarOptions, SidecarOptionsError } from "../redirection/sidecar-options.ts";
import type { SidecarRedirection, SidecarReport } from "../redirection/sidecar-redirection.ts";
import { failureOf } from "./failure.ts";
import { awaitsRules, sidecarOptionsOfPod } from "./sidecar-decision.ts";

export interface SidecarsOptions {
  readonly redirection: Pick<SidecarRedirection, "apply" | "prepare">;
  readonly excludeNamespaces: NamespaceNames;
  readonly log: Logger;
}

/** A pod with a sidecar cannot be given what its sidecar waits for; the message has cause and remedy. */
export class SidecarError extends Error {
  override readonly name = "SidecarError";

  constructor({ namespace, name }: PodFacts, cause: unknown) {
    const { message, remedy } = failureOf(cause);
    // what is wrong with the pod itself is said with its own remedy
    const more = cause instanceof SidecarOptionsError ? "" : remedy;
    super(
      `Cannot redirect pod "${namespace}/${name}" to its sidecar: ${message}${more}. The pod is tried again by kubelet`,
      { cause },
    );
  }
}

/** What an ADD may take; a runtime gives up later than that. */
const ADD_MS = 30_000;

/** Writes sidecars' rules. */
export class Sidecars {
  readonly #options: SidecarsOptions;

  constructor(options: SidecarsOptions) {
    this.#options = options;
  }

  /** Does beforehand what the first pods of a node would wait for: rules as the injector asks for them by default, and with DNS. */
  async prepare(): Promise<void> {
    for (const dnsCapture of [false, true])
      await this.#options.redirection.prepare(defaultSidecarOptions({ dnsCapture }));
  }

  /** Whether a pod's sidecar waits for rules of this node's agent. */
  awaitsRules(pod: PodFacts): boolean {
    return awaitsRules(pod, this.#options.excludeNamespaces);
  }

  /**
   * Has the pod of a new sandbox redirected to its sidecar, if that waits for it.
   * @param open opens the namespace; the handle is closed
   * @returns false: the pod is none of these, and nothing was touched
   * @throws {SidecarError} the pod must not start: what it sends would go past its proxy; CniError of `open`
   */
  async add(pod: PodFacts, open: () => Netns): Promise<boolean> {
    if (!this.awaitsRules(pod)) return false;
    using netns = open();
    const signal = AbortSignal.timeout(ADD_MS);
    const isNew = pod.phase !== "Running";
    const startedMs = performance.now();
    const { families } = await this.apply(pod, netns, { isNew, signal });
    const { namespace: ns, name, uid } = pod;
    const ms = Math.round(performance.now() - startedMs);
    this.#options.log.info(
      { ns, pod: name, uid, netns: netns.key, families, ms },
      "pod redirected to its sidecar",
    );
    return true;
  }

  /**
   * Brings about, or mends, the redirection of a pod with a sidecar in its namespace; writes nothing where it is right already.
   * @param pod one that {@link Sidecars.awaitsRules} @param netns stays the caller's
   * @throws {SidecarError}
   */
  async apply(
    pod: PodFacts,
    netns: Netns,
    call: { readonly isNew?: boolean; readonly signal?: AbortSignal } = {},
  ): Promise<SidecarReport> {
    const { redirection, log } = this.#options;
    try {
      const report = await redirection.apply(netns, sidecarOptionsOfPod(pod), call);
      const { namespace: ns, name, uid } = pod;
      const { fallback } = report;
      if (fallback !== undefined)
        log.warn(
          { ns, pod: name, uid, reason: fallback },
          "a program wrote a sidecar's rules, which takes many times longer",
        );
      return report;
    } catch (error) {
      throw new SidecarError(pod, error);
    }
  }
}
