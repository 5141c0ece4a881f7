// SPDX-License-Identifier: Apache-2.0
// Which step is next for a pod, from what is observed and what is desired. Pure: no I/O, no clock.
import { type PodFacts, podAnnotations } from "../kube/pod-facts.ts";
import type { Netns } from "../linux/netns.ts";
import type { RedirectOptions } from "../redirection/rules.ts";
import type { Desired, OutsideReason } from "./desired-state.ts";
import type { Carried, Run, View } from "./pod-view.ts";
import type { ReconcileOutcome } from "./run-outcome.ts";
import type { Sandbox } from "./sandbox-finder.ts";
import { isOpen, rulesProved, rulesStand, type Workload } from "./workload.ts";

/** The next thing to do for a pod; `rest` ends the run. */
export type Step =
  | { readonly do: "rest"; readonly outcome: ReconcileOutcome; readonly againMs?: number }
  | { readonly do: "close"; readonly surplus: readonly Netns[] }
  | {
      readonly do: "clear";
      readonly sandbox: Sandbox;
      /** Its processes may go on for a while, with ztunnel gone: in clear, and open to everybody, is not how they may end. */
      readonly keepsRules: boolean;
    }
  | { readonly do: "find"; readonly pod: PodFacts }
  | { readonly do: "prove"; readonly pod: PodFacts; readonly sandbox: Sandbox }
  | { readonly do: "inspect"; readonly sandbox: Sandbox }
  | { readonly do: "hold"; readonly pod: PodFacts; readonly sandbox: Sandbox | undefined }
  /** Hands over, and goes on before it is done. */
  | { readonly do: "tell"; readonly pod: PodFacts; readonly sandbox: Sandbox }
  | { readonly do: "hand-over"; readonly pod: PodFacts; readonly sandbox: Sandbox }
  | {
      readonly do: "redirect";
      readonly sandbox: Sandbox;
      readonly redirect: RedirectOptions;
      /** The runtime made the namespace just now, and no process runs in it. */
      readonly isNew: boolean;
      /** A running pod comes into the mesh: connections from before may be open. */
      readonly isEntry: boolean;
      /** It was looked into, and nothing of any agent was there. */
      readonly isUntouched: boolean;
      /** It was captured: what differs was changed by somebody. */
      readonly isRepair: boolean;
    }
  | { readonly do: "settle"; readonly sandbox: Sandbox }
  | {
      readonly do: "pass-probes";
      readonly pod: PodFacts;
      readonly sandbox: Sandbox;
      readonly redirect: RedirectOptions;
    }
  | { readonly do: "announce"; readonly pod: PodFacts }
  | { readonly do: "conceal"; readonly pod: PodFacts; readonly wasAnnounced: boolean }
  | { readonly do: "note-concealed" }
  | { readonly do: "open"; readonly sandbox: Sandbox | undefined }
  | { readonly do: "count-carried"; readonly sandbox: Sandbox }
  | { readonly do: "withdraw" }
  | { readonly do: "restore"; readonly sandbox: Sandbox | undefined; readonly reason: OutsideReason }
  | { readonly do: "release"; readonly sandbox: Sandbox }
  | { readonly do: "forget" };

/** What a step found; a step that finds nothing has no entry. */
export type Found =
  | { readonly do: "find"; readonly sandbox: Sandbox | undefined }
  | { readonly do: "prove"; readonly isOwner: boolean; readonly successor: Sandbox | undefined }
  | { readonly do: "inspect"; readonly isTouched: boolean }
  /** Not clean: our rules could not be taken out of it. */
  | { readonly do: "clear"; readonly isClean: boolean }
  | { readonly do: "count-carried"; readonly carried: Carried }
  | undefined;

/** What is to be done next. */
export function nextStep(workload: Workload, view: View, run: Run): Step {
  const { phase, stale, surplus, pod, sandbox } = workload;
  if (surplus.length > 0) return { do: "close", surplus };
  // ztunnel first: while it serves an ended sandbox its peers keep connections that nobody answers
  if (phase.at === "ended" && !view.isAdding) return { do: "withdraw" };
  const [oldest] = stale;
  // a sandbox that an ADD has just replaced can wait, the new one's pod cannot
  if (oldest !== undefined && !view.isAdding)
    return { do: "clear", sandbox: oldest, keepsRules: pod === undefined };
  if (pod === undefined) {
    if (sandbox !== undefined) return { do: "release", sandbox };
    return run.isForgotten ? { do: "rest", outcome: "forgotten" } : { do: "forget" };
  }
  if (workload.doubtedMs !== undefined && sandbox !== undefined && run.proved !== sandbox.netns.key)
    return { do: "prove", pod, sandbox };
  const desired: Desired | undefined = view.isLeavingNode
    ? { wanted: false, reason: "agent-leaves" }
    : view.desired;
  if (view.isTakingStock) return stockStep({ workload, pod, desired }, view, run);
  // what cannot be known is not decided: the pod stays as it is
  if (desired === undefined) return { do: "rest", outcome: "namespace-unknown" };
  return desired.wanted
    ? wayIn({ workload, pod, redirect: desired.redirect }, view, run)
    : wayOut({ workload, pod, reason: desired.reason }, view, run);
}

