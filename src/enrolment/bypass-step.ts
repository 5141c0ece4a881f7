// SPDX-License-Identifier: Apache-2.0
// Looks for what stands before a captured pod's rules, after these were seen to be right. Changes nothing, and fails no run.
import type { Netns } from "../linux/netns.ts";
import type { BypassReport } from "../netfilter/bypass/bypass.ts";
import type { RedirectOptions } from "../redirection/rules.ts";
import type { Outcomes } from "./outcomes.ts";
import type { PodRecord } from "./pod-record.ts";
import type { ReconcilerParts } from "./reconciler-parts.ts";

/** Looks into one namespace. */
export type FindBypasses = (netns: Netns, redirect: RedirectOptions) => Promise<BypassReport>;

type Parts = Pick<ReconcilerParts, "bypasses" | "history" | "log"> & {
  readonly outcomes: Pick<Outcomes, "bypassed">;
};

/** What cannot be asked is asked again with the next look. */
export async function lookForBypasses(
  record: PodRecord,
  { netns, redirect }: { readonly netns: Netns; readonly redirect: RedirectOptions },
  { bypasses, history, log, outcomes }: Parts,
): Promise<void> {
  // in a pod that is being made nothing runs yet, and it is waited for
  if (bypasses === undefined || record.isAdding) return;
  try {
    const report = await bypasses(netns, redirect);
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
