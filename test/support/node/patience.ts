// SPDX-License-Identifier: Apache-2.0
// How much longer than on a machine of its own everything may take here: test/machines runs on a processor that a program plays.

/** The variable that says so, as a number of at least 1. */
export const patienceVariable = "TEST_PATIENCE";

/**
 * The factor for limits that are there against hanging, and for claims about time.
 *
 * @throws Error when the variable holds something else
 */
export function patience(): number {
  const text = process.env[patienceVariable] ?? "1";
  const factor = Number(text);
  if (!(factor >= 1))
    throw new Error(`Cannot use ${patienceVariable} "${text}": it is no number of at least 1`);
  return factor;
}
