// SPDX-License-Identifier: Apache-2.0
// The words for how the host differs from what it should be.
import type { Family } from "../netfilter/family.ts";
import type { MemberFinding } from "./set-members.ts";

/** One way in which the host's sets and rules differ from what they should be. */
export interface ProbeDrift {
  /** Beside what both modes have, what the chains of iptables alone can have, and the rules of branch ENIs. */
  readonly kind:
    | ("missing-set" | "wrong-set" | MemberFinding["kind"] | "missing-chain" | "wrong-rules" | "leftover")
    | "stale-cgroup"
    | "missing-jump"
    | "jump-not-first"
    | "duplicate-jump"
    | "missing-policy-rule"
    | "stale-policy-rule";
  readonly family: Family;
  /** The pod whose the entry should be (`missing-member`, `wrong-owner`), or says to be (`stale-member`). */
  readonly uid?: string;
  readonly detail: string;
}

/** Drift that comes with pods. */
const membership: readonly ProbeDrift["kind"][] = [
  "missing-member",
  "wrong-owner",
  "stale-member",
  "missing-policy-rule",
];
/** Drift that nobody made: a cgroup ended, or the VPC CNI took down a pod that we have not yet heard the end of. */
const ofItself: readonly ProbeDrift["kind"][] = ["stale-cgroup", "stale-policy-rule"];

/** What others did to us: what we were asked to change is no damage. @param told.wasSettled nobody had asked for a change of members */
export function damageIn(
  drift: readonly ProbeDrift[],
  { wasSettled }: { readonly wasSettled: boolean },
): ProbeDrift[] {
  return drift.filter(({ kind }) => !ofItself.includes(kind) && (wasSettled || !membership.includes(kind)));
}

/** The first few of a list in one line. */
export function describeDrift(drift: readonly ProbeDrift[]): string {
  const shown = drift.slice(0, 5).map(({ family, detail }) => `IPv${family}: ${detail}`);
  const rest = drift.length - shown.length;
  return shown.join("; ") + (rest > 0 ? ` and ${rest} more` : "");
}
