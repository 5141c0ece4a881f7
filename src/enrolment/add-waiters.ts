// SPDX-License-Identifier: Apache-2.0
// The ADDs that wait for their pods: their deadline, and what the pods' runs mean for them.
import type { NodeState } from "../kube/node-state.ts";
import type { Clock } from "../loop/clock.ts";
import type { ZdsServer } from "../ztunnel/zds-server.ts";
import { failureOf, logRemedy, StepError } from "./failure.ts";
import type { PodRecord, Waiter } from "./pod-record.ts";
import { type ReconcileOutcome, unfinishedOf, ztunnelAway } from "./run-outcome.ts";

export interface AddWaitersOptions {
  readonly clock: Clock;
  /** How long ADD waits for a ztunnel connection. ztunnel's own backoff reaches 15 s. */
  readonly ztunnelWaitMs: number;
  readonly ztunnel: Pick<ZdsServer, "connectionCount">;
  readonly node: Pick<NodeState, "isFresh">;
  /** Whether stock was taken of the node's pods, so that ztunnel may connect. */
  readonly isStarted: () => boolean;
  /** An ADD's time is over and a ztunnel is there: the pod is to be looked at, unless it is. */
  readonly onlate: (record: PodRecord) => void;
}

/** One ADD's wait. */
export interface AddWait {
  /** Rejects with what keeps the pod from being captured. */
  readonly answer: Promise<"enrolled" | "outside">;
  /** The ADD has its answer, or waits no longer. */
  end(): void;
}

/** Why no ztunnel may be connected; looking at its pod would not help. */
const notStarted = "the agent has just started and has not gone through the pods of this node yet";
const notListed = "the agent has not got the lists of pods and namespaces from the API server yet";

/** Answers the ADDs that wait. */
export class AddWaiters {
  readonly #options: AddWaitersOptions;

  constructor(options: AddWaitersOptions) {
    this.#options = options;
  }

  /**
   * Has an ADD wait until its pod is captured in that namespace.
   * @param patience of who does not wait longer than that for anything; default: `ztunnelWaitMs`, and then for what is under way
   */
  wait(record: PodRecord, netnsKey: string, patience?: { readonly waitMs: number }): AddWait {
    const { clock, ztunnelWaitMs } = this.#options;
    const { waitMs } = patience ?? { waitMs: ztunnelWaitMs };
    const goesOn = patience !== undefined;
    const waiter: Waiter = { netnsKey, done: Promise.withResolvers(), waitMs, goesOn, isLate: false };
    record.waiters.add(waiter);
    const deadline = clock.after(waitMs, () => this.#expire(record, waiter));
    return {
      answer: waiter.done.promise,
      end: () => {
        deadline.cancel();
        record.waiters.delete(waiter);
      },
    };
  }

  /** The pod is captured in its present sandbox; what its run still has to do keeps no ADD waiting. */
  captured(record: PodRecord): void {
    const key = record.sandbox?.netns.key;
    for (const waiter of [...record.waiters]) {
      if (waiter.netnsKey !== key) continue;
      waiter.done.resolve("enrolled");
      record.waiters.delete(waiter);
    }
  }

  /** Tells the ADDs that wait what a run without a failure means for them. */
  answer(record: PodRecord, outcome: ReconcileOutcome): void {
    const key = record.sandbox?.netns.key;
    for (const waiter of [...record.waiters]) {
      if (record.isBehind) continue;
      if (outcome === "no-ztunnel" || outcome === "stock-taken") {
        if (waiter.isLate) this.#giveUp(waiter);
        // the kubelet takes a deleted pod down when its ADD has an answer, and until then its place is taken
        else if (record.facts?.deletionTimestamp === true) this.#refuseDeleted(waiter);
        continue;
      }
      if (outcome === "outside") waiter.done.resolve("outside");
      else if (waiter.netnsKey === key && outcome === "enrolled") waiter.done.resolve("enrolled");
      // captured, but in another sandbox than this ADD's
      else waiter.done.reject(new Error(unfinishedOf(outcome) ?? unfinishedOf("no-sandbox")));
      record.waiters.delete(waiter);
    }
  }

  /** Tells the ADDs that wait of a failure, unless the next ztunnel mends it. */
  refuse(record: PodRecord, error: unknown): void {
    const { code } = failureOf(error);
    for (const waiter of [...record.waiters]) {
      if (code === "ztunnel-away" && !waiter.isLate) continue;
      waiter.done.reject(error);
      record.waiters.delete(waiter);
    }
  }

  /** The agent stops: the runtime has to ask the next one. */
  stop(records: Iterable<PodRecord>): void {
    for (const { waiters } of records)
      for (const { done } of waiters) done.reject(new Error("the agent is stopping"));
  }

  /** A request that a connected ztunnel has not answered ends by its own deadline, and then says what was the matter. */
  #expire(record: PodRecord, waiter: Waiter): void {
    if (this.#options.ztunnel.connectionCount === 0) this.#giveUp(waiter);
    else if (waiter.goesOn)
      waiter.done.reject(
        new Error(
          waiter.waitMs === 0
            ? "it is not captured yet"
            : `it is not captured within ${waiter.waitMs / 1000} s`,
        ),
      );
    else {
      waiter.isLate = true;
      this.#options.onlate(record);
    }
  }

  #refuseDeleted(waiter: Waiter): void {
    const message = `${this.#noZtunnel.message}, and it is being deleted`;
    waiter.done.reject(new StepError({ ...ztunnelAway, message, remedy: "" }, undefined));
  }

  #giveUp(waiter: Waiter): void {
    const failure = this.#noZtunnel;
    const message =
      waiter.waitMs === 0 ? failure.message : `${failure.message} for ${waiter.waitMs / 1000} s`;
    waiter.done.reject(new StepError({ ...failure, message }, undefined));
  }

  /** Why there is none. */
  get #noZtunnel(): typeof ztunnelAway {
    const { isStarted, node } = this.#options;
    if (isStarted()) return ztunnelAway;
    return { ...ztunnelAway, message: node.isFresh() ? notStarted : notListed, remedy: logRemedy };
  }
}
