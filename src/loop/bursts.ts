// SPDX-License-Identifier: Apache-2.0
// How soon something is answered that others can make happen as often as they like: at once, until it goes on and on.
import type { Clock } from "./clock.ts";

export interface BurstsOptions {
  /** Answers that may follow each other closely. */
  readonly most: number;
  /** From one answer to the next, once there were so many; and until one more may follow closely again. */
  readonly everyMs: number;
  /** Before each: what comes together is answered together. */
  readonly gatherMs: number;
}

/** Answers to one source. A few come quickly whenever it has been quiet; in the long run there is one in `everyMs`. */
export class Bursts {
  readonly #options: BurstsOptions;
  readonly #clock: Pick<Clock, "nowMs">;
  #count = 0;
  #atMs = Number.NEGATIVE_INFINITY;

  constructor(options: BurstsOptions, clock: Pick<Clock, "nowMs">) {
    this.#options = options;
    this.#clock = clock;
  }

  /**
   * It happened, and is answered once.
   * @param isOurs we made it happen: it counts for nothing
   * @returns how long to wait with that, in ms
   */
  pauseMs({ isOurs = false }: { readonly isOurs?: boolean } = {}): number {
    const { most, everyMs, gatherMs } = this.#options;
    const nowMs = this.#clock.nowMs();
    this.#count = Math.max(0, this.#count - (nowMs - this.#atMs) / everyMs) + (isOurs ? 0 : 1);
    this.#atMs = nowMs;
    return Math.max(gatherMs, (this.#count - most) * everyMs);
  }
}
