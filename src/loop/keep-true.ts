// SPDX-License-Identifier: Apache-2.0
// Keeps something true: the same work again and again, when asked, after a while, and after failures; never twice at once.
import type { Backoff } from "./backoff.ts";
import { type Clock, systemClock, type Timer } from "./clock.ts";

export interface KeepTrueOptions {
  /**
   * Looks, and does what is missing. What it throws goes to those who wait for this run and to nobody else: it reports its
   * own failures. The signal is aborted by `stop`.
   */
  readonly work: (signal: AbortSignal) => Promise<void>;
  /** From the end of a run to the beginning of the next, at least; default 0. */
  readonly shortestMs?: number;
  /** From the end of a run to one that nobody asked for, or what tells it at that moment; default: there is none. */
  readonly longestMs?: number | (() => number);
  /** The part of `longestMs` that is left off at random, so that many do not march in step; 0 (the default) to 1. */
  readonly jitter?: number;
  /** Pauses after failures, where they are shorter than `longestMs`. Default: a failure brings no run of its own. */
  readonly backoff?: Backoff;
  readonly clock?: Clock | undefined;
  readonly random?: () => number;
}

/** Runs `work` until it is stopped; the first run is the first that is asked for. */
export class KeepTrue {
  readonly #options: KeepTrueOptions;
  readonly #clock: Clock;
  readonly #stop = new AbortController();
  /** The run that was asked for and has not begun; all who ask meanwhile share it. */
  #next: PromiseWithResolvers<void> | undefined;
  #isInLine = false;
  /** The last piece of work in line; undefined when nothing runs. */
  #last: Promise<unknown> | undefined;
  #earliestMs = Number.NEGATIVE_INFINITY;
  #timer: Timer | undefined;
  #timerMs = Number.POSITIVE_INFINITY;

  constructor(options: KeepTrueOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  /** Whether somebody asked after the run under way had begun. */
  get isNextRequested(): boolean {
    return this.#next !== undefined;
  }

  get isStopped(): boolean {
    return this.#stop.signal.aborted;
  }

  /**
   * A run that begins after now, at once where nothing is in its way; all who ask before it begins share it.
   * @throws what the run throws; the reason of the stop when it does not begin any more
   */
  request(): Promise<void> {
    if (this.isStopped) return Promise.reject(this.#stop.signal.reason);
    const next = this.#next ?? Promise.withResolvers<void>();
    if (this.#next === undefined) {
      this.#next = next;
      // nobody may be waiting
      next.promise.catch(() => {});
    }
    this.#line();
    return next.promise;
  }

  /** Asks for a run in so long, or earlier; its failure is nobody's. From within `work` it asks for the next one. */
  requestIn(ms: number): void {
    const atMs = this.#clock.nowMs() + ms;
    // one that is due earlier stays: who keeps asking must not put it off
    if (this.isStopped || atMs >= this.#timerMs) return;
    this.#timer?.cancel();
    this.#timerMs = atMs;
    this.#timer = this.#clock.after(ms, () => {
      this.#timerMs = Number.POSITIVE_INFINITY;
      this.request().catch(() => {});
    });
  }

  /** Other work that must not overlap, in the order of asking; also after the stop. @throws what the work throws */
  async exclusively<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#last === undefined ? work() : this.#last.then(work);
    const last = mine.then(
      () => {},
      () => {},
    );
    this.#last = last;
    try {
      return await mine;
    } finally {
      if (this.#last === last) this.#last = undefined;
    }
  }

  /** Waits for what is in line, however it ends. */
  async idle(): Promise<void> {
    while (this.#last !== undefined) await this.#last;
  }

  /** Refuses what has not begun, and waits for what has. @param reason what those who wait for a run are told */
  async stop(reason = new Error("it is stopped")): Promise<void> {
    this.#stop.abort(reason);
    this.#cancelTimer();
    this.#next?.reject(this.#stop.signal.reason);
    this.#next = undefined;
    await this.idle();
  }

  #line(): void {
    if (this.#isInLine) return;
    this.#isInLine = true;
    // told only when the line has moved on: whoever hears it and asks again is served at once
    void this.exclusively(() => this.#turn()).then((tell) => tell?.());
  }

  /** @returns what tells those who share the run how it ended; undefined when there was none */
  async #turn(): Promise<(() => void) | undefined> {
    this.#isInLine = false;
    const run = this.#next;
    if (run === undefined) return undefined;
    const earlyMs = this.#earliestMs - this.#clock.nowMs();
    if (earlyMs > 0) {
      this.requestIn(earlyMs);
      return undefined;
    }
    this.#next = undefined;
    // what was planned before is this run
    this.#cancelTimer();
    const { work, backoff, longestMs = Number.POSITIVE_INFINITY } = this.#options;
    const longest = () => (typeof longestMs === "function" ? longestMs() : longestMs);
    const { jitter = 0, random = Math.random, shortestMs = 0 } = this.#options;
    let failurePauseMs = Number.POSITIVE_INFINITY;
    let tell = (): void => run.resolve();
    try {
      await work(this.#stop.signal);
      backoff?.reset();
    } catch (error) {
      failurePauseMs = backoff?.nextMs() ?? failurePauseMs;
      tell = () => run.reject(error);
    }
    const pauseMs = Math.min(longest() * (1 - jitter * random()), failurePauseMs);
    this.#earliestMs = this.#clock.nowMs() + shortestMs;
    if (pauseMs !== Number.POSITIVE_INFINITY) this.requestIn(Math.max(pauseMs, shortestMs));
    return tell;
  }

  #cancelTimer(): void {
    this.#timer?.cancel();
    this.#timerMs = Number.POSITIVE_INFINITY;
  }
}
