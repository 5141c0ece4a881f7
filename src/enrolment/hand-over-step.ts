// SPDX-License-Identifier: Apache-2.0
// The step that gives ztunnel a pod's namespace, and what a refusal means for the pod.
import { type PodFacts, podAnnotations } from "../kube/pod-facts.ts";
import type { PodRedirection } from "../redirection/pod-redirection.ts";
import type { WorkloadInfo } from "../ztunnel/workload.ts";
import { ZdsError } from "../ztunnel/zds-error.ts";
import { failureOf, portsHeld } from "./failure.ts";
import type { Step } from "./next-step.ts";
import type { PodRecord, Telling } from "./pod-record.ts";
import type { ReconcilerParts } from "./reconciler-parts.ts";

type TellStep = Extract<Step, { do: "tell" }>;
type HandOverStep = Extract<Step, { do: "hand-over" }>;
type Parts = Pick<ReconcilerParts, "ztunnel" | "annotations" | "portHolders" | "history" | "clock">;

/** What it takes to tell ztunnel of a new namespace. */
interface TellParts {
  readonly ztunnel: Pick<ReconcilerParts["ztunnel"], "add">;
  readonly redirection: Pick<PodRedirection, "untilUp">;
}

/**
 * Begins to hand over; {@link handOver} has the answer. ztunnel cannot bind in a namespace whose loopback device is down, and refuses it then.
 * Source: real ztunnel, a bind to [::1] gives EADDRNOTAVAIL.
 */
export function tellZtunnel(
  { pod, sandbox }: TellStep,
  record: PodRecord,
  { ztunnel, redirection }: TellParts,
): void {
  callOff(record);
  const { netns } = sandbox;
  const begun = async (): Promise<void> => {
    await redirection.untilUp(netns);
    if (telling.isCalledOff) throw new ZdsError("SUPERSEDED", "Cannot hand the pod to ztunnel: given up");
    await ztunnel.add({ uid: pod.uid, workload: workloadInfo(pod), netns });
  };
  const answer = Promise.resolve().then(begun);
  // whoever hands over hears of it
  answer.catch(() => {});
  const telling: Telling = { netns, answer, isCalledOff: false };
  record.telling = telling;
}

/** Nobody waits any more for what was begun. */
export function callOff(record: PodRecord): void {
  if (record.telling !== undefined) record.telling.isCalledOff = true;
  record.telling = undefined;
}

/** Resolves once ztunnel has acknowledged the pod. @throws ZdsError, or StepError naming what holds ztunnel's ports */
export async function handOver(
  { pod, sandbox }: HandOverStep,
  record: PodRecord,
  { ztunnel, annotations, portHolders, history, clock }: Parts,
): Promise<void> {
  const { telling } = record;
  record.telling = undefined;
  try {
    if (telling?.netns === sandbox.netns) await telling.answer;
    else await ztunnel.add({ uid: pod.uid, workload: workloadInfo(pod), netns: sandbox.netns });
    history.step(pod.uid, "ztunnel");
  } catch (error) {
    // a pod that ztunnel once had stays "enabled" over a restart of ztunnel or of the agent, as istio-cni leaves it
    const isAway = failureOf(error).code === "ztunnel-away";
    const wasServed =
      record.workload.phase.at === "captured" ||
      (isAway && pod.annotations[podAnnotations.redirection] === "enabled");
    const isStillThere = record.preview(clock.nowMs()).sandbox?.netns === sandbox.netns;
    if (!wasServed && !record.isAdding && isStillThere) annotations.set(pod, "pending");
    if (!(error instanceof ZdsError) || error.code !== "NACK") throw error;
    const found = sandbox.netns.closed ? [] : await portHolders(sandbox.netns).catch(() => []);
    // without a process in the pod it is a ztunnel's own
    const holders = found.filter(({ pid }) => pid !== undefined);
    throw holders.length === 0 ? error : portsHeld(error, holders);
  }
}

/** What ztunnel is told of a pod besides its namespace. */
export function workloadInfo({ name, namespace, serviceAccount }: PodFacts): WorkloadInfo {
  return { name, namespace, serviceAccount };
}
