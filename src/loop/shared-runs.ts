// SPDX-License-Identifier: Apache-2.0
// One piece of work at a time; whoever asks while it is under way shares the run that comes next.

/** Runs `work` on request, never twice at once. */
export class SharedRuns {
  readonly #work: () => Promise<void>;
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;

  constructor(work: () => Promise<void>) {
    this.#work = work;
  }

  /** Whether somebody asked after the run under way had begun. */
  get isNextRequested(): boolean {
    return this.#next !== undefined;
  }

  /** A run that begins after now; all who ask before it begins share it, and what it throws. */
  request(): Promise<void> {
    if (this.#running === undefined) return this.exclusively(this.#work);
    this.#next ??= this.#running
      .catch(() => {})
      .then(() => {
        this.#next = undefined;
        return this.exclusively(this.#work);
      });
    return this.#next;
  }

  /** Other work that must not overlap, after what is under way. */
  async exclusively<T>(work: () => Promise<T>): Promise<T> {
    while (this.#running !== undefined) await this.#running.catch(() => {});
    const done = work();
    this.#running = done.then(() => {});
    // whoever waits for it gets the failure from `done`
    this.#running.catch(() => {});
    try {
      return await done;
    } finally {
      this.#running = undefined;
    }
  }

  /** Waits for what is under way and for what was requested, however it ends. */
  async idle(): Promise<void> {
    await Promise.allSettled([this.#running, this.#next]);
  }
}
