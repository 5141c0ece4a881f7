// SPDX-License-Identifier: Apache-2.0
// What is said of repairs: the log, Events on the pods, and the count.
import { ApiError } from "../kube/api-error.ts";
import type { EventReason, EventRecorder } from "../kube/event-recorder.ts";
import type { Logger } from "../log/logger.ts";
import type { Clock } from "../loop/clock.ts";
import { Seldom } from "../loop/seldom.ts";
import type { RepairMode } from "../settings/repair-settings.ts";
import type { SuspectPod } from "./suspect-pod.ts";

/** What became of one attempt. Source: istio/istio cni/pkg/repair/monitoring.go. */
export const repairResults = ["success", "skip", "fail"] as const;
export type RepairResult = (typeof repairResults)[number];

export interface RepairReportOptions {
  readonly mode: RepairMode;
  readonly events: Pick<EventRecorder, "record">;
  readonly onresult?: ((type: RepairMode, result: RepairResult) => void) | undefined;
  readonly log: Logger;
  readonly clock: Clock;
}

interface Words {
  readonly reason: EventReason;
  readonly todo: string;
  readonly done: string;
  /** Where the API server permits it not. */
  readonly remedy: string;
}

/** Source: istio/istio cni/pkg/repair/repaircontroller.go has the reasons of Events for the first two. */
const wordsOf: Readonly<Record<RepairMode, Words>> = {
  delete: {
    reason: "DeleteBrokenPod",
    todo: "delete",
    done: "deleted",
    remedy:
      "REPAIR_DELETE_PODS=true needs the right to delete pods: the chart grants it with repair.enabled=true, repair.deletePods=true and repair.repairPods=false",
  },
  label: {
    reason: "LabelBrokenPod",
    todo: "label",
    done: "labelled",
    remedy: "REPAIR_LABEL_PODS=true needs the right to patch pods/status: the chart's ClusterRole grants it",
  },
  repair: {
    reason: "RepairBrokenPod",
    todo: "repair",
    done: "given its rules",
    remedy: "the chart's ClusterRole grants what a repair in place needs",
  },
};

/** What is the same for many pods. */
type ToldSeldom = "refusal" | "silence" | "wait" | "successor";

const broken = "This pod started while nobody wrote its sidecar's rules";

/** Tells of each pod what was done; what is the same for all of them, such as a missing right, seldom. */
export class RepairReport {
  readonly #options: RepairReportOptions;
  readonly #words: Words;
  readonly #told: Readonly<Record<ToldSeldom, Seldom>>;

  constructor(options: RepairReportOptions) {
    const { mode, clock } = options;
    this.#options = options;
    this.#words = wordsOf[mode];
    const seldom = () => new Seldom({ clock });
    this.#told = { refusal: seldom(), silence: seldom(), wait: seldom(), successor: seldom() };
  }

  succeeded(pod: SuspectPod): void {
    const { mode, events, onresult, log } = this.#options;
    const { reason, done } = this.#words;
    onresult?.(mode, "success");
    events.record(pod, { reason, message: `${broken}: it was ${done}` });
    log.info(about(pod), `a pod that had started without its sidecar's rules was ${done}`);
  }

  skipped(pod: SuspectPod): void {
    const { mode, onresult, log } = this.#options;
    onresult?.(mode, "skip");
    log.debug(about(pod), "a broken pod has its label already");
  }

  changed(pod: SuspectPod, err: unknown): void {
    this.#options.log.debug(
      { ...about(pod), err },
      "a broken pod has changed since it was looked at: nothing was done",
    );
  }

  /** @param isFirst of this pod's failures in a row */
  failed(pod: SuspectPod, { error, isFirst }: { readonly error: unknown; readonly isFirst: boolean }): void {
    const { mode, events, onresult, log } = this.#options;
    const { reason, todo, done, remedy } = this.#words;
    onresult?.(mode, "fail");
    const why = error instanceof Error ? error.message : String(error);
    events.record(pod, { reason, message: `${broken}, and it could not be ${done}: ${why}` });
    const fields = { ...about(pod), err: error };
    const all = `cannot ${todo} broken pods; trying again`;
    const one = `cannot ${todo} a broken pod; trying again`;
    if (isForbidden(error)) this.#warnSeldom("refusal", { ...fields, remedy }, all);
    else if (isUnanswered(error)) this.#warnSeldom("silence", fields, all);
    else if (isFirst) log.warn(fields, one);
    else log.debug(fields, one);
  }

  /** @param reason why the pod's successor would be broken, too */
  heldBack(pod: SuspectPod, reason: string): void {
    const text = "broken pods are not deleted yet: the next ones would be broken, too";
    this.#warnSeldom("wait", { ...about(pod), reason }, text);
  }

  /** @param pauseMs before it is deleted */
  brokenAgain(pod: SuspectPod, pauseMs: number): void {
    this.#warnSeldom(
      "successor",
      { ...about(pod), pauseMs: Math.round(pauseMs) },
      "the pod in place of a deleted one is broken, too, and is deleted after a pause: find out why nobody writes its rules",
    );
  }

  #warnSeldom(what: ToldSeldom, fields: object, text: string): void {
    const count = this.#told[what].count();
    if (count !== undefined) this.#options.log.warn({ ...fields, count }, text);
  }
}

/** Nobody answered at all. */
export function isUnanswered(error: unknown): boolean {
  return error instanceof ApiError && error.status === 0;
}

function isForbidden(error: unknown): boolean {
  return error instanceof ApiError && error.status === 403;
}

function about({ namespace, name, uid }: SuspectPod) {
  return { ns: namespace, pod: name, uid };
}
