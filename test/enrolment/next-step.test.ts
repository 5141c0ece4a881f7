// SPDX-License-Identifier: Apache-2.0
// The pure decisions: every way into and out of the mesh as the row of its steps, and what a step means for a pod that changed meanwhile.
import { describe, expect, test } from "vitest";
import { nextStep, type Step } from "../../src/enrolment/next-step.ts";
import type { View } from "../../src/enrolment/pod-view.ts";
import { advance, begin } from "../../src/enrolment/step-result.ts";
import { absorb, createWorkload, type Phase, type Workload } from "../../src/enrolment/workload.ts";
import { podAnnotations } from "../../src/kube/pod-facts.ts";
import {
  type Finds,
  pace,
  podOf,
  redirect,
  runOf,
  sandboxOf,
  shop,
  unwanted,
  viewOf,
  walk,
  workloadOf,
} from "./pure-pod.ts";

interface Row {
  readonly when: string;
  readonly workload: Workload;
  readonly view?: View;
  readonly finds?: Finds;
  /** As {@link walk} has them. */
  readonly steps: string;
  /** Where the pod ends. */
  readonly at?: Phase["at"];
}

const captured = workloadOf({ phase: { at: "captured" } });
/** The API server has our annotation on it. */
const announced: Workload = {
  ...captured,
  pod: podOf({ annotations: { [podAnnotations.redirection]: "enabled" } }),
};
/** Its sandbox is not known yet. */
const lone: Workload = { ...createWorkload("u1"), pod: podOf() };
const served = viewOf({ acknowledged: "A", isAnnounced: true });
const made = absorb(
  createWorkload("u1"),
  {
    type: "added",
    pod: podOf({ phase: "Pending", ips: [] }),
    namespace: shop,
    sandbox: sandboxOf("A", { isNew: true }),
  },
  0,
);

function leaving(stage: "concealing" | "concealed" | "opened" | "withdrawn", hadRules = true): Workload {
  return workloadOf({
    phase: { at: "leaving", stage, sinceMs: 0, hadRules, wasCaptured: hadRules, wasAnnounced: hadRules },
  });
}

function walkRows(rows: readonly Row[]): void {
  test.each(rows)("$when", ({ workload, view, finds, steps, at }) => {
    const walked = walk({ workload, ...(view ? { view } : {}), ...(finds ? { finds } : {}) });
    expect(walked.steps.join(" ")).toBe(steps);
    if (at !== undefined) expect(walked.workload.phase.at).toBe(at);
  });
}

describe("into the mesh", () => {
  walkRows([
    {
      when: "a new sandbox gets its rules while ztunnel makes its sockets, and ADD waits for both",
      workload: made,
      view: viewOf({ isAdding: true }),
      steps: "tell redirect:new hand-over settle pass-probes announce enrolled",
      at: "captured",
    },
    {
      when: "an ADD of a sandbox in which processes may run is an entry like any other",
      workload: absorb(
        createWorkload("u1"),
        { type: "added", pod: podOf(), namespace: shop, sandbox: sandboxOf("A") },
        0,
      ),
      view: viewOf({ isAdding: true }),
      steps: "inspect hand-over redirect:entry settle pass-probes announce enrolled",
      at: "captured",
    },
    {
      when: "an ADD without a ztunnel touches nothing",
      workload: made,
      view: viewOf({ isAdding: true, hasZtunnel: false }),
      steps: "no-ztunnel",
      at: "outside",
    },
    {
      when: "a running pod is known to ztunnel before a rule leads there",
      workload: lone,
      finds: { sandboxes: [sandboxOf("A", { ips: [] })] },
      steps: "find inspect hand-over redirect:entry settle pass-probes announce enrolled",
      at: "captured",
    },
    {
      when: "a running pod without a ztunnel stays as it is",
      workload: workloadOf(),
      view: viewOf({ hasZtunnel: false }),
      steps: "prove no-ztunnel",
      at: "outside",
    },
    {
      when: "a pod whose sandbox is not found waits",
      workload: lone,
      steps: "find no-sandbox",
      at: "outside",
    },
    {
      when: "a pod whose namespace's labels are not known stays as it is",
      workload: captured,
      view: { ...served, desired: undefined },
      steps: "namespace-unknown",
      at: "captured",
    },
    {
      when: "a second handle of its namespace is closed before anything else",
      workload: workloadOf({ surplus: [sandboxOf("A").netns] }),
      steps: "close prove hand-over redirect:entry settle pass-probes announce enrolled",
    },
  ]);
});

