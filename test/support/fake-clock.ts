// SPDX-License-Identifier: Apache-2.0
// A clock that only a test moves.
import type { Clock, Timer } from "../../src/loop/clock.ts";

interface Due {
  readonly atMs: number;
  readonly run: () => void;
}

/**
 * Time stands still until `advance`. Timers fire in the order of their time, those of one moment in the order they were
 * made in, all of them inside `advance`; what is awaited goes on when the test gives its promises a turn.
 */
export class FakeClock implements Clock {
  /** By time, the next one last: the one that fires is popped off. */
  readonly #due: Due[] = [];
  #nowMs: number;

  constructor(startMs = 0) {
    this.#nowMs = startMs;
  }

  nowMs(): number {
    return this.#nowMs;
  }

  /** Timers and sleeps that have not ended. */
  get pendingCount(): number {
    return this.#due.length;
  }

  /** When the next of them ends, on this clock. */
  nextDueMs(): number | undefined {
    return this.#due.at(-1)?.atMs;
  }

  /** Moves on, through every moment at which something is due, also what is planned meanwhile. */
  advance(ms: number): void {
    const endMs = this.#nowMs + ms;
    for (let next = this.#due.at(-1); next !== undefined && next.atMs <= endMs; next = this.#due.at(-1)) {
      this.#due.pop();
      this.#nowMs = Math.max(this.#nowMs, next.atMs);
      next.run();
    }
    this.#nowMs = endMs;
  }

  after(ms: number, run: () => void): Timer {
    const due: Due = { atMs: this.#nowMs + Math.max(0, ms), run };
    let index = this.#due.length;
    while (index > 0 && (this.#due[index - 1] as Due).atMs <= due.atMs) index--;
    this.#due.splice(index, 0, due);
    return { cancel: () => this.#cancel(due) };
  }

  sleep(ms: number, signal: AbortSignal): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    if (signal.aborted) reject(signal.reason);
    else {
      const onAbort = (): void => {
        timer.cancel();
        reject(signal.reason);
      };
      const timer = this.after(ms, () => {
        signal.removeEventListener("abort", onAbort);
        resolve();
      });
      signal.addEventListener("abort", onAbort, { once: true });
    }
    return promise;
  }

  #cancel(due: Due): void {
    const index = this.#due.lastIndexOf(due);
    if (index >= 0) this.#due.splice(index, 1);
  }
}
