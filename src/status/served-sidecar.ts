// SPDX-License-Identifier: Apache-2.0
// Which reports are of pods that the agent redirects to their sidecar, or should, and of an agent that does nothing else. Pure; the page
// asks it too.

import type { NodeReport } from "./node-state-report.ts";
import type { PodReport } from "./state-report.ts";

/** Whether a pod's rules are its sidecar's: ztunnel, probe sets and our ambient rules have no part in it. */
export function isServedSidecar({ state, desired }: Pick<PodReport, "state" | "desired">): boolean {
  const { exclusion, sidecar = null } = desired;
  return state === "sidecar" || exclusion === "sidecar-served" || sidecar !== null;
}

/** Whether the agent serves sidecars alone: ztunnel and the host's part for kubelet probes are not missed. */
export function isWithoutAmbient({ settings }: Pick<NodeReport, "settings">): boolean {
  return settings.AMBIENT_ENABLED === "false";
}