describe("a captured pod", () => {
  walkRows([
    {
      when: "is verified, and what differs was changed by somebody",
      workload: captured,
      view: served,
      steps: "prove redirect:repair pass-probes announce enrolled",
      at: "captured",
    },
    {
      when: "is mended without a ztunnel too, for its rules were seen to be whole",
      workload: captured,
      view: viewOf({ hasZtunnel: false, isAnnounced: true }),
      steps: "prove redirect:repair hand-over pass-probes announce enrolled",
    },
    {
      when: "is handed to a ztunnel that has not heard of it",
      workload: captured,
      view: viewOf({ isAnnounced: true }),
      steps: "prove redirect:repair hand-over pass-probes announce enrolled",
    },
    {
      when: "in a sandbox that another took the place of is captured there, the old one cleared first",
      workload: captured,
      view: served,
      finds: { isOwner: false, sandboxes: [sandboxOf("B")] },
      steps: "prove clear prove inspect hand-over redirect:entry settle pass-probes announce enrolled",
      at: "captured",
    },
    {
      when: "that lost its addresses and is found nowhere else stays: its status may be older",
      workload: captured,
      view: served,
      finds: { isOwner: false },
      steps: "prove redirect:repair pass-probes announce enrolled",
      at: "captured",
    },
    {
      when: "with a new sandbox by ADD does not wait for the old one to be cleared",
      workload: absorb(
        captured,
        { type: "added", pod: podOf(), namespace: shop, sandbox: sandboxOf("B", { isNew: true }) },
        0,
      ),
      view: { ...served, isAdding: true },
      steps: "tell redirect:new hand-over settle pass-probes announce enrolled",
      at: "captured",
    },
  ]);
});

describe("after a restart of the agent", () => {
  const unseen: Workload = { ...lone, isUnseen: true };
  const stocktaking = viewOf({ isTakingStock: true, isAnnounced: true, hasZtunnel: false });
  const left: Finds = { sandboxes: [sandboxOf("A")], isTouched: true };
  const stock = walk({ workload: unseen, view: stocktaking, finds: left }).workload;
  walkRows([
    {
      when: "a pod that was in the mesh is named in the snapshot, and nothing is written",
      workload: unseen,
      view: stocktaking,
      finds: left,
      steps: "find inspect hold stock-taken",
      at: "held",
    },
    {
      when: "a pod that was never in the mesh and is not wanted is not even looked for",
      workload: unseen,
      view: viewOf({ isTakingStock: true, desired: unwanted }),
      steps: "stock-taken",
      at: "outside",
    },
    {
      when: "a pod that has finished, and whose agent died before it had announced it, has its sandbox cleared",
      workload: { ...unseen, pod: podOf({ phase: "Succeeded" }) },
      view: viewOf({ desired: { wanted: false, reason: "terminated" } }),
      finds: left,
      steps:
        "find inspect conceal note-concealed open count-carried withdraw wait 50 count-carried restore release close outside",
      at: "outside",
    },
    {
      when: "a pod that has finished and left no sandbox is looked for once",
      workload: { ...unseen, pod: podOf({ phase: "Failed" }) },
      view: viewOf({ desired: { wanted: false, reason: "terminated" } }),
      steps: "find outside",
      at: "outside",
    },
    {
      when: "a wanted pod that nobody had captured is found, and not named in the snapshot",
      workload: unseen,
      view: viewOf({ isTakingStock: true }),
      finds: { sandboxes: [sandboxOf("A")] },
      steps: "find inspect stock-taken",
      at: "outside",
    },
    {
      when: "a pod that the snapshot's answer covers is verified: no entry, no repair",
      workload: stock,
      view: served,
      steps: "prove redirect settle pass-probes announce enrolled",
      at: "captured",
    },
    {
      when: "a pod that it does not cover is handed over before its rules are looked at",
      workload: stock,
      view: viewOf({ isAnnounced: true }),
      steps: "prove hand-over redirect settle pass-probes announce enrolled",
      at: "captured",
    },
    {
      when: "a pod without a ztunnel keeps its rules as they are",
      workload: stock,
      view: viewOf({ isAnnounced: true, hasZtunnel: false }),
      steps: "prove no-ztunnel",
      at: "held",
    },
    {
      when: "a pod that is no longer wanted is found, and leaves in order",
      workload: unseen,
      view: viewOf({ desired: unwanted, isAnnounced: true }),
      finds: left,
      steps:
        "find inspect conceal note-concealed wait 500 open count-carried withdraw wait 50 count-carried restore release close outside",
      at: "outside",
    },
    {
      when: "a pod that says that it is captured and has nothing of ours has its word taken away, and nothing opened",
      workload: unseen,
      view: viewOf({ desired: unwanted, isAnnounced: true }),
      finds: { ...left, isTouched: false },
      steps:
        "find inspect conceal note-concealed withdraw wait 50 count-carried restore release close outside",
      at: "outside",
    },
    {
      when: "nor is it named to ztunnel, whose it never was",
      workload: unseen,
      view: viewOf({ desired: unwanted, isAnnounced: true, isTakingStock: true }),
      finds: { ...left, isTouched: false },
      steps: "find inspect stock-taken",
    },
    {
      when: "one with rules of ours is, before it leaves",
      workload: unseen,
      view: viewOf({ desired: unwanted, isAnnounced: true, isTakingStock: true }),
      finds: left,
      steps: "find inspect hold stock-taken",
    },
    {
      when: "a running pod that should leave and is not found is not taken from ztunnel",
      workload: lone,
      view: viewOf({ desired: unwanted, isAnnounced: true }),
      steps: "find no-way-out",
    },
  ]);
});

