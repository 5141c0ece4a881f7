// SPDX-License-Identifier: Apache-2.0
// One pod against what should be, as the one verdict has it: every mismatch by its name; and pods that share a namespace.
import {
  type CaptureFinding,
  type CaptureReport,
  checkCapture,
  type WantedCapture,
} from "../check/capture.ts";
import { Netns } from "../linux/netns.ts";
import type { PodProcess, WantedPod } from "../linux/proc-scan.ts";
import { findPodBypasses } from "../redirection/pod-bypass.ts";
import type { PodReport } from "../status/state-report.ts";
import { type Fault, fault } from "./fault.ts";
import type { KernelEyes } from "./kernel-eyes.ts";

/** A pod to be looked at. */
export interface PodSubject {
  /** `namespace/name`, or how the pod is called where its name is not known. */
  readonly name: string;
  readonly wanted: WantedCapture;
  /** It has, or should have, processes. */
  readonly shouldRun: boolean;
  readonly running: PodProcess | undefined;
}

/** What was found of a pod. */
export interface PodCheck {
  readonly faults: readonly Fault[];
  /** Questions that the kernel did not answer. */
  readonly unseen: readonly Error[];
  /** Absent: the pod has no namespace that could be looked at. */
  readonly seen?: CaptureReport["seen"];
}

/** Every mismatch of one pod. @throws Error when its namespace may not be opened */
export async function checkPod(
  { redirection, sidecars, backend, families }: KernelEyes,
  { name, wanted, shouldRun, running }: PodSubject,
): Promise<PodCheck> {
  if (running === undefined) {
    const isMissed = shouldRun && hasRedirection(wanted);
    const gone = fault("no-sandbox", name, "no process of the pod was found in /proc");
    return { faults: isMissed ? [gone] : [], unseen: [] };
  }
  using netns = openAs(running);
  if (netns === undefined) return { faults: [], unseen: [] };
  const { variant } = backend;
  const { findings, unseen, seen } = await checkCapture(netns, wanted, {
    redirection,
    sidecars,
    search: { variant },
    bypasses: (pod, redirect) => findPodBypasses(pod, { variant, families, redirect }),
  });
  return { faults: faultsOf(name, findings), unseen, seen };
}

const MAX_DETAILS = 4;

/** One fault for each kind. */
function faultsOf(name: string, findings: readonly CaptureFinding[]): Fault[] {
  return [...Map.groupBy(findings, ({ kind }) => kind)].map(([kind, found]) => {
    const lines = found
      .slice(0, MAX_DETAILS)
      .map(({ detail, at }) => (at === undefined ? detail : `IPv${at.family} ${at.table}: ${detail}`));
    const rest = found.length - lines.length;
    return fault(kind, name, lines.join("; ") + (rest > 0 ? ` and ${rest} more` : ""));
  });
}

/** Whether a pod should have rules of ours. */
export function hasRedirection({ redirect, sidecar }: WantedCapture): boolean {
  return redirect !== "outside" || sidecar !== undefined;
}

/** What the state API says of a pod, as a subject. */
export function subjectOf(pod: PodReport, running: PodProcess | undefined): PodSubject {
  return {
    name: `${pod.ns}/${pod.name}`,
    wanted: {
      redirect: pod.desired.wanted === true ? (pod.desired.redirect ?? "unknown") : "outside",
      sidecar: pod.desired.sidecar ?? undefined,
      annotation: pod.annotation,
      ips: pod.ips,
      held: { agent: pod.observed?.netns ?? null, ztunnel: pod.observed?.ztunnel.netns ?? null },
    },
    shouldRun: pod.phase === "Running" && pod.ips.length > 0,
    running,
  };
}

/** How its processes are found. */
export function wantedPod({ uid, observed }: PodReport): WantedPod {
  return { uid, containerIds: observed?.containerId ? [observed.containerId] : [] };
}

/** The process may have ended, and its number be another's, since it was looked at: undefined then. @throws NetnsError */
export function openAs({
  netnsPath,
  netnsKey,
}: Pick<PodProcess, "netnsPath" | "netnsKey">): Netns | undefined {
  try {
    const netns = Netns.open(netnsPath);
    if (netns.key === netnsKey) return netns;
    netns.close();
    return undefined;
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === "ENOENT" || code === "ESRCH") return undefined;
    throw error;
  }
}

/** A fault for each pod that shares its namespace with one that is redirected. */
export function sharedNamespaces(subjects: readonly PodSubject[]): Fault[] {
  const byKey = Map.groupBy(subjects, ({ running }) => running?.netnsKey);
  byKey.delete(undefined);
  return [...byKey]
    .filter(([, pods]) => pods.length > 1 && pods.some(({ wanted }) => hasRedirection(wanted)))
    .flatMap(([key, pods]) =>
      pods.map(({ name }) =>
        fault(
          "shared-netns",
          name,
          `network namespace ${key} has ${pods.map((pod) => pod.name).join(" and ")}`,
        ),
      ),
    );
}
