// SPDX-License-Identifier: Apache-2.0
// Looks for what stands before a captured pod's rules, after these were seen to be right. Changes nothing itself, and fails no run.
import type { Netns } from "../linux/netns.ts";
import type { BypassReport } from "../netfilter/bypass/bypass.ts";
import type { RedirectOptions } from "../redirection/rules.ts";
import type { Outcomes } from "./outcomes.ts";
import type { PodRecord } from "./pod-record.ts";
import type { ReconcilerParts } from "./reconciler-parts.ts";

type Parts = Pick<ReconcilerParts, "bypasses" | "history" | "log"> & {
  readonly redirection: Pick<ReconcilerParts["redirection"], "searchAgain">;
  readonly outcomes: Pick<Outcomes, "bypassed">;
};

/** nf_tables that stayed as they were are looked into again all the same now and then: nothing is to rest on one number for long. */
const MAX_SPARED = 5;

interface LastLook {
  readonly generation: number;
  readonly nft: BypassReport | undefined;
  spared: number;
}

/** By handle: what the last look found in nf_tables, and how many have been spared since. */
const lastLooks = new WeakMap<Netns, LastLook>();

/** What cannot be asked is asked again with the next look. @param about.generation as the redirection's report has it */
export async function lookForBypasses(
  record: PodRecord,
  {
    netns,
    redirect,
    generation,
  }: { readonly netns: Netns; readonly redirect: RedirectOptions; readonly generation?: number | undefined },
  { bypasses, history, log, outcomes, redirection }: Parts,
): Promise<void> {
  // in a pod that is being made nothing runs yet, and it is waited for
  if (bypasses === undefined || record.isAdding) return;
  // the count that is compared has 16 bits, which a pod can go round
  const last = record.isAnnounced ? undefined : unchanged(netns, generation);
  // x_tables have no such count: one whose changes are announced is looked at seldom enough to look into them each time
  if (last !== undefined && !record.isHeard) return;
  try {
    const report = await bypasses(netns, redirect, last?.nft);
    const { nft } = report;
    if (report.generation !== undefined)
      lastLooks.set(netns, { generation: report.generation, nft, spared: last?.spared ?? 0 });
    if (record.sandbox?.netns !== netns) return;
    history.sawBypasses(record.uid, report);
    outcomes.bypassed(record, report);
    // an istio-cni that was here for a while has written its own, by another variant than ours: the next look takes them away
    if (report.bypasses.length > 0) redirection.searchAgain(netns);
  } catch (error) {
    log.debug(
      { uid: record.uid, netns: netns.key, err: error },
      "cannot look for what stands before a pod's rules",
    );
  }
}

/** The last look, if its findings in nf_tables hold and may be taken once more. */
function unchanged(netns: Netns, generation: number | undefined): LastLook | undefined {
  const last = lastLooks.get(netns);
  if (last === undefined || last.generation !== generation || last.spared === MAX_SPARED) return undefined;
  last.spared++;
  return last;
}
