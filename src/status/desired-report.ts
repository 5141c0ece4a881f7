// SPDX-License-Identifier: Apache-2.0
// Why a pod belongs into the mesh or not, in words. Pure.
import { type Desired, outsideReasons } from "../enrolment/desired-state.ts";
import { reasonOf } from "../enrolment/run-outcome.ts";
import type { LabelRequirement, LabelSelector } from "../kube/label-selector.ts";
import type { EnablementSelector } from "../kube/selectors.ts";
import type { SidecarOptions } from "../redirection/sidecar-options.ts";
import type { DesiredReport } from "./state-report.ts";

/**
 * @param desired `undefined` while the labels of the pod's namespace are not known
 * @param sidecar how this agent redirects the pod to its sidecar; absent: not at all
 */
export function describeDesired(
  desired: Desired | undefined,
  selectors: readonly EnablementSelector[],
  sidecar?: SidecarOptions,
): DesiredReport {
  const none = { selector: null, exclusion: null, redirect: null, sidecar: sidecar ?? null, warnings: [] };
  if (desired === undefined) return { ...none, wanted: null, why: reasonOf("namespace-unknown") };
  if (!desired.wanted)
    return { ...none, wanted: false, why: outsideReasons[desired.reason], exclusion: desired.reason };
  const entry = selectors[desired.selector];
  const text = entry === undefined ? "" : renderSelector(entry);
  const { establishedConnections = "keep", ...redirect } = desired.redirect;
  return {
    ...none,
    wanted: true,
    why: `entry ${desired.selector + 1} of the enablement selectors matches: ${text}`,
    selector: { index: desired.selector, text },
    redirect: { ...redirect, establishedConnections },
    warnings: desired.warnings,
  };
}

/** An entry in the words of kubectl's --selector. */
export function renderSelector({ podSelector, namespaceSelector }: EnablementSelector): string {
  const parts = [
    ...(podSelector.length === 0 ? [] : [`pods ${renderLabels(podSelector)}`]),
    ...(namespaceSelector.length === 0 ? [] : [`namespaces ${renderLabels(namespaceSelector)}`]),
  ];
  return parts.length === 0 ? "every pod" : parts.join(", ");
}

function renderLabels(selector: LabelSelector): string {
  return selector.map(renderRequirement).join(",");
}

function renderRequirement({ key, operator, values }: LabelRequirement): string {
  switch (operator) {
    case "In":
      return values.length === 1 ? `${key}=${values[0]}` : `${key} in (${values.join(",")})`;
    case "NotIn":
      return values.length === 1 ? `${key}!=${values[0]}` : `${key} notin (${values.join(",")})`;
    case "Exists":
      return key;
    case "DoesNotExist":
      return `!${key}`;
  }
}
