// SPDX-License-Identifier: Apache-2.0
// Brings one pod from what is to what should be. Safe at any moment, any number of times.
import type { AnnotationWriter } from "../kube/annotation-writer.ts";
import type { EventRecorder } from "../kube/event-recorder.ts";
import type { NodeState } from "../kube/node-state.ts";
import { type NamespaceFacts, type PodFacts, podAnnotations } from "../kube/pod-facts.ts";
import type { Logger } from "../log/logger.ts";
import type { HostProbes } from "../probes/host-probes.ts";
import type { ProbePathWatch } from "../probes/probe-path-watch.ts";
import type { PodRedirection } from "../redirect/pod-redirection.ts";
import type { RedirectOptions } from "../redirect/rules.ts";
import { ZdsError } from "../ztunnel/zds-error.ts";
import type { ZdsServer } from "../ztunnel/zds-server.ts";
import { decideEnrolment, type EnrolmentPolicy } from "./desired-state.ts";
import type { PodHistory } from "./pod-history.ts";
import { adoptSandbox, isRemains, newestFacts, offerSandbox, type PodRecord } from "./pod-record.ts";
import { Repairs } from "./repairs.ts";
import { soughtPod } from "./runtime-pod.ts";
import type { Sandbox, SandboxFinder } from "./sandbox-finder.ts";

/** How a run ended when nothing went wrong. */
export type ReconcileOutcome =
  | "enrolled"
  | "outside"
  | "forgotten"
  | "no-sandbox"
  | "no-way-out"
  | "no-ztunnel"
  | "namespace-unknown";

/** What the reconciler works with. */
export interface ReconcilerParts {
  readonly node: NodeState;
  readonly finder: SandboxFinder;
  readonly redirection: PodRedirection;
  readonly ztunnel: ZdsServer;
  readonly annotations: AnnotationWriter;
  readonly events: EventRecorder;
  readonly probes: HostProbes;
  readonly probePath: Pick<ProbePathWatch, "enrolled" | "left">;
  readonly history: PodHistory;
  readonly policy: EnrolmentPolicy;
  readonly log: Logger;
}

/** The steps in and out of the mesh. In: routes and rules, ztunnel's ack, probes, annotation. Out: probes, rules, ztunnel, annotation. */
export class PodReconciler {
  readonly #parts: ReconcilerParts;
  readonly repairs: Repairs;

  /** The agent leaves the node for good: no pod belongs into the mesh any more. */
  isLeaving = false;

  constructor(parts: ReconcilerParts) {
    this.#parts = parts;
    this.repairs = new Repairs(parts);
  }

  /** Looks at one pod and does what is missing. @throws when a step failed; the pod then stays where it is */
  async reconcile(record: PodRecord): Promise<ReconcileOutcome> {
    // a sandbox that an ADD has just replaced can wait for the next run, the new one's pod cannot
    if (record.adding === 0 || record.sandbox === undefined) await this.#clearDeparted(record);
    return this.#converge(record);
  }

  async #converge(record: PodRecord): Promise<ReconcileOutcome> {
    const pod = record.facts;
    if (pod === undefined) return this.#forget(record);
    if (this.isLeaving) return this.#leave(record, { pod, reason: "agent-leaves" });
    const namespace = this.#namespaceOf(record, pod);
    // what cannot be known is not decided: the pod stays as it is
    if (namespace === undefined) return "namespace-unknown";
    const desired = decideEnrolment(pod, namespace, this.#parts.policy);
    if (!desired.wanted) return this.#leave(record, { pod, reason: desired.reason });
    this.#warnOnce(record, desired.warnings);
    return this.#enrol(record, { pod, redirect: desired.redirect });
  }

