// SPDX-License-Identifier: Apache-2.0
// So many at a time.

/** A number of places; who finds none free waits, in the order of coming. */
export class Limit {
  readonly #waiting: (() => void)[] = [];
  #free: number;

  constructor(places: number) {
    this.#free = places;
  }

  /**
   * Does the work in a place of its own.
   * @param options.signal ends the waiting for a place, not the work
   * @throws what the work throws; the signal's reason when it came first
   */
  async run<T>(work: () => Promise<T>, options: { signal?: AbortSignal } = {}): Promise<T> {
    await this.#take(options.signal);
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free++;
      // the place goes straight to the next one: nobody can come in between
      else next();
    }
  }

  async #take(signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted();
    if (this.#free > 0) {
      this.#free--;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const onAbort = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(serve), 1);
        reject((signal as AbortSignal).reason);
      };
      const serve = (): void => {
        signal?.removeEventListener("abort", onAbort);
        resolve();
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#waiting.push(serve);
    });
  }
}

/**
 * Does the work for each item, begun in their order, so many at a time; settles when all have ended.
 * @throws what the first in the list that failed threw
 */
export async function forEachLimited<T>(
  items: Iterable<T>,
  work: (item: T) => Promise<void>,
  options: { places: number },
): Promise<void> {
  const limit = new Limit(options.places);
  const outcomes = await Promise.allSettled(Array.from(items, (item) => limit.run(() => work(item))));
  for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
}
