// SPDX-License-Identifier: Apache-2.0
// Claims about a node that somebody else than the agent has to confirm.

/** A claim that the kernel did not confirm. */
export class ClaimError extends Error {
  override readonly name = "ClaimError";
}

/** @throws ClaimError unless the condition holds. */
export function claim(condition: boolean, whatIsWrong: string): asserts condition {
  if (!condition) throw new ClaimError(whatIsWrong);
}
