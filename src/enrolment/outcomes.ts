// SPDX-License-Identifier: Apache-2.0
// What becomes of a pod's runs: when it is looked at again, and who is told.
import { cutText, isTold } from "../bounds/bounded.ts";
import type { EventRecorder } from "../kube/event-recorder.ts";
import type { PodFacts } from "../kube/pod-facts.ts";
import type { Logger } from "../log/logger.ts";
import type { Clock } from "../loop/clock.ts";
import type { BypassReport } from "../netfilter/bypass/bypass.ts";
import { bypassMessage, bypassText } from "../redirection/bypass-words.ts";
import type { Drift } from "../redirection/fingerprint.ts";
import type { Desired } from "./desired-state.ts";
import { type Failure, failureOf } from "./failure.ts";
import { LOOKS_TO_JUDGE, LookCosts, lookIntervalMs, lookPauseMs } from "./look-costs.ts";
import type { Step } from "./next-step.ts";
import type { PodHistory } from "./pod-history.ts";
import type { LastRun, PodRecord } from "./pod-record.ts";
import { isSettled, waitOf } from "./run-outcome.ts";
import { rulesStand } from "./workload.ts";

/** A pod that must not start, because it would start outside the mesh. The message has cause and remedy. */
export class EnrolmentError extends Error {
  override readonly name = "EnrolmentError";

  constructor(pod: PodFacts, cause: unknown) {
    const { message, remedy } = failureOf(cause);
    super(
      `Cannot capture pod "${pod.namespace}/${pod.name}" for the ambient mesh: ${message}${remedy}. The pod is tried again by kubelet`,
      { cause },
    );
  }
}

export interface OutcomesOptions {
  readonly events: Pick<EventRecorder, "record">;
  readonly history: Pick<PodHistory, "failed">;
  readonly log: Logger;
  /** How often an enrolled pod is looked at without a reason; jittered by a quarter. */
  readonly reconcileIntervalMs: number;
  readonly clock: Pick<Clock, "nowMs">;
  /** From 0 to 1. */
  readonly random?: () => number;
}

/** Tries before people are told: about eight seconds, longer than a ztunnel takes to restart. */
const patientFailures = 5;
/** Between two looks at a sandbox that a DEL of unknown origin has named, or whose "lo" went down. */
const doubtMs = 200;
const firstRetryMs = 500;
const maxRetryMs = 30_000;
/** A port that ztunnel needs may be free at any moment; ztunnel itself tries again every 5 s. Source: istio/ztunnel src/inpod/statemanager.rs. */
const maxRefusedRetryMs = 5_000;

/** Of a cause in an Event, so that the remedy behind it is read too. */
const cause = { bytes: 600 };

/** Counts what becomes of the runs and tells it in log, history and Events. */
export class Outcomes {
  readonly #options: OutcomesOptions;
  /** Repairs of enrolled pods by kind of drift, since the start. */
  readonly repairs = new Map<string, number>();
  readonly #lookCosts = new LookCosts();

  constructor(options: OutcomesOptions) {
    this.#options = options;
  }

  /** A run ended without a failure. @returns the pause before the next, in ms; `undefined`: until somebody asks */
  rested(record: PodRecord, { outcome, againMs }: Step & { do: "rest" }): number | undefined {
    this.#looked(record);
    const failure = waitOf(outcome);
    if (failure !== undefined) return this.#waitingFor(record, { failure, againMs });
    const { reconcileIntervalMs, clock, random = Math.random } = this.#options;
    const wasUnverified = record.state === "unverified";
    record.failures = 0;
    // a run that ended before a look at the rules says nothing of them
    if (isSettled(outcome) || !isInDoubt(record)) record.lastRun = "fine";
    this.#ifVerifiedAgain(record, { wasUnverified });
    if (outcome === "leaving") return againMs ?? 0;
    if (record.workload.doubtedMs !== undefined) return doubtMs;
    if (outcome === "outside") return againMs === undefined ? undefined : againMs + 1;
    return outcome === "enrolled"
      ? lookIntervalMs(reconcileIntervalMs, record, { nowMs: clock.nowMs(), random: random() })
      : undefined;
  }

