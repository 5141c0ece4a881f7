// SPDX-License-Identifier: Apache-2.0
// What has become of each pod lately: changes of state with their times, the last look, the last failure. Bounded.

import { cutText, putLast } from "../bounds/bounded.ts";
import type { BypassReport } from "../netfilter/bypass/bypass.ts";
import type { SkippedFamily } from "../redirection/pod-routing.ts";
import type { EnrolmentState } from "./enrolment-state.ts";
import type { Failure, FailureKind } from "./failure.ts";
import { isSettled, type RunOutcome, reasonOf } from "./run-outcome.ts";

/** Parts of a run, in its order. */
export type PodStep = "sandbox" | "rules" | "ztunnel" | "remove-probes" | "remove-rules" | "remove-ztunnel";

/** How long a part of a run took. */
export interface StepTime {
  readonly step: PodStep;
  readonly ms: number;
}

/** One change of a pod's state. */
export interface PodTransition {
  /** ISO time. */
  readonly at: string;
  readonly from: EnrolmentState;
  readonly to: EnrolmentState;
  /** From the start of the run to the change. */
  readonly ms: number;
  readonly steps: readonly StepTime[];
  /** One sentence. */
  readonly reason: string;
}

/** What a run saw after it had made rules, ip rule and route right. */
export interface PodLook {
  readonly at: string;
  /** On the clock of performance.now(). */
  readonly atMs: number;
  readonly netnsKey: string;
  readonly skippedFamilies: readonly SkippedFamily[];
}

/** The failure that a pod's runs end in at present. */
export interface PodFailure extends Pick<Failure, "kind" | "message" | "remedy"> {
  readonly at: string;
  /** In a row. */
  readonly attempts: number;
}

/** All that is remembered of a pod. */
export interface PodPast {
  /** Oldest first. */
  readonly transitions: readonly PodTransition[];
  readonly look: PodLook | undefined;
  readonly failure: PodFailure | undefined;
  /** What stood before our rules when that was looked for last; `undefined`: it was not yet. */
  readonly bypasses: BypassReport | undefined;
  /** Connections that were open when the running pod came into the mesh; `undefined`: it was captured before it ran. */
  readonly earlierConnections: number | undefined;
}

/** Who wants to hear of what happens. */
export interface PodHistoryListener {
  /** A pod was captured, this long after its labels, its namespace's or an ADD first asked for it. */
  captured?(seconds: number): void;
  /** A run ended in a failure. */
  failed?(kind: FailureKind): void;
  /** A running pod came into the mesh while it had this many connections open. */
  entered?(earlierConnections: number): void;
}

export interface PodHistoryOptions {
  readonly listener?: PodHistoryListener;
  /** Pods remembered; the one that has been quiet longest goes first. Default 512. */
  readonly maxPods?: number;
  /** Changes of state remembered for each pod, default 16. */
  readonly maxTransitions?: number;
  /** Milliseconds of a clock that never goes back. */
  readonly now?: () => number;
  readonly date?: () => Date;
}

type Entry = { -readonly [Key in keyof PodPast]: PodPast[Key] } & {
  state: EnrolmentState;
  askedMs: number | undefined;
  run: { startMs: number; stepMs: number; steps: StepTime[] } | undefined;
};

const nothing: PodPast = {
  transitions: [],
  look: undefined,
  failure: undefined,
  bypasses: undefined,
  earlierConnections: undefined,
};

const fresh: Entry = { ...nothing, state: "outside", askedMs: undefined, run: undefined };
const text = { bytes: 500 };

/** Remembers; every method is cheap and none throws. Runs of one pod never overlap, as the queue has it. */
export class PodHistory {
  readonly #options: PodHistoryOptions;
  readonly #entries = new Map<string, Entry>();
  readonly #now: () => number;
  readonly #date: () => Date;

