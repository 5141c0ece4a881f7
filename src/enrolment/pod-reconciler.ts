// SPDX-License-Identifier: Apache-2.0
// Brings one pod from what is to what should be. Safe at any moment, any number of times.
import type { AnnotationWriter } from "../kube/annotation-writer.ts";
import type { NodeState } from "../kube/node-state.ts";
import { type PodFacts, podAnnotations } from "../kube/pod-facts.ts";
import type { Sandbox, SandboxFinder, SoughtPod } from "../netns/sandbox-finder.ts";
import type { Logger } from "../observe/logger.ts";
import type { PodRedirection } from "../redirect/pod-redirection.ts";
import type { RedirectOptions } from "../redirect/rules.ts";
import { ZdsError } from "../ztunnel/zds-error.ts";
import type { ZdsServer } from "../ztunnel/zds-server.ts";
import { decideEnrolment, type EnrolmentPolicy } from "./desired-state.ts";
import { adoptSandbox, newestFacts, type PodRecord } from "./pod-record.ts";

/** How a run ended when nothing went wrong. */
export type ReconcileOutcome =
  | "enrolled"
  | "outside"
  | "forgotten"
  | "no-sandbox"
  | "no-ztunnel"
  | "namespace-unknown";

/** What the reconciler works with. */
export interface ReconcilerParts {
  readonly node: NodeState;
  readonly finder: SandboxFinder;
  readonly redirection: PodRedirection;
  readonly ztunnel: ZdsServer;
  readonly annotations: AnnotationWriter;
  readonly policy: EnrolmentPolicy;
  readonly log: Logger;
}

/** The steps in and out of the mesh. Order in: rules and routes, ztunnel's ack, annotation; out: the reverse of the danger. */
export class PodReconciler {
  readonly #parts: ReconcilerParts;

  constructor(parts: ReconcilerParts) {
    this.#parts = parts;
  }

  /** Looks at one pod and does what is missing. @throws when a step failed; the pod then stays where it is */
  async reconcile(record: PodRecord): Promise<ReconcileOutcome> {
    await this.#clearDeparted(record);
    const pod = record.facts;
    if (pod === undefined) return this.#forget(record);
    const cached = this.#parts.node.namespace(pod.namespace);
    const namespace = record.namespaceHint === undefined ? cached : newestFacts(cached, record.namespaceHint);
    // what cannot be known is not decided: the pod stays as it is
    if (namespace === undefined) return "namespace-unknown";
    const desired = decideEnrolment(pod, namespace, this.#parts.policy);
    if (!desired.wanted) return this.#leave(record, { pod, reason: desired.reason });
    this.#warnOnce(record, desired.warnings);
    return this.#enrol(record, { pod, redirect: desired.redirect });
  }

  async #enrol(
    record: PodRecord,
    want: { pod: PodFacts; redirect: RedirectOptions },
  ): Promise<ReconcileOutcome> {
    const { ztunnel, redirection, annotations, log } = this.#parts;
    const { pod } = want;
    const startedMs = performance.now();
    const sandbox = await this.#sandboxOf(record, pod);
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
    record.touched = true;
    const report = await redirection.apply(sandbox.netns, want.redirect, { isNew: sandbox.isNew });
    if (report.changed && record.state === "enrolled") {
      log.warn({ ...names, drift: report.repaired }, "repaired the redirection of a pod");
    }
    if (ztunnel.acknowledged(pod.uid) !== sandbox.netns.key) {
      await this.#handOver(record, { pod, sandbox });
    }
    if (record.state !== "enrolled") {
      record.state = "enrolled";
      const ms = Math.round((performance.now() - startedMs) * 10) / 10;
      log.info({ ...names, ms, skippedFamilies: report.skippedFamilies }, "pod enrolled");
    }
    annotations.set(pod, "enabled");
    return "enrolled";
  }

