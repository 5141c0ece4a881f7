// SPDX-License-Identifier: Apache-2.0
// Whether a pod belongs into the mesh, and with which redirection. Pure, no I/O.
import type { NamespaceNames } from "../kube/namespace-patterns.ts";
import type { NodeState } from "../kube/node-state.ts";
import { hasFinished, type NamespaceFacts, type PodFacts, podAnnotations } from "../kube/pod-facts.ts";
import { type PodOverrides, podOverridesOf } from "../kube/pod-overrides.ts";
import { type EnablementSelector, matchSelectors } from "../kube/selectors.ts";
import type { EstablishedConnections, RedirectOptions } from "../redirection/rules.ts";
import { awaitsRules } from "./sidecar-decision.ts";
import { isTouched, newestFacts, type Workload } from "./workload.ts";

/** Why a pod is not in the mesh, each with its sentence. All but the last cannot be undone by a selector. */
export const outsideReasons = {
  "host-network": "it uses the host's network, which is never redirected",
  "sidecar-served":
    "it has a sidecar that leaves its rules to this node's agent, which writes them at its ADD",
  sidecar: "it has a sidecar (annotation sidecar.istio.io/status)",
  ztunnel: "it is a ztunnel",
  agent: "it is a pod of a CNI agent",
  "excluded-namespace": "its namespace is in EXCLUDE_NAMESPACES",
  terminated: "it has ended (phase Succeeded or Failed)",
  "agent-leaves": "the agent leaves this node for good",
  "not-selected": "no entry of the enablement selectors matches its labels and its namespace's",
} as const;

/** Why a pod is not in the mesh. */
export type OutsideReason = keyof typeof outsideReasons;

/** The node's settings that decide about pods. */
export interface EnrolmentPolicy {
  readonly selectors: readonly EnablementSelector[];
  readonly excludeNamespaces: NamespaceNames;
  readonly systemNamespace: string;
  /** Namespace of the agent's own pod; empty when it runs as a plain process. */
  readonly agentNamespace: string;
  readonly dnsCapture: boolean;
  readonly probeSnatV4: string;
  readonly probeSnatV6: string;
  readonly establishedConnections: EstablishedConnections;
}

/** What should be. */
export type Desired =
  | {
      readonly wanted: true;
      readonly selector: number;
      readonly redirect: RedirectOptions;
      readonly warnings: readonly string[];
    }
  | { readonly wanted: false; readonly reason: OutsideReason };

/** DaemonSets of node agents, ours and the one we stand in for. */
const agentDaemonSets = ["istio-cni-node", "ambient-cni-node"];

/** Decides about a pod from its own facts and its namespace's. */
export function decideEnrolment(pod: PodFacts, namespace: NamespaceFacts, policy: EnrolmentPolicy): Desired {
  const excluded = hardExclusion(pod, policy);
  if (excluded !== undefined) return { wanted: false, reason: excluded };
  const selector = matchSelectors(policy.selectors, pod.labels, namespace.labels);
  if (selector === undefined) return { wanted: false, reason: "not-selected" };
  const overrides = podOverridesOf(pod);
  return {
    wanted: true,
    selector,
    warnings: overrides.warnings,
    redirect: redirectOf(policy, overrides),
  };
}

/** The redirection of a pod whose annotations say nothing of it, or only this. */
export function redirectOf(
  policy: EnrolmentPolicy,
  { dnsCapture, ingressMode = false, virtualInterfaces = [] }: Partial<PodOverrides> = {},
): RedirectOptions {
  const { probeSnatV4, probeSnatV6, establishedConnections } = policy;
  return {
    dnsCapture: dnsCapture ?? policy.dnsCapture,
    ingressMode,
    virtualInterfaces,
    probeSnatV4,
    probeSnatV6,
    establishedConnections,
  };
}

/**
 * The one place that decides about a pod: the newest facts of it and of its namespace that anybody brought.
 * @returns `undefined` while the labels of its namespace are not known
 */
export function decideWorkload(
  workload: Pick<Workload, "pod" | "namespaceHint" | "phase">,
  {
    node,
    policy,
  }: { readonly node: Pick<NodeState, "namespace" | "isFresh">; readonly policy: EnrolmentPolicy },
): Desired | undefined {
  const { pod, namespaceHint } = workload;
  if (pod === undefined) return undefined;
  const cached = node.namespace(pod.namespace);
  let namespace = namespaceHint === undefined ? cached : newestFacts(namespaceHint, cached ?? namespaceHint);
  // a namespace that is known to be gone has no labels; one that nobody has heard of may only be late
  if (namespace === undefined && isTouched(workload) && node.isFresh())
    namespace = { key: pod.namespace, name: pod.namespace, uid: "", labels: {}, resourceVersion: "" };
  return namespace === undefined ? undefined : decideEnrolment(pod, namespace, policy);
}

function isAgent({ namespace, ownerDaemonSet }: PodFacts, policy: EnrolmentPolicy): boolean {
  const isOurs = namespace === policy.agentNamespace || namespace === policy.systemNamespace;
  return isOurs && ownerDaemonSet !== undefined && agentDaemonSets.includes(ownerDaemonSet);
}

/** The reason that keeps a pod out whatever its labels say. */
export function hardExclusion(pod: PodFacts, policy: EnrolmentPolicy): OutsideReason | undefined {
  if (pod.hostNetwork) return "host-network";
  if (pod.annotations[podAnnotations.sidecarStatus] !== undefined)
    return awaitsRules(pod, policy.excludeNamespaces) ? "sidecar-served" : "sidecar";
  if (pod.namespace === policy.systemNamespace && pod.labels.app === "ztunnel") return "ztunnel";
  if (isAgent(pod, policy)) return "agent";
  if (policy.excludeNamespaces.has(pod.namespace)) return "excluded-namespace";
  if (hasFinished(pod)) return "terminated";
  return undefined;
}
