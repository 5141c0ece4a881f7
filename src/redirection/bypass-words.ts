// SPDX-License-Identifier: Apache-2.0
// What stands before a pod's rules, in sentences for people. Pure.
import type { BypassReport } from "../netfilter/bypass/bypass.ts";

const MAX_SHOWN = 4;
const UNSURE =
  "what stands before our rules cannot be told: there is more than is read, or it changes while it is read";

/** Bounded, and equal for two looks that found the same; empty: nothing stands there. */
export function bypassText({ bypasses, isComplete }: BypassReport): string {
  const shown = bypasses.slice(0, MAX_SHOWN).map(({ kind, detail }) => `${kind}: ${detail}`);
  const rest = bypasses.length - shown.length;
  return [...shown, ...(rest > 0 ? [`${rest} more`] : []), ...(isComplete ? [] : [UNSURE])].join("; ");
}

/** For an Event: cause and remedy. */
export function bypassMessage(report: BypassReport): string {
  return (
    `Traffic of this pod may get past ztunnel: ${bypassText(report)}. ` +
    "Nothing was removed: take it out of the pod, or let it come after our rules."
  );
}