/** Before ztunnel may connect: a pod missing from a snapshot is dropped by ztunnel, so who was ours is found out first. */
function stockStep(
  { workload, pod, desired }: { workload: Workload; pod: PodFacts; desired: Desired | undefined },
  view: View,
  run: Run,
): Step {
  const { sandbox, phase } = workload;
  const rest: Step = { do: "rest", outcome: "stock-taken" };
  if (desired?.wanted !== true && !view.isAnnounced) return rest;
  if (sandbox === undefined && !run.hasSearched) return { do: "find", pod };
  if (sandbox !== undefined && !workload.isInspected) return { do: "inspect", sandbox };
  // served by ztunnel until now, so it is named in the next snapshot: also one that is about to leave. That it is announced may be
  // anybody's word: it counts for one that is wanted, and where nothing can be looked into
  const isHinted = view.isAnnounced && (desired?.wanted === true || sandbox === undefined);
  const wasOurs = isHinted || phase.at !== "outside";
  return wasOurs && !run.isHeld && !view.isAdding ? { do: "hold", pod, sandbox } : rest;
}

/** Into the mesh. A running pod is known to ztunnel before a rule leads there; one without a process gets them meanwhile. */
function wayIn(
  { workload, pod, redirect }: { workload: Workload; pod: PodFacts; redirect: RedirectOptions },
  view: View,
  run: Run,
): Step {
  const { sandbox, phase } = workload;
  if (sandbox === undefined) return run.hasSearched ? missing(workload, view) : { do: "find", pod };
  const { key } = sandbox.netns;
  const hasAddresses = sandbox.ips.length > 0 || pod.ips.length > 0;
  if (!view.isAdding && hasAddresses && run.proved !== key) return { do: "prove", pod, sandbox };
  if (!workload.isInspected) return { do: "inspect", sandbox };
  const isAcknowledged = view.acknowledged === key;
  const standing = rulesStand(phase);
  const isBeingMade = sandbox.isNew && view.isAdding;
  if (!rulesProved(phase) && !isAcknowledged) {
    // redirecting a pod before ztunnel can serve it would cut it off
    if (!view.hasZtunnel) return { do: "rest", outcome: "no-ztunnel" };
    if (!isBeingMade) return { do: "hand-over", pod, sandbox };
    // nobody sends anything yet: ztunnel can make its sockets while the rules are written
    if (run.told !== key) return { do: "tell", pod, sandbox };
  }
  if (run.verified !== key) {
    const isNew = isBeingMade && !standing;
    const isEntry = !standing && !isNew;
    const isUntouched = isEntry && (phase.at === "outside" || phase.at === "told");
    return {
      do: "redirect",
      sandbox,
      redirect,
      isNew,
      isEntry,
      isUntouched,
      isRepair: phase.at === "captured",
    };
  }
  if (!isAcknowledged) return { do: "hand-over", pod, sandbox };
  if (phase.at !== "captured") return { do: "settle", sandbox };
  if (!run.probesPass) return { do: "pass-probes", pod, sandbox, redirect };
  if (!run.isAnnounced) return { do: "announce", pod };
  return { do: "rest", outcome: "enrolled" };
}

/** Out of the mesh: annotation, a pause for istiod, open, ztunnel, a moment for its last packets, the rest. */
function wayOut(
  about: { workload: Workload; pod: PodFacts; reason: OutsideReason },
  view: View,
  run: Run,
): Step {
  const { workload, pod } = about;
  const { sandbox, phase } = workload;
  if (phase.at === "leaving") return leavingStep(about, view, run);
  const isServed = phase.at !== "outside" || (view.isAnnounced && !run.isRestored);
  if (sandbox === undefined) {
    const isSought = !pod.hostNetwork && (isServed || workload.isUnseen);
    if (isSought && !run.hasSearched) return { do: "find", pod };
    if (!isServed) return outside(workload, view);
    // while the pod runs its rules are somewhere: without them gone first, ztunnel's leaving would cut it off
    if (pod.phase === "Running" && !pod.hostNetwork) return { do: "rest", outcome: "no-way-out" };
    return { do: "conceal", pod, wasAnnounced: view.isAnnounced };
  }
  // an annotation is a hint where to look: what is there says whether there is anything to take away
  if (!workload.isInspected) return { do: "inspect", sandbox };
  if (isServed) return { do: "conceal", pod, wasAnnounced: view.isAnnounced };
  return { do: "release", sandbox };
}

