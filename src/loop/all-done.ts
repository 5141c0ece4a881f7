// SPDX-License-Identifier: Apache-2.0
// Waits for parallel work to the end, also when part of it fails, so that nothing goes on behind the caller's back.

/**
 * As Promise.all, but settles only when all of them have.
 * @throws what the first in the list that failed threw.
 */
export async function allDone<T extends readonly unknown[]>(
  work: readonly [...{ [K in keyof T]: Promise<T[K]> }],
): Promise<{ -readonly [K in keyof T]: T[K] }> {
  await Promise.allSettled(work);
  return await Promise.all(work);
}
