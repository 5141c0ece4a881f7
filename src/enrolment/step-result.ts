// SPDX-License-Identifier: Apache-2.0
// What a pod's workload becomes when a step begins and when it has gone well. Pure: no I/O, no clock.
import { hasFinished } from "../kube/pod-facts.ts";
import { type Found, graceLeftMs, type Step } from "./next-step.ts";
import type { Run, View } from "./pod-view.ts";
import type { Sandbox } from "./sandbox-finder.ts";
import { adopt, noteEnd, type Phase, reject, rulesProved, rulesStand, type Workload } from "./workload.ts";

/** The workload at the moment a step begins: what it may do is counted as done, so that a death half-way is no secret. */
export function begin(workload: Workload, step: Step): Workload {
  const { phase } = workload;
  switch (step.do) {
    case "hold":
    case "tell":
    case "hand-over":
      if (phase.at === "outside") return { ...workload, phase: { at: "told" } };
      // wanted again on its way out: whatever comes of it, ztunnel has to be told again before it is out
      return phase.at === "leaving" && phase.stage === "withdrawn"
        ? { ...workload, phase: { ...phase, stage: "opened" } }
        : workload;
    case "redirect":
      return phase.at === "captured"
        ? workload
        : { ...workload, phase: { at: "held", isProved: rulesProved(phase) } };
    default:
      return workload;
  }
}

/** What a step that went well is judged by. */
interface Outcome<S extends Step = Step> {
  readonly step: S;
  readonly found: Found;
  readonly run: Run;
  readonly view: View;
}

/** Workload and run after a step. */
interface Advanced {
  readonly workload: Workload;
  readonly run: Run;
}

/** Workload and run after a step that went well. Its word counts only for the sandbox that it was about. */
export function advance(workload: Workload, outcome: Outcome): Advanced {
  const { step, found, run, view } = outcome;
  const to = changer(workload, run);
  switch (step.do) {
    case "close":
      return to({ surplus: workload.surplus.filter((netns) => !step.surplus.includes(netns)) });
    case "clear":
      // what the run saw may have been this very namespace, which may be found to live on
      return to(
        {
          stale: workload.stale.filter((each) => each !== step.sandbox),
          isUnseen: workload.isUnseen || (found?.do === "clear" && !found.isClean),
        },
        { verified: undefined, proved: undefined },
      );
    case "find": {
      const offered = found?.do === "find" ? found.sandbox : undefined;
      const next = offer(workload, offered, view);
      return {
        workload: offered === undefined && isOver(workload, view) ? { ...next, isUnseen: false } : next,
        // nothing is found that is not proved to be the pod's
        run: { ...run, hasSearched: true, proved: next.sandbox?.netns.key },
      };
    }
    case "prove":
      return proved(workload, { ...outcome, step });
    case "hold":
      return to({}, { isHeld: true });
    case "tell":
      return to({}, { told: step.sandbox.netns.key });
    case "inspect":
    case "redirect":
    case "settle":
    case "pass-probes":
    case "announce":
      return advanceIn(workload, { ...outcome, step });
    case "conceal":
    case "note-concealed":
    case "open":
    case "count-carried":
    case "withdraw":
    case "restore":
    case "release":
      return advanceOut(workload, { ...outcome, step });
    case "forget":
      return to({}, { isForgotten: true });
    case "hand-over":
    case "rest":
      return to({});
  }
}

/**
 * Nothing lives where a sandbox had ended, and nothing will where a pod has finished: what could not be taken out of it is
 * gone with it.
 */
function isOver(workload: Workload, view: View): boolean {
  if (workload.pod !== undefined && hasFinished(workload.pod)) return true;
  return workload.ended !== undefined && graceLeftMs(workload, view) <= 0;
}

type Doing<D extends Step["do"]> = Extract<Step, { do: D }>;

/** Steps of the way into the mesh. */
function advanceIn(
  workload: Workload,
  { step, found, run }: Outcome<Doing<"inspect" | "redirect" | "settle" | "pass-probes" | "announce">>,
): Advanced {
  const { sandbox, phase } = workload;
  const to = changer(workload, run);
  if (step.do === "announce") return phase.at === "captured" ? to({}, { isAnnounced: true }) : to({});
  if (!isCurrent(workload, step.sandbox)) return to({});
  switch (step.do) {
    case "inspect":
      return to({
        isInspected: true,
        isUnseen: false,
        phase: inspectedPhase(phase, found?.do === "inspect" && found.isTouched),
      });
    case "redirect":
      return to(phase.at === "held" ? { phase: { at: "held", isProved: true } } : {}, {
        verified: step.sandbox.netns.key,
      });
    case "settle": {
      const isBack = workload.ended?.key === step.sandbox.netns.key;
      return to({
        phase: { at: "captured" },
        // from here on processes may run in it
        sandbox: { ...step.sandbox, ...sandbox, isNew: false },
        ...(isBack ? { ended: undefined } : {}),
      });
    }
    case "pass-probes":
      return to({}, { probesPass: true });
  }
}

