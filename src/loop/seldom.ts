// SPDX-License-Identifier: Apache-2.0
// Things that others can make happen as often as they like, told seldom, with a count.
import { type Clock, systemClock } from "./clock.ts";

export interface SeldomOptions {
  /** From one telling to the next, at least; default 10 min. */
  readonly pauseMs?: number;
  readonly clock?: Clock | undefined;
}

/** Counts, and says when it is time to tell. */
export class Seldom {
  readonly #pauseMs: number;
  readonly #clock: Clock;
  #toldMs = Number.NEGATIVE_INFINITY;
  #count = 0;

  constructor({ pauseMs = 600_000, clock = systemClock }: SeldomOptions = {}) {
    this.#pauseMs = pauseMs;
    this.#clock = clock;
  }

  /** It happened. @returns how often since it was told, where it is to be told now; else undefined */
  count(): number | undefined {
    this.#count++;
    const nowMs = this.#clock.nowMs();
    if (nowMs - this.#toldMs < this.#pauseMs) return undefined;
    const count = this.#count;
    this.#toldMs = nowMs;
    this.#count = 0;
    return count;
  }
}
