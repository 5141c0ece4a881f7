// SPDX-License-Identifier: Apache-2.0
// What goes wrong on the host's side of kubelet probes.
import { describeDrift, type ProbeDrift } from "./probe-drift.ts";

/**
 * - `FAILED`: a program or the kernel refused; `cause` says what.
 * - `FOREIGN_SET`: an ipset with our name is of another type.
 * - `NOT_CONVERGED`: rules or sets differ again right after each write: somebody else writes them too.
 * - `RULE_REFUSED`: the kernel or iptables does not take our rule; `cause` has their words.
 * - `STOPPED`: the agent is ending.
 */
export type ProbesErrorCode = "FAILED" | "FOREIGN_SET" | "NOT_CONVERGED" | "RULE_REFUSED" | "STOPPED";

/** Kubelet probes cannot be let past ztunnel; `code` says why. */
export class ProbesError extends Error {
  override readonly name = "ProbesError";
  readonly code: ProbesErrorCode;

  constructor(code: ProbesErrorCode, message: string, options: { cause?: unknown } = {}) {
    super(message, options);
    this.code = code;
  }
}

export function stoppedError(): ProbesError {
  return new ProbesError(
    "STOPPED",
    "Cannot let kubelet probes past ztunnel: the agent of this node is stopping",
  );
}

export function notConvergedError(drift: readonly ProbeDrift[]): ProbesError {
  return new ProbesError(
    "NOT_CONVERGED",
    `Cannot let kubelet probes past ztunnel: what was written is gone again at once (${describeDrift(drift)}); ` +
      "look for another program that writes ISTIO_POSTRT or our ipsets on this host",
  );
}

export function ruleRefusedError(cause: Error): ProbesError {
  return new ProbesError("RULE_REFUSED", `Cannot let kubelet probes past ztunnel: ${cause.message}`, {
    cause,
  });
}

/** Any failure in our words; a ProbesError is passed on. */
export function asProbesError(error: unknown): ProbesError {
  if (error instanceof ProbesError) return error;
  const why = error instanceof Error ? error.message : String(error);
  return new ProbesError("FAILED", `Cannot let kubelet probes past ztunnel: ${why}`, { cause: error });
}
