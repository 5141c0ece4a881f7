// SPDX-License-Identifier: Apache-2.0
// Pods of the node that have a sidecar which waits for rules: they get them before their ADD is answered. ztunnel never hears of them, and
// nothing is written to their annotations.
import type { NamespaceNames } from "../kube/namespace-patterns.ts";
import type { PodFacts } from "../kube/pod-facts.ts";
import type { Netns } from "../linux/netns.ts";
import { userNamespacesOver } from "../linux/user-namespaces.ts";
import type { Logger } from "../log/logger.ts";
import {
  defaultSidecarOptions,
  type SidecarOptions,
  SidecarOptionsError,
} from "../redirection/sidecar-options.ts";
import type { SidecarRedirection, SidecarReport } from "../redirection/sidecar-redirection.ts";
import type { Attachments, Place } from "./attachments.ts";
import { failureOf } from "./failure.ts";
import { awaitsRules, sidecarOptionsOfPod } from "./sidecar-decision.ts";
import type { SidecarRecord, SidecarRecords, SidecarSetback } from "./sidecar-records.ts";

export interface SidecarsOptions {
  readonly redirection: Pick<SidecarRedirection, "apply" | "prepare" | "verify" | "takesOwnUsers">;
  /** Whose ADD this node's agent answered, and where. */
  readonly attachments: Pick<Attachments, "placeOf">;
  /** What becomes of the pods is told here. */
  readonly records: SidecarRecords;
  readonly excludeNamespaces: NamespaceNames;
  readonly log: Logger;
}

/** A pod whose sidecar has its rules from this node's agent, or is to have them. */
export interface ServedSidecar {
  /** How it should be redirected; `undefined`: its annotations cannot be followed. */
  readonly options: SidecarOptions | undefined;
  /** Where it runs; `undefined`: its ADD has not succeeded, or an agent before this boot answered it. */
  readonly place: Place | undefined;
  /** `undefined`: it was not looked at yet. */
  readonly record: SidecarRecord | undefined;
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

/** Writes sidecars' rules, and knows which pods have them. */
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

  /** How this node's agent serves a pod; `undefined`: its sidecar waits for nobody's rules, or another program wrote them. */
  served(pod: PodFacts): ServedSidecar | undefined {
    if (!this.awaitsRules(pod)) return undefined;
    const { attachments, records, redirection } = this.#options;
    const place = attachments.placeOf(pod.uid);
    const record = records.of(pod.uid);
    if (place === undefined && record === undefined) return undefined;
    return { options: followedOptions(pod, redirection), place, record };
  }

  /** Differences that looks have put right since the start, by kind. */
  get repairs(): ReadonlyMap<string, number> {
    return this.#options.records.repairs;
  }

  /** What of a pod's redirection to its sidecar is not as it should be; writes nothing. @throws as `SidecarRedirection.verify` */
  verify(...call: Parameters<SidecarRedirection["verify"]>): ReturnType<SidecarRedirection["verify"]> {
    return this.#options.redirection.verify(...call);
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
    const { families } = await this.#apply(pod, netns, { isNew, signal, isAdd: true });
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
  apply(pod: PodFacts, netns: Netns, call: { readonly signal?: AbortSignal } = {}): Promise<SidecarReport> {
    return this.#apply(pod, netns, { ...call, isNew: false, isAdd: false });
  }

  async #apply(
    pod: PodFacts,
    netns: Netns,
    call: { readonly isNew: boolean; readonly isAdd: boolean; readonly signal?: AbortSignal },
  ): Promise<SidecarReport> {
    const { redirection, records, log } = this.#options;
    const { isAdd, ...how } = call;
    const startedMs = performance.now();
    const { namespace: ns, name, uid } = pod;
    try {
      const options = sidecarOptionsOfPod(pod, redirection);
      assertUsersAreOfNetwork(pod, netns);
      const report = await redirection.apply(netns, options, how);
      const { fallback, families } = report;
      records.right(uid, { netnsKey: netns.key, families, ms: performance.now() - startedMs });
      if (fallback !== undefined)
        log.warn(
          { ns, pod: name, uid, reason: fallback },
          "a program wrote a sidecar's rules, which takes many times longer",
        );
      return report;
    } catch (error) {
      records.failed(uid, setbackOf(error, { isAdd }), performance.now() - startedMs);
      throw new SidecarError(pod, error);
    }
  }
}

/** What a pod's annotations ask for, where they can be followed. */
function followedOptions(
  pod: PodFacts,
  rules: { readonly takesOwnUsers: boolean },
): SidecarOptions | undefined {
  try {
    return sidecarOptionsOfPod(pod, rules);
  } catch (error) {
    if (error instanceof SidecarOptionsError) return undefined;
    throw error;
  }
}

const ANNOTATION_REMEDY = "; change it where the pod is made, in its template: the next pod has it";

/** A look that fails says nothing of the rules that stood before, unless they are known to be wrong. */
function setbackOf(error: unknown, { isAdd }: { readonly isAdd: boolean }): SidecarSetback {
  const { kind, message, remedy, rules } = failureOf(error);
  if (error instanceof SidecarOptionsError)
    return { state: "failed", kind, message, remedy: ANNOTATION_REMEDY };
  return { state: isAdd || rules === "wrong" ? "failed" : "unverified", kind, message, remedy };
}

/**
 * Rules know users as the network's owner does: were that not the pod's user namespace, the proxy's own traffic would go to the proxy.
 * @throws {SidecarOptionsError}
 */
function assertUsersAreOfNetwork({ sidecar }: PodFacts, netns: Netns): void {
  // the owner, and what is above it as far as it is shown: one alone is this agent's own
  if (sidecar?.ownUsers !== true || userNamespacesOver(netns.fd).size > 1) return;
  throw new SidecarOptionsError(
    "it has a user namespace of its own (hostUsers: false), but its network belongs to the node's: its proxy is not known by its user there; " +
      "use a container runtime that gives a pod's network to its user namespace, or leave hostUsers out",
  );
}