describe("out of the mesh", () => {
  const off = { ...served, desired: unwanted };
  const out = "withdraw wait 50 count-carried restore release close outside";
  walkRows([
    {
      when: "the annotation goes first, istiod gets its pause, then new connections are direct, then ztunnel lets go",
      workload: captured,
      view: off,
      steps: `conceal note-concealed wait 500 open count-carried ${out}`,
      at: "outside",
    },
    {
      when: "connections that ztunnel carries may end first",
      workload: captured,
      view: off,
      finds: { carried: [2, 1] },
      steps: `conceal note-concealed wait 500 open count-carried wait 25 count-carried wait 25 count-carried ${out}`,
    },
    {
      when: "one that does not end is waited for as long as was set, and no longer",
      workload: captured,
      view: { ...off, pace: { ...pace, leaveDrainMs: 60 } },
      finds: { carried: [1, 1, 1, 1, 1, 1] },
      steps: `conceal note-concealed wait 500 open count-carried wait 25 count-carried wait 25 count-carried wait 10 ${out}`,
    },
    {
      when: "the rest stays while ztunnel's last packets are on their way",
      workload: captured,
      view: { ...off, pace: { ...pace, finMs: 60 } },
      finds: { closing: [0, 2, 1] },
      steps:
        "conceal note-concealed wait 500 open count-carried withdraw " +
        "wait 60 count-carried wait 30 count-carried wait 45 count-carried restore release close outside",
    },
    {
      when: "a peer that never confirms is not waited for beyond a second",
      workload: captured,
      view: { ...off, pace: { ...pace, maxFinMs: 70 } },
      finds: { closing: [0, 1, 1, 1] },
      steps:
        "conceal note-concealed wait 500 open count-carried withdraw " +
        "wait 50 count-carried wait 20 restore release close outside",
    },
    {
      when: "a pod that was told of and has no rules needs no pause",
      workload: workloadOf({ phase: { at: "told" } }),
      view: viewOf({ desired: unwanted }),
      steps: `conceal note-concealed ${out}`,
    },
    {
      when: "a pod that nobody was told of in public needs no pause for istiod",
      workload: workloadOf({ phase: { at: "held", isProved: false } }),
      view: viewOf({ desired: unwanted }),
      steps: `conceal note-concealed open count-carried ${out}`,
    },
    {
      when: "an agent that leaves the node waits for no connection",
      workload: captured,
      view: { ...served, isLeavingNode: true },
      finds: { carried: [1, 1, 1] },
      steps: "conceal note-concealed wait 500 open withdraw wait 50 restore release close outside",
      at: "outside",
    },
    {
      when: "a write of the annotation that takes its time is waited for, not for ever",
      workload: captured,
      view: { ...off, isAnnouncing: true, pace: { ...pace, concealMs: 30, leavePauseMs: 0 } },
      steps: `conceal wait 25 wait 5 note-concealed open count-carried ${out}`,
    },
    {
      when: "a pod that istiod has for enabled stays as it is while its annotation cannot be taken away",
      workload: announced,
      view: { ...off, isAnnouncing: true, pace: { ...pace, concealMs: 30 } },
      steps: "conceal wait 25 wait 5 kept",
      at: "leaving",
    },
    {
      when: "one without rules has nothing to stay with",
      workload: { ...leaving("concealing", false), pod: announced.pod },
      view: { ...off, isAnnouncing: true, pace: { ...pace, concealMs: 30 } },
      steps: `wait 25 wait 5 note-concealed ${out}`,
    },
    {
      when: "once its annotation is gone it leaves",
      workload: leaving("concealing"),
      view: { ...off, nowMs: 60_000, pace: { ...pace, leavePauseMs: 0 } },
      steps: `note-concealed open count-carried ${out}`,
      at: "outside",
    },
    {
      when: "a pod stays as it is where an agent that leaves the node cannot take its annotation away",
      workload: captured,
      view: { ...served, isLeavingNode: true, isAnnouncing: true, pace: { ...pace, concealMs: 30 } },
      steps: "conceal wait 25 wait 5 kept",
      at: "leaving",
    },
    {
      when: "a pod that was never ours is not looked at",
      workload: lone,
      view: viewOf({ desired: unwanted }),
      steps: "outside",
    },
    {
      when: "a host-network pod is never looked for",
      workload: { ...lone, isUnseen: true, pod: podOf({ hostNetwork: true }) },
      view: viewOf({ desired: { wanted: false, reason: "host-network" } }),
      steps: "outside",
    },
  ]);

  walkRows([
    {
      when: "a pod that is wanted again before anything changed in it is verified, and announced again",
      workload: leaving("concealed"),
      view: viewOf({ acknowledged: "A" }),
      steps: "prove redirect settle pass-probes announce enrolled",
      at: "captured",
    },
    {
      when: "one whose new connections are direct already comes in as a running pod",
      workload: leaving("opened"),
      view: viewOf({ acknowledged: "A" }),
      steps: "prove redirect:entry-again settle pass-probes announce enrolled",
      at: "captured",
    },
    {
      when: "one that ztunnel let go of is handed over first",
      workload: leaving("withdrawn"),
      steps: "prove hand-over redirect:entry-again settle pass-probes announce enrolled",
      at: "captured",
    },
  ]);
});

