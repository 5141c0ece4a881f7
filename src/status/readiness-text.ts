// SPDX-License-Identifier: Apache-2.0
// What is said of readiness, and to whom. Pure.
import type { Readiness } from "./readiness.ts";

/** The two ends of a connection, as a socket has them. */
export interface Ends {
  readonly remoteAddress?: string | undefined;
  readonly localAddress?: string | undefined;
}

/**
 * Whether who asks is in the agent's own network namespace, which no pod is that has one of its own: over loopback, or from the
 * address that it asks. No header can say so.
 */
export function isOwnPeer({ remoteAddress, localAddress }: Ends): boolean {
  if (remoteAddress === undefined) return false;
  const address = remoteAddress.replace(/^::ffff:/, "");
  return address === "::1" || /^127\./.test(address) || remoteAddress === localAddress;
}

/**
 * The answer of `/readyz`. Reasons quote settings, paths, other programs and what the kernel said of pods: a stranger is told
 * how many conditions are not met, and no more.
 */
export function readinessText(
  { conditions, reason }: Pick<Readiness, "conditions" | "reason">,
  peer: Ends,
): string {
  if (reason === undefined) return "ready\n";
  if (isOwnPeer(peer)) return `not ready: ${reason}\n`;
  const count = conditions.filter(({ missing }) => missing !== undefined).length;
  const what = count === 1 ? "1 condition is" : `${count} conditions are`;
  return `not ready: ${what} not met; see ambient-cni status\n`;
}
