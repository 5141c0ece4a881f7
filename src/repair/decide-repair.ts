// SPDX-License-Identifier: Apache-2.0
// Whether a pod started without its sidecar's rules, and what is to be done about it. Pure.
import type { RepairMode, RepairSettings } from "../settings/repair-settings.ts";
import type { SuspectPod, Termination } from "./suspect-pod.ts";

/** What is to be done; `skip`: it would be done had somebody not labelled the pod already. */
export interface RepairDecision {
  readonly action: RepairMode | "skip";
  /** The end of the init container that speaks for it: what was done about one is not done twice. */
  readonly failureId: string;
}

type Criteria = Pick<RepairSettings, "mode" | "exitCode" | "terminationMessage">;

/** What is to be done about a pod; undefined: it is not broken, or beyond help. */
export function decideRepair(pod: SuspectPod, criteria: Criteria): RepairDecision | undefined {
  const { mode } = criteria;
  if (mode === undefined || pod.isOver || !pod.hasSidecar) return undefined;
  const failure = failureOf(pod, criteria);
  if (failure === undefined) return undefined;
  return { action: mode === "label" && pod.hasLabel ? "skip" : mode, failureId: failure.id };
}

/**
 * The end that makes a pod a broken one. The first is not enough: a container that failed once and is running, or has succeeded
 * since, may well get through. Source: istio/istio cni/pkg/repair/repaircontroller.go, matchesFilter.
 */
function failureOf({ ended }: SuspectPod, criteria: Criteria): Termination | undefined {
  return ended
    .filter(({ now }) => now === undefined || !hasSucceeded(now))
    .map(({ last }) => last)
    .find((last) => last !== undefined && isSought(last, criteria));
}

function hasSucceeded({ exitCode, reason }: Termination): boolean {
  return exitCode === 0 || reason === "Completed";
}

function isSought(end: Termination, { exitCode, terminationMessage }: Criteria): boolean {
  const wanted = terminationMessage.trim();
  const hasCode = exitCode === 0 ? !hasSucceeded(end) : end.exitCode === exitCode;
  return hasCode && (wanted === "" || end.message.trim() === wanted);
}
