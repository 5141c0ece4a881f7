// SPDX-License-Identifier: Apache-2.0
// Patience: growing pauses between tries, and how one is cut short.
import type { Clock } from "./clock.ts";

/** Pauses that double from `baseMs` to `capMs`, each cut by up to a half at random so that nodes do not march in step. */
export class Backoff {
  readonly #baseMs: number;
  readonly #capMs: number;
  readonly #random: () => number;
  #failures = 0;

  constructor(options: { baseMs?: number; capMs?: number; random?: (() => number) | undefined } = {}) {
    this.#baseMs = options.baseMs ?? 250;
    this.#capMs = options.capMs ?? 30_000;
    this.#random = options.random ?? Math.random;
  }

  /** Failures since the last success. */
  get failures(): number {
    return this.#failures;
  }

  /** Counts a failure and returns the pause before the next try. @param capMs a lower cap for this pause */
  nextMs(capMs = this.#capMs): number {
    const fullMs = Math.min(capMs, this.#capMs, this.#baseMs * 2 ** Math.min(this.#failures, 30));
    this.#failures += 1;
    return fullMs * (0.5 + this.#random() / 2);
  }

  reset(): void {
    this.#failures = 0;
  }
}

/** What is left of a pause that is cut short, at most: up to this, at random, for all nodes hear of a server at once. */
const remainderMs = 1000;

/** A pause between two tries that ends soon when there is reason to hope. */
export class CuttablePause {
  readonly #clock: Clock;
  readonly #random: () => number;
  #end: AbortController | undefined;
  #isCutAhead = false;

  constructor(clock: Clock, random: () => number) {
    this.#clock = clock;
    this.#random = random;
  }

  /** Resolves after the pause, soon after `cut`, or at once when the signal says so. */
  async sleep(ms: number, signal: AbortSignal): Promise<void> {
    if (!this.#isCutAhead) {
      const end = new AbortController();
      this.#end = end;
      await this.#clock.sleep(ms, AbortSignal.any([signal, end.signal])).catch(() => {});
      this.#end = undefined;
      if (!end.signal.aborted) return;
    }
    this.#isCutAhead = false;
    if (signal.aborted) return;
    await this.#clock.sleep(Math.min(ms, this.#random() * remainderMs), signal).catch(() => {});
  }

  /** Cuts the pause that is under way, or else the next one. */
  cut(): void {
    if (this.#end === undefined) this.#isCutAhead = true;
    else this.#end.abort();
  }

  /** The next pause is whole again. */
  forgetCut(): void {
    this.#isCutAhead = false;
  }
}
