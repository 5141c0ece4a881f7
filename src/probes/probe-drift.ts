// SPDX-License-Identifier: Apache-2.0
// The words for how the host differs from what it should be.
import type { Family } from "../netfilter/family.ts";

/** One way in which the host's sets and rules differ from what they should be. */
export interface ProbeDrift {
  readonly kind:
    | "missing-set"
    | "wrong-set"
    | "missing-member"
    | "wrong-owner"
    | "stale-member"
    | "missing-chain"
    | "wrong-rules"
    | "stale-cgroup"
    | "missing-jump"
    | "jump-not-first"
    | "duplicate-jump"
    | "leftover";
  readonly family: Family;
  /** The pod whose the entry should be (`missing-member`, `wrong-owner`), or says to be (`stale-member`). */
  readonly uid?: string;
  readonly detail: string;
}

/** The first few of a list in one line. */
export function describeDrift(drift: readonly ProbeDrift[]): string {
  const shown = drift.slice(0, 5).map(({ family, detail }) => `IPv${family}: ${detail}`);
  const rest = drift.length - shown.length;
  return shown.join("; ") + (rest > 0 ? ` and ${rest} more` : "");
}
