// SPDX-License-Identifier: Apache-2.0
// Looks for what stands before a captured pod's rules, after these were seen to be right. Changes nothing, and fails no run.
import type { Netns } from "../linux/netns.ts";
import type { RedirectOptions } from "../redirection/rules.ts";
import type { Outcomes } from "./outcomes.ts";
import type { PodRecord } from "./pod-record.ts";
import type { ReconcilerParts } from "./reconciler-parts.ts";

type Parts = Pick<ReconcilerParts, "bypasses" | "history" | "log"> & {
  readonly outcomes: Pick<Outcomes, "bypassed">;
};

/**
 * A namespace in which nf_tables stayed as they were is looked into again all the same now and then: x_tables have no such count. One
 * whose changes are announced is looked at seldom enough.
 */
const MAX_SPARED = 5;

/** By handle: what the last look was of, and how many have been spared since. */
const lastLooks = new WeakMap<Netns, { readonly generation: number; spared: number }>();

/** What cannot be asked is asked again with the next look. @param about.generation as the redirection's report has it */
export async function lookForBypasses(
  record: PodRecord,
  {
    netns,
    redirect,
    generation,
  }: { readonly netns: Netns; readonly redirect: RedirectOptions; readonly generation?: number | undefined },
  { bypasses, history, log, outcomes }: Parts,
): Promise<void> {
  // in a pod that is being made nothing runs yet, and it is waited for
  if (bypasses === undefined || record.isAdding || isSpared(record, { netns, generation })) return;
  try {
    const report = await bypasses(netns, redirect);
    if (report.generation !== undefined) lastLooks.set(netns, { generation: report.generation, spared: 0 });
    if (record.sandbox?.netns !== netns) return;
    history.sawBypasses(record.uid, report);
    outcomes.bypassed(record, report);
  } catch (error) {
    log.debug(
      { uid: record.uid, netns: netns.key, err: error },
      "cannot look for what stands before a pod's rules",
    );
  }
}

function isSpared(
  { isHeard }: PodRecord,
  { netns, generation }: { readonly netns: Netns; readonly generation: number | undefined },
): boolean {
  const last = lastLooks.get(netns);
  if (isHeard || last === undefined || last.generation !== generation || last.spared === MAX_SPARED)
    return false;
  last.spared++;
  return true;
}
