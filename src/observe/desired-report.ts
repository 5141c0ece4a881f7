// SPDX-License-Identifier: Apache-2.0
// Why a pod belongs into the mesh or not, in words. Pure.
import type { Desired, OutsideReason } from "../enrolment/desired-state.ts";
import type { LabelRequirement, LabelSelector } from "../kube/label-selector.ts";
import type { EnablementSelector } from "../kube/selectors.ts";
import type { DesiredReport } from "./state-report.ts";

const exclusions: Readonly<Record<OutsideReason, string>> = {
  "host-network": "it uses the host's network, which is never redirected",
  sidecar: "it has a sidecar (annotation sidecar.istio.io/status)",
  ztunnel: "it is a ztunnel",
  agent: "it is a pod of a CNI agent",
  "excluded-namespace": "its namespace is in EXCLUDE_NAMESPACES",
  terminated: "it has ended (phase Succeeded or Failed)",
  "agent-leaves": "the agent leaves this node for good",
  "not-selected": "no entry of the enablement selectors matches its labels and its namespace's",
};

/** @param desired `undefined` while the labels of the pod's namespace are not known */
export function describeDesired(
  desired: Desired | undefined,
  selectors: readonly EnablementSelector[],
): DesiredReport {
  const none = { selector: null, exclusion: null, redirect: null, warnings: [] };
  if (desired === undefined)
    return { ...none, wanted: null, why: "the labels of its namespace are not known yet" };
  if (!desired.wanted)
    return { ...none, wanted: false, why: exclusions[desired.reason], exclusion: desired.reason };
  const entry = selectors[desired.selector];
  const text = entry === undefined ? "" : renderSelector(entry);
  const { dnsCapture, ingressMode, virtualInterfaces, probeSnatV4, probeSnatV6 } = desired.redirect;
  return {
    ...none,
    wanted: true,
    why: `entry ${desired.selector + 1} of the enablement selectors matches: ${text}`,
    selector: { index: desired.selector, text },
    redirect: { dnsCapture, ingressMode, virtualInterfaces, probeSnatV4, probeSnatV6 },
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