  /** Told when that changes. */
  #looked(record: PodRecord): void {
    const { lookMs, slowLookMs: before, sandbox } = record;
    if (lookMs !== undefined) {
      record.looksMs = [...record.looksMs, lookMs].slice(-LOOKS_TO_JUDGE);
      record.slowLookMs = this.#lookCosts.took(record.looksMs);
    }
    if (sandbox === undefined) {
      record.looksMs = [];
      record.slowLookMs = undefined;
    }
    const { slowLookMs } = record;
    if ((slowLookMs === undefined) === (before === undefined)) return;
    if (slowLookMs === undefined)
      this.#options.log.info(namesOf(record), "a pod is looked at as often as others again");
    else {
      const what =
        "a pod takes long to look at, so it is looked at less often; see what it has in its namespace";
      this.#options.log.warn({ ...namesOf(record), ms: Math.round(slowLookMs) }, what);
    }
  }

  /** A running pod has processes; they show within moments of its start. One that ends will not. */
  #waitingFor(
    record: PodRecord,
    { failure, againMs }: { failure: Failure; againMs: number | undefined },
  ): number | undefined {
    const { facts, workload } = record;
    const isEnding = workload.ended !== undefined && facts?.deletionTimestamp === true;
    const isSought = failure.code !== "sandbox-missing" || (facts?.phase === "Running" && !isEnding);
    if (isSought) return againMs ?? this.#waiting(record, failure);
    record.lastRun = "waiting";
    return undefined;
  }

  /** Something that the pod needs is not there yet. @returns the pause before the next try, in ms */
  #waiting(record: PodRecord, failure: Failure): number {
    const { events, history, log } = this.#options;
    const { message, remedy, kind } = failure;
    const isZtunnel = failure.code === "ztunnel-away";
    const wasUnverified = record.state === "unverified";
    record.failures++;
    // a captured pod's rules were seen to be right before anything could be waited for
    if (record.lastRun !== "failed" && (!wasUnverified || record.workload.phase.at === "captured"))
      record.lastRun = "waiting";
    this.#ifVerifiedAgain(record, { wasUnverified });
    history.failed(record.uid, { kind, message, remedy });
    const pauseMs = this.#pauseMs(record.failures, maxRetryMs);
    const pod = record.facts;
    if (pod === undefined || record.waiters.size > 0 || record.failures < patientFailures) return pauseMs;
    if (record.failures === patientFailures) {
      log.warn(
        { ns: pod.namespace, pod: pod.name, uid: pod.uid, reason: message },
        "pod is not captured yet",
      );
    }
    events.record(pod, {
      reason: isZtunnel ? "AmbientWaitingForZtunnel" : "AmbientNotCaptured",
      message: `The ambient mesh has not captured this pod yet: ${message}${remedy}`,
    });
    return pauseMs;
  }

  /** A step failed. @returns the pause before the next try, in ms */
  failed(record: PodRecord, error: unknown): number {
    this.#looked(record);
    return lookPauseMs(this.#failed(record, error), record.slowLookMs, { stretch: 1 });
  }

  #failed(record: PodRecord, error: unknown): number {
    const { events, history, log } = this.#options;
    const failure = failureOf(error);
    const pod = record.facts;
    const names = { ns: pod?.namespace, pod: pod?.name, uid: record.uid, attempt: record.failures + 1 };
    if (failure.code === "ztunnel-away") {
      log.info({ ...names, reason: failure.message }, "waiting for ztunnel");
      return this.#waiting(record, failure);
    }
    // containerd takes "lo" down, which is announced to us, before it calls our DEL; of a pod that lives the next look brings it up
    const mayEnd = failure.code === "loopback-down" && names.attempt < patientFailures;
    if (mayEnd && record.workload.phase.at === "captured") {
      log.debug({ ...names, reason: failure.message }, "a captured pod's sandbox may be taken down just now");
      return ++record.failures === 1 ? doubtMs : this.#pauseMs(record.failures, maxRetryMs);
    }
    const wasUnverified = record.state === "unverified";
    record.failures++;
    record.lastRun = lastRunOf(record, failure);
    if (record.state === "unverified") return this.#unverified(record, { error, failure, wasUnverified });
    this.#ifVerifiedAgain(record, { wasUnverified });
    const { message, remedy, kind } = failure;
    history.failed(record.uid, { kind, message, remedy });
    log.warn({ ...names, err: error, remedy }, "pod not captured; trying again");
    const isRefused = failure.code === "ztunnel-refused";
    // an ADD that fails is told by kubelet in an Event of its own
    if (pod !== undefined && record.waiters.size === 0) {
      events.record(pod, {
        reason: isRefused ? "AmbientZtunnelRefused" : "AmbientNotCaptured",
        message: `Not captured by the ambient mesh: ${cutText(message, cause)}${remedy}`,
      });
    }
    return this.#pauseMs(record.failures, isRefused ? maxRefusedRetryMs : maxRetryMs);
  }

  /** Its rules cannot be read or judged: told once, for as long as that lasts. @returns the pause before the next try, in ms */
  #unverified(
    record: PodRecord,
    about: { readonly error: unknown; readonly failure: Failure; readonly wasUnverified: boolean },
  ): number {
    const { events, history, log } = this.#options;
    const { facts: pod, uid, failures: attempt } = record;
    const { message, remedy, kind } = about.failure;
    history.failed(uid, { kind, message, remedy });
    const names = { ...namesOf(record), attempt };
    if (about.wasUnverified)
      log.debug({ ...names, reason: message }, "a pod's rules still cannot be verified");
    else log.warn({ ...names, err: about.error, remedy }, "cannot verify a pod's rules; trying again");
    // an ADD that fails is told by kubelet in an Event of its own
    if (pod !== undefined && !about.wasUnverified && record.waiters.size === 0) {
      events.record(pod, {
        reason: "AmbientCannotVerify",
        message:
          `Cannot verify whether this pod is captured by the ambient mesh: ${cutText(message, cause)}${remedy}. ` +
          "It stays as it is and is looked at again",
      });
    }
    return this.#pauseMs(attempt, maxRetryMs);
  }

  #ifVerifiedAgain(record: PodRecord, { wasUnverified }: { readonly wasUnverified: boolean }): void {
    if (!wasUnverified || record.state !== "enrolled") return;
    this.#options.log.info(namesOf(record), "a pod's rules can be verified again");
  }

  /** Notes what was found changed in a captured pod and has been put back. */
  repaired(record: PodRecord, drift: readonly Drift[]): void {
    const { facts: pod } = record;
    for (const { kind } of drift) this.repairs.set(kind, (this.repairs.get(kind) ?? 0) + 1);
    this.#options.log.warn({ ...namesOf(record), drift }, "repaired the redirection of a pod");
    if (pod === undefined) return;
    const details = drift.map(({ family, detail }) => `IPv${family}: ${detail}`).join("; ");
    const message = `The redirection of this pod had been changed and was put back: ${cutText(details, cause)}. Look for what writes network rules in it.`;
    this.#options.events.record(pod, { reason: "AmbientRepaired", message });
  }

  /** A CNI call had ended the pod's sandbox, which lives on: it is in the mesh again. */
  recaptured(record: PodRecord): void {
    const { facts: pod } = record;
    this.#options.log.warn(namesOf(record), "captured a pod again whose sandbox a CNI call had called ended");
    if (pod === undefined) return;
    this.#options.events.record(pod, {
      reason: "AmbientRecaptured",
      message:
        "A CNI call (DEL or GC) said that this pod's sandbox had ended, so it was let go; the sandbox still has the " +
        "pod's addresses, and the pod is captured again. Look for what deletes network attachments of running pods.",
    });
  }

  /** Says what stands before the pod's rules, once for each change. */
  bypassed(record: PodRecord, report: BypassReport): void {
    const text = bypassText(report);
    if (text === record.bypassTold) return;
    record.bypassTold = text;
    const { facts: pod } = record;
    if (text === "") {
      this.#options.log.info(namesOf(record), "nothing stands before a pod's rules any more");
      return;
    }
    this.#options.log.warn({ ...namesOf(record), reason: text }, "a pod's traffic may get past ztunnel");
    if (pod === undefined) return;
    this.#options.events.record(pod, { reason: "AmbientMayBeBypassed", message: bypassMessage(report) });
  }

  /** Says what cannot be followed of the pod's annotations, once for each change; of a pod that keeps changing them, seldom. */
  warnOnce(record: PodRecord, desired: Desired | undefined): void {
    const warnings = desired?.wanted === true ? desired.warnings : [];
    const text = warnings.join("\n");
    if (text === record.warned) return;
    record.warned = text;
    if (text === "" || !isTold(++record.warnedTimes)) return;
    const { namespace: ns, name: pod } = record.facts ?? {};
    const times = record.warnedTimes > 3 ? { times: record.warnedTimes } : {};
    for (const warning of warnings) this.#options.log.warn({ ns, pod, uid: record.uid, ...times }, warning);
  }

  #pauseMs(failures: number, maxMs: number): number {
    const random = this.#options.random ?? Math.random;
    return Math.min(maxMs, firstRetryMs * 2 ** Math.min(failures - 1, 20)) * (0.5 + random() / 2);
  }
}

/** What could not be read is in doubt only where rules may stand, and until a look at them succeeds. */
function lastRunOf(record: PodRecord, { rules, kind }: Failure): LastRun {
  const { phase } = record.workload;
  if (!rulesStand(phase)) return "failed";
  if (rules !== undefined) return rules === "unknown" ? "unverified" : "wrong";
  const wasSeen = phase.at === "captured" && (kind === "ztunnel" || kind === "ztunnel-refused");
  return isInDoubt(record) && !wasSeen ? record.lastRun : "failed";
}

/** Whether the last look at its rules ended in a failure. */
function isInDoubt({ lastRun }: PodRecord): boolean {
  return lastRun === "unverified" || lastRun === "wrong";
}

function namesOf({ facts: pod, uid, sandbox }: PodRecord) {
  return { ns: pod?.namespace, pod: pod?.name, uid, netns: sandbox?.netns.key };
}
