// SPDX-License-Identifier: Apache-2.0
// What is said of readiness, and to whom. Pure.
import { type Ends, peerOf } from "../ports/peer.ts";
import type { Readiness } from "./readiness.ts";

/**
 * The answer of `/readyz`. Reasons quote settings, paths, other programs and what the kernel said of pods: a stranger is told
 * how many conditions are not met, and no more.
 */
export function readinessText(
  { conditions, reason }: Pick<Readiness, "conditions" | "reason">,
  peer: Ends,
): string {
  if (reason === undefined) return "ready\n";
  // the node alone: no header could say so
  if (peerOf(peer).isOwn) return `not ready: ${reason}\n`;
  const count = conditions.filter(({ missing }) => missing !== undefined).length;
  const what = count === 1 ? "1 condition is" : `${count} conditions are`;
  return `not ready: ${what} not met; see ambient-cni status\n`;
}
