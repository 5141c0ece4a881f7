// SPDX-License-Identifier: Apache-2.0
// What the container runtime tells of sandboxes besides CNI (NRI): those that no ADD announced are captured before a container of them
// exists, or get none. The runtime holds up all pods of the node meanwhile, so nobody is waited for.
import { join } from "node:path";
import type { NodeState } from "../kube/node-state.ts";
import { type NamespaceFacts, type PodFacts, podAnnotations } from "../kube/pod-facts.ts";
import { sameAddress } from "../linux/address.ts";
import { netnsKeyAt } from "../linux/host-netns.ts";
import { Netns } from "../linux/netns.ts";
import type { Logger } from "../log/logger.ts";
import type { Clock } from "../loop/clock.ts";
import { within } from "../loop/deadline.ts";
import type { Attachments, Place } from "./attachments.ts";
import { decideEnrolment, type EnrolmentPolicy } from "./desired-state.ts";
import type { Enrolment } from "./enrolment.ts";
import { EnrolmentError } from "./outcomes.ts";
import { runtimeUid } from "./runtime-pod.ts";
import type { SandboxFinder } from "./sandbox-finder.ts";

/** A sandbox as a runtime tells of it. */
export interface ToldSandbox {
  /** As in CNI_CONTAINERID. */
  readonly id: string;
  /** The pod's, as the runtime has it. */
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
  /** As the runtime sees it; empty: it has no network of its own. */
  readonly netnsPath: string;
  readonly ips: readonly string[];
}

/**
 * What became of a sandbox that began.
 * - `announced`: an ADD of ours had told of it, and answers for it.
 * - `outside`: it is not for the mesh; `unknown`: nobody has told us of the pod yet, so that it starts.
 * - `captured`; `held`: it is not, and gets no container until it is; `passed`: it is not, and goes on. Its pod's runs try on.
 */
export const beginnings = ["announced", "outside", "unknown", "captured", "held", "passed"] as const;
export type Beginning = (typeof beginnings)[number];

export interface RuntimeWordOptions {
  readonly node: Pick<NodeState, "podByName" | "namespace" | "isFresh">;
  readonly enrolment: Pick<Enrolment, "add" | "told" | "gone" | "record">;
  readonly attachments: Pick<Attachments, "ofContainer" | "placeOf">;
  readonly finder: Pick<SandboxFinder, "stands">;
  readonly ztunnel: { readonly connectionCount: number };
  readonly policy: EnrolmentPolicy;
  /** Whether pods of the mesh must not start without us: our entry in the chain would have held them. */
  readonly mayRefuse: () => boolean;
  readonly hostNetns: ReadonlySet<string>;
  readonly hostRoot: string;
  readonly clock: Clock;
  readonly log: Logger;
  /** Told of every sandbox that began. */
  readonly onbeginning?: (beginning: Beginning, seconds: number) => void;
  /** Told of every container that was refused. */
  readonly onrefusal?: () => void;
}

/** How long the runtime waits. */
export interface RuntimeCall {
  /** What it grants; 0: it does not say. */
  readonly timeoutMs: number;
}

/** A capture takes some 20 ms; the runtime cuts off who takes 2 s. */
const captureMs = 1_000;
interface Known {
  readonly pod: PodFacts;
  readonly namespace: NamespaceFacts;
}

/** Hears of sandboxes, and sees to it that those of the mesh are captured. */
export class RuntimeWord {
  readonly #options: RuntimeWordOptions;

  constructor(options: RuntimeWordOptions) {
    this.#options = options;
  }

