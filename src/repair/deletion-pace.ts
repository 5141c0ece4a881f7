// SPDX-License-Identifier: Apache-2.0
// How fast pods are deleted: those that were broken together at once, and what their owner made in their place, when that is
// broken too, with growing pauses. A fault that no deletion cures must not become an endless storm of pods.

import { putLast } from "../bounds/bounded.ts";
import type { Clock } from "../loop/clock.ts";

interface Owner {
  /** Generations of its pods that have been deleted. */
  generations: number;
  lastMs: number;
}

const firstPauseMs = 10_000;
const longestPauseMs = 600_000;
/** A fault that comes back after so long is a new one. */
const forgottenMs = 3_600_000;
const maxOwners = 1_024;

/** Deletions by owner; an owner's pods belong to the generation that was told when they were first seen. */
export class DeletionPace {
  readonly #clock: Clock;
  readonly #owners = new Map<string, Owner>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** The generation of a pod that is seen now: 0 where none of its owner's was deleted lately, or it has none. */
  generationOf(ownerUid: string): number {
    const owner = this.#owners.get(ownerUid);
    if (owner === undefined) return 0;
    if (this.#clock.nowMs() - owner.lastMs < forgottenMs) return owner.generations;
    this.#owners.delete(ownerUid);
    return 0;
  }

  /** How long a pod of that generation still has to wait, in ms; 0: not at all. */
  pauseMs(ownerUid: string, generation: number): number {
    const owner = this.#owners.get(ownerUid);
    if (owner === undefined || generation === 0) return 0;
    const wholeMs = Math.min(longestPauseMs, firstPauseMs * 2 ** Math.min(generation - 1, 30));
    return Math.max(0, owner.lastMs + wholeMs - this.#clock.nowMs());
  }

  /** A pod of that generation was deleted. */
  deleted(ownerUid: string, generation: number): void {
    if (ownerUid === "") return;
    const generations = Math.max(this.generationOf(ownerUid), generation + 1);
    putLast(this.#owners, [ownerUid, { generations, lastMs: this.#clock.nowMs() }], maxOwners);
  }
}
