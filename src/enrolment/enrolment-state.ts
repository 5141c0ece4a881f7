// SPDX-License-Identifier: Apache-2.0
// Where a pod stands: the words that state API, metrics and people have for it.

/**
 * - `outside`: not in the mesh and untouched.
 * - `waiting`: wanted, but its sandbox or ztunnel is not there yet; no rule of ours leads its traffic anywhere.
 * - `pending`: half-way: rules stand and not everything is verified and acknowledged, or it is on its way out.
 * - `enrolled`: everything verified.
 * - `unverified`: rules of ours may stand in it, and what is there cannot be read or judged. It may well be captured: nothing is
 *   taken away from it, and the state ends by itself with the first look that succeeds.
 * - `failed`: the last attempt ended in an error, or its rules are known to be wrong and could not be mended; tried again by itself.
 */
export const enrolmentStates = ["outside", "waiting", "pending", "enrolled", "unverified", "failed"] as const;

/** One of {@link enrolmentStates}. */
export type EnrolmentState = (typeof enrolmentStates)[number];
