// SPDX-License-Identifier: Apache-2.0
// Waiting for a condition with a deadline: the tests' replacement for sleeping.
import { setTimeout as delay } from "node:timers/promises";
import { patience } from "./patience.ts";

/** Limits of {@link waitFor}. */
export interface WaitOptions {
  /** Default 5000; times {@link patience}. */
  readonly timeoutMs?: number;
  /** Pause between two probes, default 5; times {@link patience}. */
  readonly intervalMs?: number;
}

type Truthy<T> = Exclude<T, undefined | null | false | 0 | "">;

/**
 * Runs a probe until it answers something truthy and returns that.
 *
 * A probe that throws counts as "not yet"; its last error becomes the cause.
 * @throws Error naming `what` when the deadline has passed.
 */
export async function waitFor<T>(
  what: string,
  probe: () => T | Promise<T>,
  options: WaitOptions = {},
): Promise<Truthy<T>> {
  // a machine that is slow must not be kept busy by who waits
  const intervalMs = (options.intervalMs ?? 5) * patience();
  const timeoutMs = (options.timeoutMs ?? 5000) * patience();
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    let cause: unknown;
    try {
      const answer = await probe();
      if (answer) return answer as Truthy<T>;
    } catch (error) {
      cause = error;
    }
    if (performance.now() >= deadline) {
      const why = cause instanceof Error ? `: ${cause.message}` : "";
      throw new Error(`Waited ${timeoutMs} ms in vain for ${what}${why}`, { cause });
    }
    await delay(intervalMs);
  }
}
