// SPDX-License-Identifier: Apache-2.0
// What the agent keeps of one pod: its workload, which only its own runs change, and what waits to be read by them.
import type { PodFacts } from "../kube/pod-facts.ts";
import type { Netns } from "../linux/netns.ts";
import type { EnrolmentState } from "./enrolment-state.ts";
import type { Sandbox } from "./sandbox-finder.ts";
import { absorb, createWorkload, isOpen, type Message, rulesStand, type Workload } from "./workload.ts";

/** What reports read of a pod. */
export interface PodStatus {
  readonly uid: string;
  readonly facts: PodFacts | undefined;
  readonly sandbox: Sandbox | undefined;
  readonly state: EnrolmentState;
  /** How long looks at it take, in ms, where that is so much longer than usual that it is looked at less often. */
  readonly slowLookMs?: number | undefined;
  /** Rules lead its traffic to ztunnel, or may; absent: that is not known. */
  readonly hasRules?: boolean;
  /** Changes of its redirection are announced to the agent, so that it is looked at by the clock only rarely. */
  readonly isHeard?: boolean;
}

/** An ADD that waits for its pod to be captured. */
export interface Waiter {
  readonly netnsKey: string;
  readonly done: PromiseWithResolvers<"enrolled" | "outside">;
  /** How long it waits for a ztunnel; for everything, where the runtime lets the sandbox go on. */
  readonly waitMs: number;
  readonly goesOn: boolean;
  /** Its deadline passed while a ztunnel was connected: the end of what is under way decides. */
  isLate: boolean;
}

/**
 * How the last run ended, as far as the pod's standing depends on it.
 * - `unverified`: rules that may stand could not be read or judged; `wrong`: they were judged, and could not be mended.
 */
export type LastRun = "fine" | "waiting" | "failed" | "unverified" | "wrong";

/** What ztunnel says to a namespace that it is being told of. */
export interface Telling {
  readonly netns: Netns;
  readonly answer: Promise<void>;
  /** The run that began it is over: what has not been told by then is not told. */
  isCalledOff: boolean;
}

/** One pod of the node. */
export class PodRecord implements PodStatus {
  readonly uid: string;
  readonly waiters = new Set<Waiter>();
  readonly #inbox: Message[] = [];
  #workload: Workload;
  #withdrawn: PromiseWithResolvers<void> | undefined;
  lastRun: LastRun = "fine";
  /** Warnings about the pod's annotations that have been logged already. */
  warned = "";
  /** How often there were others than before. */
  warnedTimes = 0;
  /** Only for the pod's own run: what it has begun to tell ztunnel. */
  telling: Telling | undefined;
  /** What stands before the pod's rules, as people were told; empty: nothing. */
  bypassTold = "";
  slowLookMs: number | undefined;
  /** What this run's looks at it have taken, in ms; undefined: it has not been looked at. */
  lookMs: number | undefined;
  /** What its last looks took, as many as judge it. */
  looksMs: readonly number[] = [];
  isHeard = false;
  /** Something was announced between the last look and the present one. */
  isAnnounced = false;
  /** The last look at its rules saw nothing that changes without being announced. */
  areRulesAnnounced = false;
  /** The last look has written in its namespace, which is announced to us as well. */
  hasWritten = false;
  /** The last look found "lo" down. */
  isLoopbackDown = false;
  /** Runs in a row that did not get where they wanted. */
  failures = 0;

  constructor(uid: string) {
    this.uid = uid;
    this.#workload = createWorkload(uid);
  }

  get workload(): Workload {
    return this.#workload;
  }

  get facts(): PodFacts | undefined {
    return this.#workload.pod;
  }

  get sandbox(): Sandbox | undefined {
    return this.#workload.sandbox;
  }

  get state(): EnrolmentState {
    return stateOf(this.#workload, this.lastRun);
  }

  get hasRules(): boolean {
    return rulesStand(this.#workload.phase);
  }

  /** Messages that no run has read. */
  get isBehind(): boolean {
    return this.#inbox.length > 0;
  }

  /** Nobody waits for it to be looked at. */
  get isIdle(): boolean {
    return !this.isBehind && this.waiters.size === 0;
  }

  /** Whether an ADD waits for the pod's present sandbox. */
  get isAdding(): boolean {
    const key = this.sandbox?.netns.key;
    return key !== undefined && [...this.waiters].some(({ netnsKey }) => netnsKey === key);
  }

  /** Resolves when ztunnel has heard that the pod's sandbox ended. */
  untilWithdrawn(): Promise<void> {
    this.#withdrawn ??= Promise.withResolvers();
    return this.#withdrawn.promise;
  }

  /** Only for the pod's own run: ztunnel has heard of it. */
  noteWithdrawn(): void {
    this.#withdrawn?.resolve();
    this.#withdrawn = undefined;
  }

  /** Leaves a message for the pod's next step. */
  put(message: Message): void {
    this.#inbox.push(message);
  }

  /** What the workload will be once its messages are read. */
  preview(nowMs: number): Workload {
    return this.#inbox.reduce((workload, message) => absorb(workload, message, nowMs), this.#workload);
  }

  /** Only for the pod's own run: reads the messages, in order. */
  read(nowMs: number): void {
    this.#workload = this.preview(nowMs);
    this.#inbox.length = 0;
  }

  /** Only for the pod's own run. */
  become(workload: Workload): void {
    this.#workload = workload;
  }

  /** Closes every handle that it owns, unread messages' ones included; no run may follow. */
  close(nowMs: number): void {
    this.read(nowMs);
    const { sandbox, stale, surplus } = this.#workload;
    for (const { netns } of stale) netns.close();
    for (const netns of surplus) netns.close();
    sandbox?.netns.close();
  }
}

/** What is known to be wrong with the capture of a pod that is wanted; `undefined`: nothing. */
export function captureFault(
  { sandbox, state }: PodStatus,
  seen: { readonly netnsKey: string | undefined; readonly acknowledged: string | undefined },
): string | undefined {
  if (sandbox === undefined) return "its sandbox is not known to the agent";
  if (seen.netnsKey !== undefined && seen.netnsKey !== sandbox.netns.key)
    return `the agent serves another namespace (${sandbox.netns.key}) for it`;
  if (state === "unverified") return "its rules cannot be verified";
  if (state !== "enrolled") return `it is ${state}`;
  return seen.acknowledged === sandbox.netns.key ? undefined : "ztunnel has not acknowledged it";
}

/** The word for where a pod stands. */
function stateOf({ phase }: Workload, lastRun: LastRun): EnrolmentState {
  switch (phase.at) {
    case "captured":
      return stateOfCaptured(lastRun);
    case "held":
      return lastRun === "unverified" ? "unverified" : "pending";
    case "leaving":
      return phase.wasCaptured && !isOpen(phase.stage) ? stateOfCaptured(lastRun) : "pending";
    case "outside":
    case "told":
    case "ended":
      return lastRun === "fine" ? "outside" : lastRun === "waiting" ? "waiting" : "failed";
  }
}

/** What keeps ztunnel from serving it, or its probes from passing, does not change its rules. */
function stateOfCaptured(lastRun: LastRun): EnrolmentState {
  return lastRun === "unverified" ? "unverified" : lastRun === "wrong" ? "failed" : "enrolled";
}