  #namespaceOf(record: PodRecord, pod: PodFacts): NamespaceFacts | undefined {
    const { node } = this.#parts;
    const cached = node.namespace(pod.namespace);
    if (cached === undefined && record.namespaceHint === undefined) {
      // a namespace that is known to be gone has no labels; one that nobody has heard of may only be late
      const isGone = record.touched && node.isFresh();
      return isGone
        ? { key: pod.namespace, name: pod.namespace, labels: {}, resourceVersion: "" }
        : undefined;
    }
    if (record.namespaceHint === undefined) return cached;
    const newest = newestFacts(record.namespaceHint, cached ?? record.namespaceHint);
    // from the moment on that the watch has caught up, it alone is believed
    if (newest === cached) record.namespaceHint = undefined;
    return newest;
  }

  async #enrol(
    record: PodRecord,
    want: { pod: PodFacts; redirect: RedirectOptions },
  ): Promise<ReconcileOutcome> {
    const { ztunnel, redirection, history, log } = this.#parts;
    const { pod } = want;
    const startedMs = performance.now();
    const sandbox = await this.#currentSandbox(record, pod);
    history.step(pod.uid, "sandbox");
    if (sandbox === undefined) {
      record.state = "waiting";
      return "no-sandbox";
    }
    if (!record.touched && ztunnel.connectionCount === 0) {
      // redirecting a running pod before ztunnel can serve it would cut it off
      record.state = "waiting";
      return "no-ztunnel";
    }
    const names = { ns: pod.namespace, pod: pod.name, uid: pod.uid, netns: sandbox.netns.key };
    const isNew = sandbox.isNew && !record.touched;
    record.touched = true;
    const report = await redirection.apply(sandbox.netns, want.redirect, { isNew });
    const { skippedFamilies } = report;
    history.looked(pod.uid, { netnsKey: sandbox.netns.key, skippedFamilies });
    history.step(pod.uid, "rules");
    const { leftoverFault } = report;
    if (leftoverFault !== undefined)
      log.warn(
        { ...names, reason: leftoverFault },
        "an earlier agent's rules are still in the pod beside ours",
      );
    if (report.changed && record.state === "enrolled") this.repairs.note(record, report.repaired);
    if (ztunnel.acknowledged(pod.uid) !== sandbox.netns.key) {
      await this.#handOver(record, { pod, sandbox });
      history.step(pod.uid, "ztunnel");
    }
    if (record.state !== "enrolled") {
      record.state = "enrolled";
      const ms = Math.round((performance.now() - startedMs) * 10) / 10;
      log.info({ ...names, ms, skippedFamilies }, "pod enrolled");
    }
    void this.#exempt(record, { pod, sandbox, redirect: want.redirect });
    return "enrolled";
  }

  /**
   * Lets the host's probes reach the pod past ztunnel, then tells istiod. ADD does not wait for it: the first probe
   * comes after the container's start, and what is wrong with the host's side is the readiness's to say.
   */
  async #exempt(
    record: PodRecord,
    { pod, sandbox, redirect }: { pod: PodFacts; sandbox: Sandbox; redirect: RedirectOptions },
  ): Promise<void> {
    const { probes, probePath, annotations, log } = this.#parts;
    const ips = sandbox.ips.length > 0 ? sandbox.ips : pod.ips;
    const isCurrent = () => record.state === "enrolled" && record.sandbox?.netns === sandbox.netns;
    try {
      await probes.set(pod.uid, ips);
      // in ingress mode inbound connections never meet ztunnel: such a pod would prove nothing
      if (isCurrent() && !redirect.ingressMode)
        probePath.enrolled({ uid: pod.uid, netns: sandbox.netns, addresses: ips });
    } catch (error) {
      log.debug({ uid: pod.uid, ips, err: error }, "the host's probes are not exempted yet");
    }
    if (isCurrent()) annotations.set(pod, "enabled");
  }

  async #endExemption(uid: string): Promise<void> {
    await this.#parts.probePath.left(uid);
    try {
      await this.#parts.probes.remove(uid);
    } catch (error) {
      this.#parts.log.debug({ uid, err: error }, "the exemption of the host's probes is not taken back yet");
    }
  }

  async #handOver(record: PodRecord, { pod, sandbox }: { pod: PodFacts; sandbox: Sandbox }): Promise<void> {
    const { ztunnel, annotations } = this.#parts;
    const workload = { name: pod.name, namespace: pod.namespace, serviceAccount: pod.serviceAccount };
    try {
      await ztunnel.add({ uid: pod.uid, workload, netns: sandbox.netns });
    } catch (error) {
      // a pod that ztunnel once had stays "enabled" over a restart of ztunnel or of the agent, as istio-cni leaves it
      const wasServed =
        record.state === "enrolled" ||
        (waitsForZtunnel(error) && pod.annotations[podAnnotations.redirection] === "enabled");
      if (!wasServed) {
        record.state = "pending";
        if (record.adding === 0) annotations.set(pod, "pending");
      }
      throw error;
    }
  }

  async #leave(
    record: PodRecord,
    { pod, reason }: { pod: PodFacts; reason: string },
  ): Promise<ReconcileOutcome> {
    const { redirection, ztunnel, annotations, history, log } = this.#parts;
    const annotated = pod.annotations[podAnnotations.redirection] !== undefined;
    if (record.unseen) await this.#lookForRemains(record, pod);
    if (!record.touched && !annotated) {
      this.#release(record, record.sandbox);
      return "outside";
    }
    const sandbox = await this.#sandboxOf(record, pod);
    // while the pod runs its rules are somewhere: without them gone first, ztunnel's leaving would cut it off
    if (sandbox === undefined && pod.phase === "Running" && !pod.hostNetwork) return "no-way-out";
    await this.#endExemption(pod.uid);
    history.step(pod.uid, "remove-probes");
    if (sandbox !== undefined) await redirection.remove(sandbox.netns);
    history.step(pod.uid, "remove-rules");
    await ztunnel.remove(pod.uid);
    history.step(pod.uid, "remove-ztunnel");
    this.#release(record, sandbox);
    log.info(
      { ns: pod.namespace, pod: pod.name, uid: pod.uid, netns: sandbox?.netns.key, reason },
      "pod left the mesh",
    );
    annotations.set(pod, null);
    return "outside";
  }

  /** An agent that was killed half-way may have left its work in a pod that nothing else names. */
  async #lookForRemains(record: PodRecord, pod: PodFacts): Promise<void> {
    const sandbox = pod.hostNetwork ? undefined : await this.#sandboxOf(record, pod);
    if (sandbox !== undefined && (await this.#parts.redirection.isTouched(sandbox.netns)))
      record.touched = true;
    // a pod without a process or address to find it by yet is looked at again with its next event: an earlier agent may
    // have died in its ADD, which the launcher then brought to us
    const mayCome = pod.phase === "Pending" || pod.phase === "Running";
    record.unseen = sandbox === undefined && mayCome && !pod.hostNetwork;
  }

  /** The pod is deleted: its namespace ends with it, so only ztunnel has to hear of it. */
  async #forget(record: PodRecord): Promise<ReconcileOutcome> {
    const { sandbox } = record;
    if (record.touched || sandbox !== undefined || this.#parts.ztunnel.holds(record.uid)) {
      await this.#endExemption(record.uid);
      await this.#parts.ztunnel.remove(record.uid);
      this.#parts.log.info({ uid: record.uid, netns: sandbox?.netns.key }, "pod forgotten");
    }
    this.#release(record, sandbox);
    this.#parts.annotations.forget(record.uid);
    return "forgotten";
  }

  /** Sandboxes that ended: ztunnel lets go of the pod unless it has a new one, our rules go, the handle is closed. */
  async #clearDeparted(record: PodRecord): Promise<void> {
    const { ztunnel, redirection, probePath, log } = this.#parts;
    if (record.departed.length === 0) return;
    await probePath.left(record.uid);
    if (record.sandbox === undefined) {
      await this.#endExemption(record.uid);
      await ztunnel.remove(record.uid);
      record.touched = false;
      record.state = "outside";
    }
    for (const sandbox of record.departed.splice(0)) {
      try {
        // a namespace that came back as the pod's current one is not cleared
        if (sandbox.netns.key !== record.sandbox?.netns.key) await redirection.remove(sandbox.netns);
      } catch (error) {
        log.warn(
          { uid: record.uid, netns: sandbox.netns.key, err: error },
          "could not take our rules out of an ended sandbox; they end with its namespace",
        );
      } finally {
        sandbox.netns.close();
      }
      log.info({ uid: record.uid, netns: sandbox.netns.key }, "sandbox cleared");
    }
  }

  async #sandboxOf(record: PodRecord, pod: PodFacts): Promise<Sandbox | undefined> {
    if (record.sandbox === undefined) offerSandbox(record, await this.#parts.finder.find(soughtPod(pod)));
    return record.sandbox;
  }

  /** The pod's sandbox; one that has lost all of the pod's addresses was rebuilt behind our back, and is looked for. */
  async #currentSandbox(record: PodRecord, pod: PodFacts): Promise<Sandbox | undefined> {
    const known = await this.#sandboxOf(record, pod);
    const ips = [...(known?.ips ?? []), ...pod.ips];
    if (known === undefined || record.adding > 0 || ips.length === 0) return known;
    if (await this.#parts.finder.owns(known.netns, ips)) return known;
    const found = await this.#parts.finder.find(soughtPod(pod));
    // nothing found: the status may be older than the sandbox, which then stays
    if (found === undefined) return record.sandbox;
    const isSuccessor = record.sandbox === known && !isRemains(record, found);
    if (isSuccessor) adoptSandbox(record, found);
    else found.netns.close();
    return record.sandbox;
  }

  #warnOnce(record: PodRecord, warnings: readonly string[]): void {
    const text = warnings.join("\n");
    if (text === record.warned) return;
    record.warned = text;
    for (const warning of warnings) {
      this.#parts.log.warn(
        { ns: record.facts?.namespace, pod: record.facts?.name, uid: record.uid },
        warning,
      );
    }
  }

  /** Lets go of a sandbox that was taken out of the mesh, unless an ADD has brought another one meanwhile. */
  #release(record: PodRecord, sandbox: Sandbox | undefined): void {
    if (record.sandbox?.netns !== sandbox?.netns) return;
    sandbox?.netns.close();
    record.sandbox = undefined;
    record.touched = false;
    record.state = "outside";
  }
}

/** True for failures that the next ztunnel connection mends by itself. */
export function waitsForZtunnel(error: unknown): boolean {
  return error instanceof ZdsError && ["NO_CONNECTION", "DISCONNECTED", "TIMEOUT"].includes(error.code);
}
