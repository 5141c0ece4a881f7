// SPDX-License-Identifier: Apache-2.0
// Waits, but not for ever.
import { type Clock, systemClock } from "./clock.ts";

/** It was not there in time. */
export class DeadlineError extends Error {
  override readonly name = "DeadlineError";
}

export interface DeadlineOptions {
  readonly ms: number;
  /** Gives up earlier. */
  readonly signal?: AbortSignal | undefined;
  readonly clock?: Clock;
}

/**
 * What the promise gives; it is not stopped, and what it does too late is dropped.
 * @param options.message of the error, default: how long was waited
 * @throws {DeadlineError} when it is late; what the promise throws; the signal's reason
 */
export async function within<T>(
  promise: Promise<T>,
  options: DeadlineOptions & { readonly message?: string },
): Promise<T> {
  const { ms, message = `it did not answer within ${ms} ms` } = options;
  const outcome = await raced(promise, options);
  if (outcome === undefined) throw new DeadlineError(message);
  return outcome.value;
}

/** As {@link within}, but who is late gave nothing. @throws what the promise throws; the signal's reason */
export async function unlessLate<T>(promise: Promise<T>, options: DeadlineOptions): Promise<T | undefined> {
  return (await raced(promise, options))?.value;
}

/** @returns undefined when it is late */
async function raced<T>(promise: Promise<T>, options: DeadlineOptions): Promise<{ value: T } | undefined> {
  const { ms, signal, clock = systemClock } = options;
  const done = new AbortController();
  const end = signal === undefined ? done.signal : AbortSignal.any([signal, done.signal]);
  const slept = clock.sleep(ms, end).then(
    () => undefined,
    () => signal?.throwIfAborted(),
  );
  try {
    return await Promise.race([promise.then((value) => ({ value })), slept.then(() => undefined)]);
  } finally {
    // the wait is over: what else they say is nobody's
    slept.catch(() => {});
    promise.catch(() => {});
    done.abort();
  }
}
