// SPDX-License-Identifier: Apache-2.0
// What goes wrong with a namespace's redirection apart from the tools themselves.
import type { NetfilterFaultCode } from "../netfilter/netfilter-fault.ts";

/**
 * - `HOST_NETNS`: the namespace is the host's or the agent's own; nothing was written.
 * - `NETNS_CLOSED`: the handle was closed, or its descriptor is another namespace's by now; nothing was written.
 * - `NOT_CONVERGED`: the rules differ again right after each write: somebody else writes them too.
 * - and those of the netfilter engine
 */
export type RedirectionErrorCode = "HOST_NETNS" | "NETNS_CLOSED" | "NOT_CONVERGED" | NetfilterFaultCode;

/** A namespace's redirection cannot be brought about; `code` says why. */
export class RedirectionError extends Error {
  override readonly name = "RedirectionError";
  readonly code: RedirectionErrorCode;

  constructor(code: RedirectionErrorCode, message: string, options: { cause?: unknown } = {}) {
    super(message, options);
    this.code = code;
  }
}
