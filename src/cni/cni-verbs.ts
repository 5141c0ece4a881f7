// SPDX-License-Identifier: Apache-2.0
// What each CNI verb does on the agent's side.
import { join } from "node:path";
import { supportedCniVersions } from "../conflist/cni-versions.ts";
import type { Attachment, Place } from "../enrolment/attachments.ts";
import type { Enrolment } from "../enrolment/enrolment.ts";
import { EnrolmentError } from "../enrolment/outcomes.ts";
import type { PodLookup } from "../enrolment/pod-lookup.ts";
import { SidecarError, type Sidecars } from "../enrolment/sidecars.ts";
import type { NamespaceNames } from "../kube/namespace-patterns.ts";
import type { PodFacts, PodIdentity } from "../kube/pod-facts.ts";
import { netnsKeyAt } from "../linux/host-netns.ts";
import { Netns } from "../linux/netns.ts";
import type { Logger } from "../log/logger.ts";
import { type CallOutcome, CniError, callOutcomeOf } from "./cni-error.ts";
import type { CniRequest } from "./cni-request.ts";

export interface CniVerbsOptions {
  readonly enrolment: Pick<Enrolment, "add" | "remove" | "keepOnly" | "check">;
  readonly sidecars: Pick<Sidecars, "add">;
  readonly lookup: Pick<PodLookup, "find">;
  readonly excludeNamespaces: NamespaceNames;
  /** Whether the pods of a namespace start without an agent; asked when it cannot be known what a pod is. */
  readonly isExempt: (namespace: string) => Promise<boolean>;
  readonly hostNetns: ReadonlySet<string>;
  readonly hostRoot: string;
  readonly log: Logger;
  /** Told of every answer. */
  readonly onanswer?: (verb: string, outcome: CallOutcome, seconds: number) => void;
  /** An ADD of a pod of the mesh was answered: 200, or 500 when the pod is not captured. */
  readonly onmeshadd?: (code: 200 | 500) => void;
  /** A CHECK asked for a pod that is not captured as it should be. */
  readonly oncheckfault?: () => void;
}

/** Answers checked CNI calls. */
export class CniVerbs {
  readonly #options: CniVerbsOptions;
  /** Calls whose pod is in the mesh now, by ztunnel or by its sidecar. */
  readonly #captured = new WeakSet<CniRequest>();

  constructor(options: CniVerbsOptions) {
    this.#options = options;
  }

  /** @returns the text for stdout @throws CniError */
  async handle(request: CniRequest): Promise<string> {
    const { log } = this.#options;
    const startedMs = performance.now();
    const names = {
      verb: request.verb,
      ns: request.pod?.namespace,
      pod: request.pod?.name,
      container: request.containerId,
    };
    try {
      const answer = await this.#dispatch(request);
      this.#tell(request, this.#captured.has(request) ? "captured" : "passed", startedMs);
      log.debug({ ...names, ms: Math.round(performance.now() - startedMs) }, "CNI call done");
      return answer;
    } catch (error) {
      this.#tell(request, callOutcomeOf(error), startedMs);
      const ms = Math.round(performance.now() - startedMs);
      log.warn({ ...names, ms, reason: (error as Error).message }, "CNI call failed");
      throw error;
    }
  }

