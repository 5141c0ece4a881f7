// SPDX-License-Identifier: Apache-2.0
// Time as the loops see it, so that tests replace it.
import { setTimeout as delay } from "node:timers/promises";

/** Something that will happen, unless it is cancelled before. */
export interface Timer {
  /** Does nothing when it has happened already. */
  cancel(): void;
}

/** Time as this program sees it; `nowMs` only ever grows. */
export interface Clock {
  nowMs(): number;
  /** Resolves after the pause; rejects when the signal cuts it short, or has already. */
  sleep(ms: number, signal: AbortSignal): Promise<void>;
  /** Calls `run` once after the pause. What is only planned keeps no process alive, unlike what is slept for. */
  after(ms: number, run: () => void): Timer;
}

/** The machine's own clock. */
export const systemClock: Clock = {
  nowMs: () => performance.now(),
  sleep: (ms, signal) => delay(ms, undefined, { signal }),
  after(ms, run) {
    const timer = setTimeout(run, ms).unref();
    return { cancel: () => clearTimeout(timer) };
  },
};