  async #handOver(record: PodRecord, { pod, sandbox }: { pod: PodFacts; sandbox: Sandbox }): Promise<void> {
    const { ztunnel, annotations } = this.#parts;
    const workload = { name: pod.name, namespace: pod.namespace, serviceAccount: pod.serviceAccount };
    try {
      await ztunnel.add({ uid: pod.uid, workload, netns: sandbox.netns });
    } catch (error) {
      // a pod that ztunnel once had stays "enabled" over ztunnel's restart, as istio-cni leaves it
      if (record.state !== "enrolled") {
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
    const { redirection, ztunnel, annotations, log } = this.#parts;
    const annotated = pod.annotations[podAnnotations.redirection] !== undefined;
    if (!record.touched && !annotated) {
      record.state = "outside";
      this.#release(record);
      return "outside";
    }
    const sandbox = await this.#sandboxOf(record, pod);
    if (sandbox !== undefined) await redirection.remove(sandbox.netns);
    await ztunnel.remove(pod.uid);
    this.#release(record);
    record.touched = false;
    record.state = "outside";
    log.info(
      { ns: pod.namespace, pod: pod.name, uid: pod.uid, netns: sandbox?.netns.key, reason },
      "pod left the mesh",
    );
    annotations.set(pod, null);
    return "outside";
  }

  /** The pod is deleted: its namespace ends with it, so only ztunnel has to hear of it. */
  async #forget(record: PodRecord): Promise<ReconcileOutcome> {
    if (record.touched || record.sandbox !== undefined) {
      await this.#parts.ztunnel.remove(record.uid);
      this.#parts.log.info({ uid: record.uid, netns: record.sandbox?.netns.key }, "pod forgotten");
    }
    this.#release(record);
    this.#parts.annotations.forget(record.uid);
    record.touched = false;
    record.state = "outside";
    return "forgotten";
  }

  /** Sandboxes that ended: ztunnel lets go of them, our rules go, the last handle is closed. */
  async #clearDeparted(record: PodRecord): Promise<void> {
    const { ztunnel, redirection, log } = this.#parts;
    if (record.departed.length === 0) return;
    if (record.sandbox === undefined) {
      await ztunnel.remove(record.uid);
      record.touched = false;
      record.state = "outside";
    }
    for (const sandbox of record.departed.splice(0)) {
      try {
        // a namespace that came back as the pod's current one is not cleared
        if (sandbox.netns.key !== record.sandbox?.netns.key) await redirection.remove(sandbox.netns);
      } catch (error) {
        // the runtime takes the namespace away at the same moment; nothing of it is left to clean then
        log.debug(
          { uid: record.uid, netns: sandbox.netns.key, err: error },
          "could not clear an ended sandbox",
        );
      } finally {
        sandbox.netns.close();
      }
      log.info({ uid: record.uid, netns: sandbox.netns.key }, "sandbox cleared");
    }
  }

  async #sandboxOf(record: PodRecord, pod: PodFacts): Promise<Sandbox | undefined> {
    if (record.sandbox === undefined) {
      const found = await this.#parts.finder.find(soughtPod(pod));
      // an ADD may have brought one meanwhile: then the runtime's word counts
      if (found !== undefined && record.sandbox === undefined) adoptSandbox(record, found);
      else found?.netns.close();
    }
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

  #release(record: PodRecord): void {
    record.sandbox?.netns.close();
    record.sandbox = undefined;
  }
}

/** How the runtime knows a pod: a static pod has the hash of its file as UID there, not its API object's UID. */
export function soughtPod(pod: PodFacts): SoughtPod {
  return { uid: runtimeUid(pod), containerIds: pod.containerIds, ips: pod.ips };
}

/** The UID in cgroup paths and CNI_ARGS. Source: kubernetes pkg/kubelet/config/common.go, static pods. */
export function runtimeUid(pod: PodFacts): string {
  const hash = pod.annotations[podAnnotations.configHash];
  return pod.annotations[podAnnotations.configMirror] !== undefined && hash !== undefined ? hash : pod.uid;
}

/** True for failures that the next ztunnel connection mends by itself. */
export function waitsForZtunnel(error: unknown): boolean {
  return error instanceof ZdsError && (error.code === "NO_CONNECTION" || error.code === "DISCONNECTED");
}