  #tell({ verb }: CniRequest, outcome: CallOutcome, startedMs: number): void {
    this.#options.onanswer?.(verb, outcome, (performance.now() - startedMs) / 1000);
  }

  /**
   * STATUS succeeds whatever is wrong: a runtime takes it for the network of the whole node, and then no pod starts there, not
   * even those that have nothing to do with the mesh or are to put it right. ADD says it, pod by pod. istio-cni has no STATUS.
   */
  #dispatch(request: CniRequest): Promise<string> | string {
    switch (request.verb) {
      case "ADD":
        return this.#add(request);
      case "DEL":
        return this.#del(request);
      case "CHECK":
        return this.#check(request);
      case "GC":
        return this.#gc(request);
      case "STATUS":
        return "";
      case "VERSION":
        return JSON.stringify({ cniVersion: request.cniVersion, supportedVersions: supportedCniVersions });
    }
  }

  async #add(request: CniRequest): Promise<string> {
    // a sandbox without a pod's name (cnitool, podman) is nobody the mesh knows
    if (request.pod === undefined || this.#isExcluded(request.pod)) return request.result;
    const facts = await this.#lookUp(request.pod);
    if (facts === "exempt") return request.result;
    await this.#addSidecar(request, facts.pod);
    try {
      const outcome = await this.#options.enrolment.add({
        ...facts,
        place: this.#placeOf(request, facts.pod),
        attachment: attachmentOf(request),
        open: () => this.#openSandbox(request.netns),
      });
      if (outcome === "enrolled") {
        this.#captured.add(request);
        this.#options.onmeshadd?.(200);
      }
    } catch (error) {
      this.#options.onmeshadd?.(500);
      if (error instanceof EnrolmentError) throw new CniError("notCaptured", error.message);
      throw error;
    }
    return request.result;
  }

  /** Before anything else hears of the pod: it is no pod of ambient mode, and its rules are all that it waits for. */
  async #addSidecar(request: CniRequest, pod: PodFacts): Promise<void> {
    try {
      if (await this.#options.sidecars.add(pod, () => this.#openSandbox(request.netns)))
        this.#captured.add(request);
    } catch (error) {
      if (error instanceof SidecarError) throw new CniError("notCaptured", error.message);
      throw error;
    }
  }

  async #del(request: CniRequest): Promise<string> {
    await this.#options.enrolment.remove(this.#namedBy(request));
    return "";
  }

  /** Never fails: a runtime takes a pod's addresses away for it, and whatever is wrong the agent repairs by itself. */
  #check(request: CniRequest): string {
    const fault = this.#options.enrolment.check(this.#namedBy(request));
    if (fault !== undefined) {
      const { namespace: ns, name: pod } = request.pod ?? {};
      this.#options.log.warn(
        { ns, pod, fault },
        "CHECK found a pod that is not captured as it should be; looking at it",
      );
      this.#options.oncheckfault?.();
    }
    return "";
  }

  #gc(request: CniRequest): string {
    // an absent list says nothing, so nothing is to be cleared up
    if (request.validAttachments !== undefined)
      this.#options.enrolment.keepOnly(request.network, request.validAttachments);
    return "";
  }

  /** An agent that cannot tell anything of a pod holds up no more than one that is away. */
  async #lookUp(pod: PodIdentity): Promise<Awaited<ReturnType<PodLookup["find"]>> | "exempt"> {
    try {
      return await this.#options.lookup.find(pod);
    } catch (error) {
      if (await this.#options.isExempt(pod.namespace)) return "exempt";
      throw new CniError("tryAgainLater", (error as Error).message);
    }
  }

  /** Needs no look at the pod, so it holds without the API server too. */
  #isExcluded(pod: PodIdentity): boolean {
    return this.#options.excludeNamespaces.has(pod.namespace);
  }

  #namedBy(request: CniRequest) {
    const netnsKey = this.#netnsKey(request.netns);
    return { ...attachmentOf(request), uid: request.pod?.uid ?? "", netnsKey };
  }

  #placeOf({ containerId, netns, ips }: CniRequest, { uid, namespace, name }: PodFacts): Place {
    const netnsKey = this.#netnsKey(netns) ?? "";
    return { uid, namespace, name, containerId, netnsPath: netns, netnsKey, ips };
  }

  /** `undefined` for a path that is empty, gone or out of our sight: DEL must not fail over it. */
  #netnsKey(path: string): string | undefined {
    try {
      return path === "" ? undefined : netnsKeyAt(join(this.#options.hostRoot, path));
    } catch {
      return undefined;
    }
  }

  #openSandbox(path: string): Netns {
    const netns = this.#open(path);
    if (!this.#options.hostNetns.has(netns.key)) return netns;
    netns.close();
    throw new CniError(
      "invalidEnvironment",
      `CNI_NETNS "${path}" is the host's own network namespace, not a pod's`,
    );
  }

  #open(path: string): Netns {
    try {
      return Netns.open(join(this.#options.hostRoot, path));
    } catch (error) {
      throw new CniError("invalidEnvironment", `cannot use CNI_NETNS "${path}": ${(error as Error).message}`);
    }
  }
}

function attachmentOf({ network, containerId, ifname }: CniRequest): Attachment {
  return { network, containerId, ifname };
}
