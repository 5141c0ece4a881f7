// SPDX-License-Identifier: Apache-2.0
// Values for tests of the pure decisions, and a walk through them: each step goes well at once and changes a small outside world.
import type { Desired } from "../../src/enrolment/desired-state.ts";
import { type Found, nextStep, type Step } from "../../src/enrolment/next-step.ts";
import { freshRun, type Pace, type Run, type View } from "../../src/enrolment/pod-view.ts";
import type { Sandbox } from "../../src/enrolment/sandbox-finder.ts";
import { advance, begin } from "../../src/enrolment/step-result.ts";
import { createWorkload, type Workload } from "../../src/enrolment/workload.ts";
import type { NamespaceFacts, PodFacts } from "../../src/kube/pod-facts.ts";
import type { Netns } from "../../src/linux/netns.ts";
import type { RedirectOptions } from "../../src/redirection/rules.ts";

/** A running pod of the namespace `shop`. */
export function podOf(change: Partial<PodFacts> = {}): PodFacts {
  return {
    key: "u1",
    uid: "u1",
    namespace: "shop",
    name: "web",
    serviceAccount: "default",
    nodeName: "node1",
    hostNetwork: false,
    phase: "Running",
    ips: ["10.0.0.1"],
    labels: {},
    annotations: {},
    containerIds: [],
    resourceVersion: "1",
    ...change,
  };
}

export const shop: NamespaceFacts = { key: "shop", name: "shop", uid: "", labels: {}, resourceVersion: "1" };

/** A sandbox in a namespace of that key; nothing can be read from its handle. */
export function sandboxOf(key: string, change: Partial<Sandbox> = {}): Sandbox {
  const netns = { key, fd: -1, closed: false, close: () => {} } as Partial<Netns> as Netns;
  return { netns, containerId: `container-${key}`, ips: ["10.0.0.1"], isNew: false, ...change };
}

/** What the node's settings come to for a pod without annotations. */
export const redirect: RedirectOptions = {
  dnsCapture: true,
  ingressMode: false,
  virtualInterfaces: [],
  probeSnatV4: "169.254.7.127",
  probeSnatV6: "fd16::1",
};

export const wanted: Desired = { wanted: true, selector: 1, warnings: [], redirect };
export const unwanted: Desired = { wanted: false, reason: "not-selected" };

export const pace: Pace = {
  leavePauseMs: 500,
  leaveDrainMs: 2_000,
  finMs: 50,
  maxFinMs: 1_000,
  concealMs: 2_000,
  graceMs: 15_000,
};

/** Known, in a sandbox `A` that was looked into. */
export function workloadOf(change: Partial<Workload> = {}): Workload {
  return {
    ...createWorkload("u1"),
    pod: podOf(),
    sandbox: sandboxOf("A"),
    isInspected: true,
    ...change,
  };
}

/** A wanted pod, a ztunnel that has not heard of it. */
export function viewOf(change: Partial<View> = {}): View {
  return {
    nowMs: 0,
    desired: wanted,
    isAdding: false,
    hasZtunnel: true,
    acknowledged: undefined,
    isAnnounced: false,
    isAnnouncing: false,
    isTakingStock: false,
    isLeavingNode: false,
    pace,
    ...change,
  };
}

export function runOf(change: Partial<Run> = {}): Run {
  return { ...freshRun, ...change };
}

/** What the steps of a walk find. */
export interface Finds {
  /** Sandboxes for the searches, in their order; then none. */
  readonly sandboxes?: readonly Sandbox[];
  /** Whether rules of ours are in a sandbox that is looked into, until they are taken out. */
  readonly isTouched?: boolean;
  /** Whether a sandbox still has the pod's addresses. Default true. */
  readonly isOwner?: boolean;
  /** How many connections ztunnel still carries, asked again and again; then none. */
  readonly carried?: readonly number[];
  /** Of the looks at what ztunnel carries: how many it is ending, one number a look. */
  readonly closing?: readonly number[];
}

/** What a walk came to. */
export interface Walked {
  /** Names of the steps in their order, `wait N` for a pause of that many ms, the last rest's outcome at the end. */
  readonly steps: readonly string[];
  readonly workload: Workload;
  readonly view: View;
}

const maxSteps = 60;

/** Goes on from step to step, pauses included, until nothing is left to wait for. */
export function walk(start: { workload: Workload; view?: View; finds?: Finds }): Walked {
  const { finds = {} } = start;
  const sandboxes = [...(finds.sandboxes ?? [])];
  const carried = [...(finds.carried ?? [])];
  const closing = [...(finds.closing ?? [])];
  let isTouched = finds.isTouched ?? false;
  let { workload, view = viewOf() } = start;
  let run = freshRun;
  const steps: string[] = [];
  for (let count = 0; count < maxSteps; count++) {
    const step = nextStep(workload, view, run);
    if (step.do === "rest") {
      if (step.outcome !== "leaving" || step.againMs === undefined)
        return { steps: [...steps, step.outcome], workload, view };
      steps.push(`wait ${step.againMs}`);
      view = { ...view, nowMs: view.nowMs + step.againMs };
      run = freshRun;
      continue;
    }
    steps.push(nameOf(step));
    workload = begin(workload, step);
    view = viewAfter(view, step);
    const found = foundBy(step, { ...finds, sandboxes, carried, closing, isTouched });
    if (step.do === "restore") isTouched = false;
    ({ workload, run } = advance(workload, { step, found, run, view }));
  }
  throw new Error(`does not come to rest: ${steps.join(" ")}`);
}

/** Entry and repair are other claims than a look that finds everything right. */
function nameOf(step: Step): string {
  if (step.do === "clear" && step.keepsRules) return "clear:rules-stay";
  if (step.do !== "redirect") return step.do;
  const kinds = [
    ...(step.isNew ? ["new"] : []),
    ...(step.isEntry ? [step.isUntouched ? "entry" : "entry-again"] : []),
    ...(step.isRepair ? ["repair"] : []),
  ];
  return ["redirect", ...kinds].join(":");
}

function viewAfter(view: View, step: Step): View {
  switch (step.do) {
    case "hand-over":
      return { ...view, acknowledged: step.sandbox.netns.key };
    case "withdraw":
      return { ...view, acknowledged: undefined };
    case "announce":
      return { ...view, isAnnounced: true };
    case "conceal":
      return { ...view, isAnnounced: false };
    default:
      return view;
  }
}

function foundBy(
  step: Step,
  finds: { sandboxes: Sandbox[]; carried: number[]; closing: number[] } & Finds,
): Found {
  switch (step.do) {
    case "find":
      return { do: "find", sandbox: finds.sandboxes.shift() };
    case "prove": {
      const isOwner = finds.isOwner ?? true;
      return { do: "prove", isOwner, successor: isOwner ? undefined : finds.sandboxes.shift() };
    }
    case "inspect":
      return { do: "inspect", isTouched: finds.isTouched ?? false };
    case "clear":
      return { do: "clear", isClean: true };
    case "count-carried":
      return {
        do: "count-carried",
        carried: { count: finds.carried.shift() ?? 0, closingCount: finds.closing.shift() ?? 0 },
      };
    default:
      return undefined;
  }
}