describe("a sandbox that ended", () => {
  const ended = absorb(captured, { type: "ended", containerId: "container-A", netnsKey: "A" }, 0);
  const lives: Finds = { sandboxes: [sandboxOf("A", { ips: [] })] };
  walkRows([
    {
      when: "with its pod: ztunnel lets go first, and what may still run in it does not go on in clear",
      workload: absorb(captured, { type: "facts", pod: undefined }, 0),
      view: { ...served, desired: undefined },
      steps: "withdraw clear:rules-stay forget forgotten",
      at: "outside",
    },
    {
      when: "by a CNI call: ztunnel lets go first, and the next sandbox is looked for",
      workload: ended,
      view: served,
      steps: "withdraw clear find no-sandbox",
      at: "outside",
    },
    {
      when: "by a CNI call and is still there is not taken back at once: it may only take its time",
      workload: ended,
      view: served,
      finds: lives,
      steps: "withdraw clear find close no-sandbox",
      at: "outside",
    },
    {
      when: "by a CNI call and lives on is captured again once the call is believed no longer",
      workload: ended,
      view: { ...served, nowMs: pace.graceMs },
      finds: lives,
      steps: "withdraw clear find inspect hand-over redirect:entry settle pass-probes announce enrolled",
      at: "captured",
    },
    {
      when: "as a DEL of unknown origin has it stays where it is while it has the pod's addresses",
      workload: absorb(captured, { type: "doubted", containerId: "container-A", netnsKey: undefined }, 0),
      view: served,
      steps: "prove redirect:repair pass-probes announce enrolled",
      at: "captured",
    },
    {
      when: "as a DEL of unknown origin has it is let go when it has lost them",
      workload: absorb(captured, { type: "doubted", containerId: "container-A", netnsKey: undefined }, 0),
      view: served,
      finds: { isOwner: false },
      steps: "prove withdraw clear find no-sandbox",
      at: "outside",
    },
  ]);

  test("is looked for again when the call that ended it is believed no longer", () => {
    const waits = walk({ workload: ended, view: { ...served, nowMs: 5_000 } });
    const { workload, view } = waits;
    expect(nextStep(workload, view, runOf({ hasSearched: true }))).toEqual({
      do: "rest",
      outcome: "no-sandbox",
      againMs: pace.graceMs - 5_000,
    });
  });
});

