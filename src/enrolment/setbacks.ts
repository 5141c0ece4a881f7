// SPDX-License-Identifier: Apache-2.0
// What did not work out for a pod: when it is tried again, and who is told.
import type { EventRecorder } from "../kube/event-recorder.ts";
import type { Logger } from "../log/logger.ts";
import { ZdsError } from "../ztunnel/zds-error.ts";
import { remedyFor } from "./enrolment-error.ts";
import { failureKind, type PodHistory } from "./pod-history.ts";
import { waitsForZtunnel } from "./pod-reconciler.ts";
import type { PodRecord } from "./pod-record.ts";

export interface SetbacksOptions {
  readonly events: EventRecorder;
  readonly history: PodHistory;
  readonly log: Logger;
}

/** Tries before people are told: about eight seconds, longer than a ztunnel takes to restart. */
const patientFailures = 5;
const maxRetryMs = 30_000;
const firstRetryMs = 500;

/** Counts the setbacks of pods, tells them in log, history and Events, and says when to try again. */
export class Setbacks {
  readonly #options: SetbacksOptions;

  constructor(options: SetbacksOptions) {
    this.#options = options;
  }

  /** Something that the pod needs is not there yet. @returns the pause before the next try, in ms */
  wait(record: PodRecord, reason: string): number {
    const { events, history, log } = this.#options;
    const isZtunnel = reason.includes("ztunnel");
    const remedy = remedyFor(reason);
    record.failures++;
    history.failed(record.uid, { kind: isZtunnel ? "ztunnel" : "sandbox", message: reason, remedy });
    const pauseMs = retryDelayMs(record.failures);
    const pod = record.facts;
    if (pod === undefined || record.adding > 0 || record.failures < patientFailures) return pauseMs;
    if (record.failures === patientFailures) {
      log.warn({ ns: pod.namespace, pod: pod.name, uid: pod.uid, reason }, "pod is not captured yet");
    }
    events.record(pod, {
      reason: isZtunnel ? "AmbientWaitingForZtunnel" : "AmbientNotCaptured",
      message: `The ambient mesh has not come to terms with this pod yet: ${reason}${remedy}`,
    });
    return pauseMs;
  }

  /** A step failed. @returns the pause before the next try, in ms */
  fail(record: PodRecord, error: Error): number {
    const { events, history, log } = this.#options;
    const pod = record.facts;
    const names = { ns: pod?.namespace, pod: pod?.name, uid: record.uid, attempt: record.failures + 1 };
    if (waitsForZtunnel(error)) {
      log.info({ ...names, reason: error.message }, "waiting for ztunnel");
      return this.wait(record, error.message);
    }
    record.failures++;
    const { message } = error;
    const remedy = remedyFor(message);
    if (record.state !== "pending" && record.state !== "enrolled") record.state = "failed";
    history.failed(record.uid, { kind: failureKind(error), message, remedy });
    log.warn({ ...names, err: error }, "pod not captured; trying again");
    // an ADD that fails is told by kubelet in an Event of its own
    if (pod !== undefined && record.adding === 0) {
      events.record(pod, {
        reason: error instanceof ZdsError ? "AmbientZtunnelRefused" : "AmbientNotCaptured",
        message: `Not captured by the ambient mesh: ${message}${remedy}`,
      });
    }
    return retryDelayMs(record.failures);
  }
}

function retryDelayMs(failures: number): number {
  const full = Math.min(maxRetryMs, firstRetryMs * 2 ** (failures - 1));
  return full * (0.5 + Math.random() / 2);
}
