// SPDX-License-Identifier: Apache-2.0
// How CNI calls are answered, in the few words that metrics count them by.

/**
 * How a CNI call was answered. `captured`: the pod is in the mesh; `passed`: it is none of ours, or the call was of
 * another verb and went well; `retry`: the caller should come again; `invalid`: its input is wrong; `failed`.
 */
export const callOutcomes = ["captured", "passed", "retry", "invalid", "failed"] as const;
export type CallOutcome = (typeof callOutcomes)[number];

/** Sorts the error of a CNI call; `code` is that of the CNI spec. */
export function callOutcomeOf(error: unknown): CallOutcome {
  const { code } = error as { readonly code?: unknown };
  if (code === 11) return "retry";
  return typeof code === "number" && code > 0 && code < 10 ? "invalid" : "failed";
}