/** Steps of the way out of the mesh. */
function advanceOut(
  workload: Workload,
  {
    step,
    found,
    run,
    view,
  }: Outcome<
    Doing<"conceal" | "note-concealed" | "open" | "count-carried" | "withdraw" | "restore" | "release">
  >,
): Advanced {
  const { sandbox, phase } = workload;
  const to = changer(workload, run);
  switch (step.do) {
    case "conceal":
      return to({ phase: leavingFrom(workload, { step, view }) });
    case "note-concealed":
      return phase.at === "leaving" && phase.stage === "concealing"
        ? to({ phase: { ...phase, stage: "concealed", sinceMs: view.nowMs } })
        : to({});
    case "open":
      return phase.at === "leaving" && isCurrent(workload, step.sandbox)
        ? to({ phase: { ...phase, stage: "opened", sinceMs: view.nowMs } }, { verified: undefined })
        : to({}, { verified: undefined });
    case "count-carried":
      return to(
        {},
        { carried: found?.do === "count-carried" ? found.carried : { count: 0, closingCount: 0 } },
      );
    case "withdraw":
      if (phase.at === "leaving")
        return to({ phase: { ...phase, stage: "withdrawn", sinceMs: view.nowMs } }, { carried: undefined });
      return phase.at === "ended" || sandbox === undefined ? to({ phase: { at: "outside" } }) : to({});
    case "restore":
      return phase.at === "leaving" && isCurrent(workload, step.sandbox)
        ? to(
            // where no sandbox was found nobody has looked yet what is in it
            { phase: { at: "outside" }, isUnseen: workload.isUnseen && step.sandbox === undefined },
            { isRestored: true, verified: undefined },
          )
        : to({});
    case "release": {
      if (!isCurrent(workload, step.sandbox) || phase.at !== "outside") return to({});
      const next = { ...workload, sandbox: undefined, isInspected: false, doubtedMs: undefined };
      return { workload: reject(next, step.sandbox), run };
    }
  }
}

/** Whether the sandbox that a step was about is still the pod's; none is the same as none. */
function isCurrent({ sandbox }: Workload, about: Sandbox | undefined): boolean {
  return about?.netns.key === sandbox?.netns.key;
}

function changer(workload: Workload, run: Run): (next: Partial<Workload>, seen?: Partial<Run>) => Advanced {
  return (next, seen = {}) => ({ workload: { ...workload, ...next }, run: { ...run, ...seen } });
}

/** Whether a namespace that was found is what is left of the one that ended, and not a sandbox that lives on. */
function isRemains(workload: Workload, found: Sandbox, view: View): boolean {
  const { ended, pod } = workload;
  // the kernel gives the number of a namespace that is gone to the next one: processes that started later tell them apart
  if (ended === undefined || found.netns.key !== ended.key || (found.startedMs ?? 0) > ended.atMs)
    return false;
  return pod?.deletionTimestamp === true || graceLeftMs(workload, view) > 0;
}

function leavingFrom(
  workload: Workload,
  { step, view }: { step: Step & { do: "conceal" }; view: View },
): Phase {
  const { phase } = workload;
  if (phase.at === "leaving") return phase;
  return {
    at: "leaving",
    stage: "concealing",
    sinceMs: view.nowMs,
    // an announced pod of which nothing is known may have been captured by whoever announced it
    hadRules: rulesStand(phase) || !workload.isInspected,
    wasCaptured: phase.at === "captured",
    wasAnnounced: step.wasAnnounced,
  };
}

function inspectedPhase(phase: Phase, isTouchedByUs: boolean): Phase {
  if (phase.at !== "outside" && phase.at !== "told") return phase;
  return isTouchedByUs ? { at: "held", isProved: false } : phase;
}

function proved(workload: Workload, { step, found, run, view }: Outcome<Doing<"prove">>): Advanced {
  if (found?.do !== "prove") return { workload, run };
  const { netns } = step.sandbox;
  const isOurs = isCurrent(workload, step.sandbox);
  const { doubtedMs } = workload;
  if (found.isOwner) {
    const isOver = doubtedMs !== undefined && view.nowMs - doubtedMs >= view.pace.graceMs;
    const isLeaving = doubtedMs !== undefined && workload.pod?.deletionTimestamp === true;
    if (isOurs && isLeaving) return { workload: noteEnd(workload, view.nowMs), run };
    const settled = isOurs && isOver ? { ...workload, doubtedMs: undefined } : workload;
    return { workload: settled, run: { ...run, proved: netns.key } };
  }
  if (isOurs && doubtedMs !== undefined && found.successor === undefined)
    return { workload: noteEnd(workload, view.nowMs), run };
  const { successor } = found;
  // nothing found: the status may be older than the sandbox, which then stays
  if (successor === undefined) return { workload, run: { ...run, proved: netns.key } };
  const isWelcome = isOurs && successor.netns.key !== netns.key && !isRemains(workload, successor, view);
  const next = isWelcome ? adopt(workload, successor) : reject(workload, successor);
  return { workload: next, run: { ...run, proved: next.sandbox?.netns.key } };
}

/** A sandbox that was found, unless an ADD has brought one meanwhile or it is the one that has just ended. */
function offer(workload: Workload, found: Sandbox | undefined, view: View): Workload {
  if (found === undefined) return workload;
  const isWelcome =
    workload.sandbox === undefined && workload.pod !== undefined && !isRemains(workload, found, view);
  return isWelcome ? adopt(workload, found) : reject(workload, found);
}
