// SPDX-License-Identifier: Apache-2.0
// What follows from a failed watch: how long to wait, whether to list anew, and when to tell the operator.
import type { Logger } from "../log/logger.ts";
import { Backoff, CuttablePause } from "../loop/backoff.ts";
import type { Clock } from "../loop/clock.ts";
import { ApiError } from "./api-error.ts";

export interface WatchFailuresOptions {
  /** What is watched, for logs. */
  readonly what: string;
  readonly log: Logger;
  readonly clock: Clock;
  readonly random: () => number;
  /** Default from 250 ms to 30 s. */
  readonly backoff: Backoff | undefined;
}

/** Cap of the pauses after tries that nobody took: they burden no server, and a short cap finds it soon when it is back. */
const nobodyThereCapMs = 10_000;
const nobodyThere: ReadonlySet<unknown> = new Set(["ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH"]);
/**
 * Least time between two pauses that are cut short. What wakes a watch says little about it: a server may take all watches
 * and end them, or answer for one pod and not for the list, and thousands of nodes would ask it again and again.
 */
const cutIntervalMs = 10_000;
/**
 * How long a watch fails by the server's own fault until another version is tried. A server that is ill for a minute goes on where it
 * stopped, and is spared the lists of all nodes; one that cannot read what came after this version never would.
 * Source: client-go tools/cache/reflector.go, which lists after each such failure.
 */
const hopelessMs = 60_000;
/** Longest that a server's own wish to be left alone is heeded. */
const longestWishMs = 30_000;

/** Failures of one watch since it last worked. */
export class WatchFailures {
  readonly #options: WatchFailuresOptions;
  readonly #backoff: Backoff;
  readonly #pause: CuttablePause;
  #sinceMs: number | undefined;
  #lastCutMs = Number.NEGATIVE_INFINITY;
  /** Whether the last failure asked for a list. */
  #neededList = false;

  constructor(options: WatchFailuresOptions) {
    const { clock, random, backoff = new Backoff({ random }) } = options;
    this.#options = options;
    this.#backoff = backoff;
    this.#pause = new CuttablePause(clock, random);
  }

  /** It has failed, and is not known to work again. */
  get isFailing(): boolean {
    return this.#sinceMs !== undefined;
  }

  /** Whether a list is to come before the next watch. */
  needsList(error: unknown): boolean {
    if (needsList(error)) return true;
    const isHopeless =
      this.#sinceMs !== undefined && this.#options.clock.nowMs() - this.#sinceMs >= hopelessMs;
    return isHopeless && isServersFault(error);
  }

  /** Resolves when it is time for the next try. */
  async pauseAfter(error: unknown, signal: AbortSignal): Promise<void> {
    this.#note(error);
    const ownMs = this.#backoff.nextMs(isNobodyThere(error) ? nobodyThereCapMs : undefined);
    const wishMs = error instanceof ApiError ? Math.min(error.retryAfterMs ?? 0, longestWishMs) : 0;
    // what the server asked for is not ours to cut, the rest is
    if (wishMs > 0) await this.#options.clock.sleep(wishMs, signal).catch(() => {});
    if (ownMs > wishMs) await this.#pause.sleep(ownMs - wishMs, signal);
  }

  /** Somebody else was answered, the server is back: cuts short the pause that is under way, or the one after this try. */
  retrySoon(): void {
    if (this.#sinceMs === undefined) return;
    const nowMs = this.#options.clock.nowMs();
    if (nowMs - this.#lastCutMs < cutIntervalMs) return;
    this.#lastCutMs = nowMs;
    this.#pause.cut();
  }

  /** The watch works. */
  noteSuccess(): void {
    if (this.#sinceMs !== undefined) {
      const { what, log, clock } = this.#options;
      const failedMs = Math.round(clock.nowMs() - this.#sinceMs);
      log.info({ what, failedMs, failures: this.#backoff.failures }, "watching again");
      this.#sinceMs = undefined;
      this.#pause.forgetCut();
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
    const fields = { what, err: error, failures: failures + 1, relist: this.needsList(error) };
    // Operators need the first failure and a reminder, not one line for each try.
    const notable = failures === 0 || failures % 10 === 9;
    if (notable) log.warn(fields, "cannot watch; trying again");
    else log.debug(fields, "cannot watch; trying again");
  }
}

/** The version is of no use any more: too old, too new, refused as a parameter, or followed by something unreadable. */
function needsList(error: unknown): boolean {
  if (!(error instanceof ApiError)) return false;
  return error.isGone || error.status === 400 || error.status === 422 || error.reason === "BadResponse";
}

/** In the words of the API server, not of what stands before one that is away. */
function isServersFault(error: unknown): boolean {
  return error instanceof ApiError && error.status >= 500 && error.reason !== "Unknown";
}

/** No connection came about. A server behind a broken certificate is there: each try costs it a handshake. */
function isNobodyThere(error: unknown): boolean {
  return error instanceof ApiError && nobodyThere.has((error.cause as { code?: unknown } | undefined)?.code);
}
