// SPDX-License-Identifier: Apache-2.0
// What goes wrong on the host's side of kubelet probes.

/**
 * - `FAILED`: a program or the kernel refused; `cause` says what.
 * - `UNREADABLE_TABLE`: `nft` wrote something into the host's nat table that iptables cannot show.
 * - `FOREIGN_SET`: an ipset with our name is of another type.
 * - `NOT_CONVERGED`: rules or sets differ again right after each write: somebody else writes them too.
 * - `STOPPED`: the agent is ending.
 */
export type ProbesErrorCode = "FAILED" | "UNREADABLE_TABLE" | "FOREIGN_SET" | "NOT_CONVERGED" | "STOPPED";

/** Kubelet probes cannot be let past ztunnel; `code` says why. */
export class ProbesError extends Error {
  override readonly name = "ProbesError";
  readonly code: ProbesErrorCode;

  constructor(code: ProbesErrorCode, message: string, options: { cause?: unknown } = {}) {
    super(message, options);
    this.code = code;
  }
}