  constructor(options: PodHistoryOptions = {}) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.#date = options.date ?? (() => new Date());
  }

  /** Something may ask for the pod to be captured: from here on the time until then is counted. */
  asked(uid: string): void {
    const entry = this.#entry(uid);
    if (entry.state !== "enrolled" && entry.state !== "unverified") entry.askedMs ??= this.#now();
  }

  /** A run begins. */
  begin(uid: string): void {
    const startMs = this.#now();
    this.#entry(uid).run = { startMs, stepMs: startMs, steps: [] };
  }

  /** A part of the run under way is done. */
  step(uid: string, step: PodStep): void {
    const run = this.#entries.get(uid)?.run;
    if (run === undefined) return;
    const nowMs = this.#now();
    run.steps.push({ step, ms: rounded(nowMs - run.stepMs) });
    run.stepMs = nowMs;
  }

  /** How long the run under way has taken so far, in ms. */
  runMs(uid: string): number {
    const { run } = this.#entries.get(uid) ?? {};
    return run === undefined ? 0 : rounded(this.#now() - run.startMs);
  }

  /** A running pod comes into the mesh with this many connections open. */
  entered(uid: string, { earlierConnections }: { earlierConnections: number }): void {
    this.#entry(uid).earlierConnections = earlierConnections;
    this.#options.listener?.entered?.(earlierConnections);
  }

  /** Rules, ip rule and route of a pod were seen to be right. */
  looked(uid: string, seen: { netnsKey: string; skippedFamilies: readonly SkippedFamily[] }): void {
    const { netnsKey, skippedFamilies } = seen;
    this.#entry(uid).look = { at: this.#isoTime(), atMs: this.#now(), netnsKey, skippedFamilies };
  }

  /** What stands before our rules was looked for. */
  sawBypasses(uid: string, report: BypassReport): void {
    this.#entry(uid).bypasses = report;
  }

  /** What keeps the pod from where it should be; it stands until a run gets there. */
  failed(uid: string, failure: Pick<Failure, "kind" | "message" | "remedy">): void {
    const entry = this.#entry(uid);
    const attempts = (entry.failure?.attempts ?? 0) + 1;
    const { kind } = failure;
    const [message, remedy] = [cutText(failure.message, text), remedySentence(failure.remedy)];
    entry.failure = { at: this.#isoTime(), kind, message, remedy, attempts };
    this.#options.listener?.failed?.(kind);
  }

  /** A run ended, well or not, and the pod stands in this state now; of a failure {@link failed} has been told. */
  end(uid: string, state: EnrolmentState, outcome: RunOutcome): void {
    const entry = this.#entry(uid);
    const { run, askedMs } = entry;
    const nowMs = this.#now();
    const reason = outcome === "failed" ? (entry.failure?.message ?? "") : reasonOf(outcome);
    entry.run = undefined;
    if (isSettled(outcome)) {
      entry.failure = undefined;
      entry.askedMs = undefined;
    }
    if (state === "outside") {
      entry.look = undefined;
      entry.bypasses = undefined;
      entry.earlierConnections = undefined;
    }
    if (state === entry.state) return;
    const ms = rounded(nowMs - (run?.startMs ?? nowMs));
    const steps = run?.steps ?? [];
    const change = { at: this.#isoTime(), from: entry.state, to: state, ms, steps, reason };
    entry.transitions = [...entry.transitions, change].slice(-(this.#options.maxTransitions ?? 16));
    entry.state = state;
    if (outcome === "enrolled" && askedMs !== undefined)
      this.#options.listener?.captured?.((nowMs - askedMs) / 1000);
  }

  /** The pod is gone. */
  forget(uid: string): void {
    this.#entries.delete(uid);
  }

  /** What is remembered of a pod, nothing for one that was never heard of. */
  of(uid: string): PodPast {
    return this.#entries.get(uid) ?? nothing;
  }

  get size(): number {
    return this.#entries.size;
  }

  #entry(uid: string): Entry {
    // the map's order is that of the last word about each pod
    const entry: Entry = this.#entries.get(uid) ?? { ...fresh };
    putLast(this.#entries, [uid, entry], this.#options.maxPods ?? 512);
    return entry;
  }

  #isoTime(): string {
    return this.#date().toISOString();
  }
}

function rounded(ms: number): number {
  return Math.round(ms * 10) / 10;
}

/** Remedies are written as the end of a sentence that names the failure. */
export function remedySentence(remedy: string): string {
  return cutText(remedy.replace(/^[;,.\s]+/, ""), text);
}