  /** All sandboxes that the runtime has now. Those that nobody told of are where their pods are looked for. */
  synchronized(sandboxes: readonly ToldSandbox[]): void {
    const { attachments, enrolment, finder, log } = this.#options;
    // one whose processes died is among them until it is taken down: what the pod's status has the address of is told last, as the newest
    const inOrder = sandboxes.toSorted((a, b) => Number(this.#isCurrent(a)) - Number(this.#isCurrent(b)));
    const places = inOrder.flatMap((sandbox) => {
      if (attachments.ofContainer(sandbox.id) !== undefined) return [];
      const place = this.#placeOf(sandbox);
      if (place === undefined) return [];
      // which of two sandboxes is the newer one nobody says: one that an ADD told of stays while it is there
      const before = attachments.placeOf(place.uid);
      return before !== undefined && finder.stands(before) ? [] : [place];
    });
    enrolment.told(places);
    log.debug({ sandboxes: sandboxes.length, new: places.length }, "the runtime told of its sandboxes");
  }

  /** A sandbox has its networks and no container yet. Never rejects: containerd leaves the processes of a sandbox behind that is refused. */
  async begins(sandbox: ToldSandbox, call: RuntimeCall): Promise<void> {
    const { clock, onbeginning } = this.#options;
    const startMs = clock.nowMs();
    const beginning = await this.#begins(sandbox, call);
    onbeginning?.(beginning, (clock.nowMs() - startMs) / 1000);
  }

  /**
   * A container of a sandbox is about to be made.
   * @throws {EnrolmentError} it must not be: it would run outside the mesh
   */
  async creates(sandbox: ToldSandbox, call: RuntimeCall): Promise<void> {
    const { onrefusal, log } = this.#options;
    const place = this.#toldPlace(sandbox);
    // an ADD answers for what it announced
    if (place?.toldBy !== "nri") return;
    const known = this.#known(sandbox);
    // what runs already is not stopped from going on
    if (known === undefined || known.pod.phase === "Running" || this.#isSettled(known, place)) return;
    if (this.#isCaptureOfBefore(known, place)) return;
    const { beginning, refusal } = await this.#capture(known, { ...place, uid: known.pod.uid }, call);
    if (beginning !== "held" || refusal === undefined) return;
    const { namespace: ns, name: pod, id: container } = sandbox;
    log.warn({ ns, pod, container, reason: refusal.message }, "refused a container: its pod is not captured");
    onrefusal?.();
    throw refusal;
  }

  /** Its containers have ended. What an ADD announced ends with its DEL, which waits for ztunnel. */
  stopped({ id }: Pick<ToldSandbox, "id">): void {
    const place = this.#options.attachments.ofContainer(id);
    if (place?.toldBy === "nri") this.#options.enrolment.gone(place);
  }

  /** It is gone, and whoever should have told of it has not. */
  removed({ id }: Pick<ToldSandbox, "id">): void {
    const place = this.#options.attachments.ofContainer(id);
    if (place !== undefined) this.#options.enrolment.gone(place);
  }

  async #begins(sandbox: ToldSandbox, call: RuntimeCall): Promise<Beginning> {
    const { attachments, enrolment, policy, log } = this.#options;
    if (attachments.ofContainer(sandbox.id) !== undefined) return "announced";
    if (policy.excludeNamespaces.has(sandbox.namespace)) return "outside";
    const place = this.#placeOf(sandbox);
    // the host's network, or a namespace that is out of our sight
    if (place === undefined) return "outside";
    const { namespace: ns, name: pod, id: container } = sandbox;
    const known = this.#known(sandbox);
    const settled = known === undefined ? "unknown" : this.#isSettled(known, place);
    if (known === undefined || settled !== false) {
      enrolment.told([place]);
      if (settled === "unknown")
        log.info({ ns, pod, container }, "a sandbox began whose pod is not known yet");
      return settled || "unknown";
    }
    const { beginning, refusal } = await this.#capture(known, place, call);
    if (refusal !== undefined)
      log.warn(
        { ns, pod, container, reason: refusal.message },
        beginning === "held"
          ? "a sandbox that no ADD announced is not captured: it gets no container until it is"
          : "a sandbox that no ADD announced is not captured, and goes on",
      );
    return beginning;
  }

  /**
   * Where a sandbox is. One that began while we registered may be told of here first: CRI-O lists those that are made, and asks who is
   * registered. Source: cri-o 1.37.0 server/nri-api.go, ListPodSandboxes; containerd/nri 0.12.0 pkg/adaptation, acceptPluginConnections.
   */
  #toldPlace(sandbox: ToldSandbox): Place | undefined {
    const { attachments, enrolment, policy } = this.#options;
    const told = attachments.ofContainer(sandbox.id);
    if (told !== undefined || policy.excludeNamespaces.has(sandbox.namespace)) return told;
    const place = this.#placeOf(sandbox);
    if (place !== undefined) enrolment.told([place]);
    return place;
  }

  /** What nothing is to be done about: `announced`, an ADD that does not name its sandbox, as istio-cni's plugin's, saw to it. */
  #isSettled({ pod, namespace }: Known, { netnsKey }: Place): "outside" | "announced" | false {
    if (!decideEnrolment(pod, namespace, this.#options.policy).wanted) return "outside";
    const record = this.#options.enrolment.record(pod.uid);
    return record?.state === "enrolled" && record.sandbox?.netns.key === netnsKey ? "announced" : false;
  }

  /** An agent before this one captured it, and its rules stand: nothing of it gets past the mesh while its ztunnel comes back to us. */
  #isCaptureOfBefore({ pod }: Known, { netnsKey }: Place): boolean {
    const record = this.#options.enrolment.record(pod.uid);
    const hasRules = record?.hasRules === true && record.sandbox?.netns.key === netnsKey;
    return hasRules && pod.annotations[podAnnotations.redirection] === "enabled";
  }

  async #capture(
    known: Known,
    place: Place,
    { timeoutMs }: RuntimeCall,
  ): Promise<{ readonly beginning: Beginning; readonly refusal?: EnrolmentError }> {
    const { enrolment, ztunnel, node, clock, hostRoot, mayRefuse } = this.#options;
    const ms = timeoutMs > 0 ? Math.min(captureMs, timeoutMs / 2) : captureMs;
    // without a ztunnel nothing would come of waiting
    const patience = { waitMs: ztunnel.connectionCount === 0 ? 0 : ms };
    const attachment = { network: "", ifname: "", containerId: place.containerId };
    const open = (): Netns => Netns.open(join(hostRoot, place.netnsPath));
    try {
      // its own deadline ends first, and with it what the pod's run may take for granted of a sandbox that is being made
      const added = enrolment.add({ ...known, place, attachment, open, patience });
      const message = `it is not captured within ${ms / 1000} s`;
      return {
        beginning: (await within(added, { ms, clock, message })) === "enrolled" ? "captured" : "outside",
      };
    } catch (error) {
      const refusal = error instanceof EnrolmentError ? error : new EnrolmentError(known.pod, error);
      // a picture that may be old says of nobody for certain that it is the mesh's
      return { beginning: mayRefuse() && node.isFresh() ? "held" : "passed", refusal };
    }
  }

  /** Whether its pod's status has one of its addresses. */
  #isCurrent(sandbox: ToldSandbox): boolean {
    const ips = this.#known(sandbox)?.pod.ips ?? [];
    return sandbox.ips.some((ip) => ips.some((each) => sameAddress(each, ip)));
  }

  /** The pod and its namespace, as the watches have them. */
  #known({ uid, namespace: ns, name }: ToldSandbox): Known | undefined {
    const { node } = this.#options;
    const pod = node.podByName(ns, name);
    const namespace = node.namespace(ns);
    if (pod === undefined || namespace === undefined) return undefined;
    return pod.uid === uid || runtimeUid(pod) === uid ? { pod, namespace } : undefined;
  }

  /** `undefined`: it has no network of its own, or one that cannot be seen from here. */
  #placeOf(sandbox: ToldSandbox): Place | undefined {
    const { id: containerId, namespace, name, netnsPath, ips } = sandbox;
    const netnsKey = this.#netnsKey(netnsPath);
    if (netnsKey === undefined || this.#options.hostNetns.has(netnsKey)) return undefined;
    // a static pod has another UID at the API server
    const uid = this.#known(sandbox)?.pod.uid ?? sandbox.uid;
    return { uid, namespace, name, containerId, netnsPath, netnsKey, ips, toldBy: "nri" };
  }

  #netnsKey(path: string): string | undefined {
    try {
      return path === "" ? undefined : netnsKeyAt(join(this.#options.hostRoot, path));
    } catch {
      return undefined;
    }
  }
}
