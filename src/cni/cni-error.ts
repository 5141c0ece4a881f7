// SPDX-License-Identifier: Apache-2.0
// Errors a CNI caller gets to see, and the few words that metrics count the answers by.

/**
 * Error codes of the CNI specification that the agent uses; 100 and above are the plugin's own.
 * Source: CNI spec 1.1.0, "Error" and "STATUS", https://www.cni.dev/docs/spec/#error
 */
export const cniErrorCodes = {
  incompatibleVersion: 1,
  unsupportedField: 2,
  unknownContainer: 3,
  invalidEnvironment: 4,
  io: 5,
  decoding: 6,
  invalidConfig: 7,
  tryAgainLater: 11,
  notAvailable: 50,
  internal: 100,
  notCaptured: 101,
} as const;

/** An answer of failure. Runtimes show people only the message: it has the cause and the remedy. */
export class CniError extends Error {
  override readonly name = "CniError";
  readonly code: number;
  readonly details: string;

  constructor(code: keyof typeof cniErrorCodes, message: string, details = "") {
    super(message);
    this.code = cniErrorCodes[code];
    this.details = details;
  }
}

/** The error object for stdout, in the version of the caller's configuration. */
export function renderCniError(error: CniError, cniVersion: string): string {
  const details = error.details === "" ? {} : { details: error.details };
  return JSON.stringify({ cniVersion, code: error.code, msg: error.message, ...details });
}

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