describe("a step counts from its beginning", () => {
  const sandbox = sandboxOf("A");
  const pod = podOf();
  const entry: Step = {
    do: "redirect",
    sandbox,
    redirect,
    isNew: false,
    isEntry: true,
    isUntouched: false,
    isRepair: false,
  };
  test.each<[string, Workload, Step, Phase]>([
    [
      "ztunnel may have heard of a pod that it is only being told of",
      workloadOf(),
      { do: "tell", pod, sandbox },
      { at: "told" },
    ],
    [
      "ztunnel may have heard of a pod whose hand-over has only begun",
      workloadOf(),
      { do: "hand-over", pod, sandbox },
      { at: "told" },
    ],
    ["a pod in the snapshot too", workloadOf(), { do: "hold", pod, sandbox }, { at: "told" }],
    [
      "a pod that ztunnel let go of has to be let go of again",
      leaving("withdrawn"),
      { do: "hand-over", pod, sandbox },
      { ...leaving("withdrawn").phase, stage: "opened" } as Phase,
    ],
    [
      "rules may stand, and are not proved",
      workloadOf({ phase: { at: "told" } }),
      entry,
      { at: "held", isProved: false },
    ],
    [
      "rules that were proved are so until they are opened",
      leaving("concealed"),
      entry,
      { at: "held", isProved: true },
    ],
    ["a captured pod stays captured while it is verified", captured, entry, { at: "captured" }],
  ])("%s", (_, workload, step, phase) => {
    expect(begin(workload, step).phase).toEqual(phase);
  });
});

describe("the word of a step about a sandbox that was replaced meanwhile", () => {
  const old = sandboxOf("A");
  const pod = podOf();
  const view = served;
  const run = runOf();
  /** The pod is in B now, and nothing is known of that. */
  const now = workloadOf({
    sandbox: sandboxOf("B"),
    isInspected: false,
    phase: { at: "told" },
    stale: [old],
  });
  const unchanged = { workload: now, run };

  test.each<[Step["do"], Step, Parameters<typeof advance>[1]["found"]]>([
    ["inspect", { do: "inspect", sandbox: old }, { do: "inspect", isTouched: true }],
    [
      "redirect",
      {
        do: "redirect",
        sandbox: old,
        redirect,
        isNew: false,
        isEntry: false,
        isUntouched: false,
        isRepair: true,
      },
      undefined,
    ],
    ["settle", { do: "settle", sandbox: old }, undefined],
    ["pass-probes", { do: "pass-probes", pod, sandbox: old, redirect }, undefined],
    ["hand-over", { do: "hand-over", pod, sandbox: old }, undefined],
    ["announce", { do: "announce", pod }, undefined],
    ["release", { do: "release", sandbox: old }, undefined],
    ["restore", { do: "restore", sandbox: old, reason: "not-selected" }, undefined],
  ])("%s says nothing about the new one", (_, step, found) => {
    expect(advance(now, { step, found, run, view })).toEqual(unchanged);
  });

  test("open does not make the new one open", () => {
    const phase: Phase = {
      at: "leaving",
      stage: "concealed",
      sinceMs: 0,
      hadRules: true,
      wasCaptured: true,
      wasAnnounced: true,
    };
    const leaves = { ...now, phase };
    const next = advance(leaves, { step: { do: "open", sandbox: old }, found: undefined, run, view });
    expect(next.workload.phase).toEqual(phase);
  });

  test("a successor that was found for the old one is closed, not taken", () => {
    const successor = sandboxOf("C");
    const next = advance(now, {
      step: { do: "prove", pod, sandbox: old },
      found: { do: "prove", isOwner: false, successor },
      run,
      view,
    });
    expect(next.workload.sandbox?.netns.key).toBe("B");
    expect(next.workload.surplus).toEqual([successor.netns]);
  });

  test("a sandbox that was searched for is closed when ADD has brought one", () => {
    const found = sandboxOf("C");
    const next = advance(now, {
      step: { do: "find", pod },
      found: { do: "find", sandbox: found },
      run,
      view,
    });
    expect(next.workload).toEqual({ ...now, surplus: [found.netns] });
  });

  test("a sandbox that was found for a pod which is gone by now is closed", () => {
    const gone: Workload = { ...createWorkload("u1"), pod: undefined };
    const found = sandboxOf("A");
    const next = advance(gone, {
      step: { do: "find", pod },
      found: { do: "find", sandbox: found },
      run,
      view,
    });
    expect(next.workload).toEqual({ ...gone, surplus: [found.netns] });
  });

  test("rules that could not be taken out of it are remembered", () => {
    const next = advance(now, {
      step: { do: "clear", sandbox: old, keepsRules: false },
      found: { do: "clear", isClean: false },
      run: runOf({ verified: "B", proved: "B" }),
      view,
    });
    expect(next.workload).toEqual({ ...now, stale: [], isUnseen: true });
    expect(next.run).toEqual(run);
  });
});
