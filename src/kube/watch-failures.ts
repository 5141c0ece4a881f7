// SPDX-License-Identifier: Apache-2.0
// What follows from a failed watch: how long to wait, whether to list anew, and when to tell the operator.
import type { Logger } from "../observe/logger.ts";
import { ApiError } from "./api-error.ts";
import { Backoff, type Clock, CuttablePause } from "./backoff.ts";

export interface WatchFailuresOptions {
  /** What is watched, for logs. */
  readonly what: string;
  readonly log: Logger;
  readonly clock: Clock;
  readonly random: () => number;
  /** Default from 250 ms to 30 s. */
  readonly backoff: Backoff | undefined;
}

/** Cap of the pauses after tries that reached nobody: they burden no server, and a short cap finds it soon when it is back. */
const unreachableCapMs = 10_000;
/** Longest that a server's own wish to be left alone is heeded. */
const longestWishMs = 30_000;

/** Failures of one watch since it last worked. */
export class WatchFailures {
  readonly #options: WatchFailuresOptions;
  readonly #backoff: Backoff;
  readonly #pause: CuttablePause;
  #sinceMs: number | undefined;
  /** Whether the last failure asked for a list. */
  #neededList = false;

  constructor(options: WatchFailuresOptions) {
    const { clock, random, backoff = new Backoff({ random }) } = options;
    this.#options = options;
    this.#backoff = backoff;
    this.#pause = new CuttablePause(clock, random);
  }

  /** Resolves when it is time for the next try. */
  async pauseAfter(error: unknown, signal: AbortSignal): Promise<void> {
    this.#note(error);
    const { reason, retryAfterMs } = error instanceof ApiError ? error : {};
    const ownMs = this.#backoff.nextMs(reason === "Unreachable" ? unreachableCapMs : undefined);
    if (retryAfterMs === undefined) return await this.#pause.sleep(ownMs, signal);
    // a pause that the server asked for is not ours to cut
    const pauseMs = Math.max(ownMs, Math.min(retryAfterMs, longestWishMs));
    await this.#options.clock.sleep(pauseMs, signal).catch(() => {});
  }

  /** Cuts the pause short, because somebody else was answered: the server is back. */
  retrySoon(): void {
    this.#pause.cut();
  }

  /** The watch works. */
  noteSuccess(): void {
    if (this.#sinceMs !== undefined) {
      const { what, log, clock } = this.#options;
      const failedMs = Math.round(clock.nowMs() - this.#sinceMs);
      log.info({ what, failedMs, failures: this.#backoff.failures }, "watching again");
      this.#sinceMs = undefined;
    }
    this.#backoff.reset();
  }

  #note(error: unknown): void {
    const { what, log, clock } = this.#options;
    this.#sinceMs ??= clock.nowMs();
    const relist = needsList(error);
    // the server is back and says what to do: no reason to wait as long as for one that is away, unless it goes on so
    if (relist && !this.#neededList) this.#backoff.reset();
    this.#neededList = relist;
    const { failures } = this.#backoff;
    const fields = { what, err: error, failures: failures + 1, relist };
    // Operators need the first failure and a reminder, not one line for each try.
    const notable = failures === 0 || failures % 10 === 9;
    if (notable) log.warn(fields, "cannot watch; trying again");
    else log.debug(fields, "cannot watch; trying again");
  }
}

/** The version is of no use any more: too old, too new, refused as a parameter, or followed by something unreadable. */
export function needsList(error: unknown): boolean {
  if (!(error instanceof ApiError)) return false;
  return error.isGone || error.status === 400 || error.status === 422 || error.reason === "BadResponse";
}