/** For how long the end of a sandbox is still believed against what is found, in ms. */
export function graceLeftMs({ ended }: Workload, { nowMs, pace }: View): number {
  return ended === undefined ? 0 : ended.atMs + pace.graceMs - nowMs;
}

/** Rules that could not be taken out of an ended sandbox are looked for once more, should it live on. */
function outside(workload: Workload, view: View): Step {
  const leftMs = workload.isUnseen ? graceLeftMs(workload, view) : 0;
  return { do: "rest", outcome: "outside", ...(leftMs > 0 ? { againMs: leftMs } : {}) };
}

/** A sandbox that a CNI call alone has ended is looked for again when that is believed no longer. */
function missing(workload: Workload, view: View): Step {
  const leftMs = graceLeftMs(workload, view);
  return { do: "rest", outcome: "no-sandbox", ...(leftMs > 0 ? { againMs: leftMs } : {}) };
}

function leavingStep(
  { workload, pod, reason }: { workload: Workload; pod: PodFacts; reason: OutsideReason },
  view: View,
  run: Run,
): Step {
  const { sandbox, phase } = workload;
  if (phase.at !== "leaving") return { do: "rest", outcome: "outside" };
  const { pace, nowMs } = view;
  const after = (ms: number): number => phase.sinceMs + ms - nowMs;
  const wait = (againMs: number): Step => ({ do: "rest", outcome: "leaving", againMs });
  // found again meanwhile, or never left: without its sandbox nothing can be opened
  const isLost = sandbox === undefined && pod.phase === "Running" && !pod.hostNetwork;
  if (isLost && phase.hadRules && !isOpen(phase.stage))
    return run.hasSearched ? { do: "rest", outcome: "no-way-out" } : { do: "find", pod };
  switch (phase.stage) {
    case "concealing": {
      const leftMs = after(pace.concealMs);
      if (view.isAnnouncing && leftMs > 0) return wait(Math.min(leftMs, pollMs(phase.sinceMs, nowMs)));
      // for as long as istiod is not told its peers speak HBONE, which nobody would answer
      const isKept = view.isLeavingNode || (phase.hadRules && isEnabled(pod));
      return view.isAnnouncing && isKept ? { do: "rest", outcome: "kept" } : { do: "note-concealed" };
    }
    case "concealed": {
      const leftMs = phase.wasAnnounced ? after(pace.leavePauseMs) : 0;
      if (!phase.hadRules) return { do: "withdraw" };
      return leftMs > 0 ? wait(leftMs) : { do: "open", sandbox };
    }
    case "opened": {
      const leftMs = view.isLeavingNode ? 0 : after(pace.leaveDrainMs);
      if (sandbox === undefined || leftMs <= 0) return { do: "withdraw" };
      if (run.carried === undefined) return { do: "count-carried", sandbox };
      return run.carried.count === 0
        ? { do: "withdraw" }
        : wait(Math.min(leftMs, pollMs(phase.sinceMs, nowMs)));
    }
    case "withdrawn": {
      if (sandbox === undefined) return { do: "restore", sandbox, reason };
      if (after(pace.finMs) > 0) return wait(after(pace.finMs));
      const leftMs = view.isLeavingNode ? 0 : after(pace.maxFinMs);
      if (run.carried === undefined && leftMs > 0) return { do: "count-carried", sandbox };
      const isClosing = run.carried !== undefined && run.carried.closingCount > 0;
      return isClosing && leftMs > 0
        ? wait(Math.min(leftMs, pollMs(phase.sinceMs, nowMs)))
        : { do: "restore", sandbox, reason };
    }
  }
}

/** What istiod reads on it says that its peers can speak HBONE to it. */
function isEnabled({ annotations }: PodFacts): boolean {
  return annotations[podAnnotations.redirection] === "enabled";
}

/** Between two looks at something that nobody tells us of: soon at first, then ever later. */
function pollMs(sinceMs: number, nowMs: number): number {
  return Math.min(250, Math.max(25, (nowMs - sinceMs) / 2));
}
