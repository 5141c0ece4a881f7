// SPDX-License-Identifier: Apache-2.0
// Series of measurements and what is said of them.

/** The value below which `percent` of the samples lie (nearest rank). @throws RangeError for no samples. */
export function percentile(samples: readonly number[], percent: number): number {
  if (samples.length === 0) throw new RangeError("Cannot take a percentile of no samples");
  const sorted = samples.toSorted((a, b) => a - b);
  const rank = Math.min(sorted.length, Math.max(1, Math.ceil((percent / 100) * sorted.length)));
  return sorted[rank - 1] as number;
}

/** The median. */
export function p50(samples: readonly number[]): number {
  return percentile(samples, 50);
}

/** Runs something and returns how long it took, in milliseconds. */
export async function timed(action: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await action();
  return performance.now() - start;
}

/** Does something for each item, at most `limit` at a time. */
export async function forEachLimited<T>(
  items: Iterable<T>,
  limit: number,
  action: (item: T) => Promise<unknown>,
): Promise<void> {
  const queue = [...items];
  const worker = async (): Promise<void> => {
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) await action(item);
  };
  await Promise.all(Array.from({ length: limit }, worker));
}
