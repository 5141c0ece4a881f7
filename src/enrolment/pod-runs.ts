// SPDX-License-Identifier: Apache-2.0
// The runs of all pods: each with what is told of its end, and when the pod is looked at again.
import type { Logger } from "../log/logger.ts";
import type { Clock } from "../loop/clock.ts";
import type { KeyedQueue } from "../loop/keyed-queue.ts";
import type { AddWaiters } from "./add-waiters.ts";
import type { Desired } from "./desired-state.ts";
import type { Step } from "./next-step.ts";
import type { Outcomes } from "./outcomes.ts";
import type { PodHistory } from "./pod-history.ts";
import type { PodNotices } from "./pod-notices.ts";
import type { PodRecord } from "./pod-record.ts";
import type { PodRecords } from "./pod-records.ts";
import type { Reconciler } from "./reconciler.ts";
import { isEmpty } from "./workload.ts";

/** How a run ended. */
export type Rest = Extract<Step, { do: "rest" }>;

export interface PodRunsParts {
  readonly reconciler: Reconciler;
  readonly records: PodRecords;
  readonly outcomes: Outcomes;
  readonly notices: PodNotices;
  readonly waiters: AddWaiters;
  readonly history: PodHistory;
  readonly log: Logger;
  readonly desired: (record: PodRecord) => Desired | undefined;
  /** As the queue's own. */
  readonly requestAfter: (uid: string, delayMs: number, how: { readonly isUrgent: boolean }) => void;
}

/** What the queue does for a pod; runs of one pod never overlap. */
export class PodRuns {
  readonly #parts: PodRunsParts;

  constructor(parts: PodRunsParts) {
    this.#parts = parts;
  }

  /** @throws when a step failed; the pod is tried again */
  async run(uid: string): Promise<Rest> {
    const record = this.#parts.records.get(uid);
    if (record === undefined) return { do: "rest", outcome: "forgotten" };
    const { history, log } = this.#parts;
    history.begin(uid);
    record.isAnnounced = this.#parts.notices.begin(record);
    try {
      const rest = await this.#parts.reconciler.run(record);
      log.debug({ uid, outcome: rest.outcome }, "looked at a pod");
      this.#parts.outcomes.warnOnce(record, this.#parts.desired(record));
      this.#follow(record);
      const pauseMs = this.#parts.outcomes.rested(record, rest);
      this.#parts.notices.looked(record);
      if (pauseMs !== undefined) this.#lookAgain(record, pauseMs);
      else if (rest.outcome === "forgotten" && isEmpty(record.workload) && record.isIdle)
        this.#parts.records.delete(uid);
      this.#parts.waiters.answer(record, rest.outcome);
      history.end(uid, record.state, rest.outcome);
      if (!this.#parts.records.has(uid)) history.forget(uid);
      return rest;
    } catch (error) {
      this.#follow(record);
      const pauseMs = this.#parts.outcomes.failed(record, error);
      this.#parts.notices.looked(record);
      this.#lookAgain(record, pauseMs);
      this.#parts.waiters.refuse(record, error);
      history.end(uid, record.state, "failed");
      throw error;
    }
  }

  #follow(record: PodRecord): void {
    this.#parts.notices.follow(record);
    record.isHeard = this.#parts.notices.hears(record);
  }

  #lookAgain(record: PodRecord, pauseMs: number): void {
    const { uid, waiters } = record;
    // what was announced meanwhile has its own pause
    const soonestMs = Math.min(pauseMs, this.#parts.notices.dueInMs(record) ?? pauseMs);
    this.#parts.requestAfter(uid, soonestMs, { isUrgent: waiters.size > 0 });
  }
}

interface Means {
  readonly queue: KeyedQueue<Rest>;
  readonly clock: Clock;
}

/** Runs each pod until it has left, or cannot. Never rejects. */
export async function untilLeft(uids: Iterable<string>, means: Means): Promise<void> {
  await Promise.allSettled(Array.from(uids, (uid) => leave(uid, means)));
}

async function leave(uid: string, { queue, clock }: Means): Promise<void> {
  for (;;) {
    const { outcome, againMs = 0 } = await queue.run(uid);
    if (outcome !== "leaving") return;
    await new Promise<void>((resolve) => clock.after(againMs, resolve));
  }
}
