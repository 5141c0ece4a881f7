// SPDX-License-Identifier: Apache-2.0
// Order and bounds for work that goes on behind the operations: one after another here, a few at once there.

/** Tasks one after another; a failed one does not keep the next from running. */
export class WorkChain {
  #last: Promise<unknown> = Promise.resolve();

  run<T>(task: () => Promise<T>): Promise<T> {
    const done = this.#last.then(task);
    this.#last = done.catch(() => {});
    return done;
  }

  /** Makes all later tasks wait for this one as well. */
  join(other: Promise<unknown>): void {
    void this.run(async () => {
      await other.catch(() => {});
    });
  }

  /** Resolves when the tasks so far have ended. */
  async idle(): Promise<void> {
    await this.#last;
  }
}

/** At most `limit` tasks at once. */
export class WorkLimit {
  readonly #queue: (() => void)[] = [];
  #free: number;

  constructor(limit: number) {
    this.#free = limit;
  }

  async run<T>(task: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#queue.push(resolve));
    try {
      return await task();
    } finally {
      const next = this.#queue.shift();
      if (next === undefined) this.#free++;
      else next();
    }
  }
}
