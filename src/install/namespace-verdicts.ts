// SPDX-License-Identifier: Apache-2.0
// Which namespaces' pods certainly belong to no mesh, and the list of them as the launcher reads it. Pure.
import { createHash } from "node:crypto";
import { type Labels, matchLabelSelector } from "../kube/label-selector.ts";
import { type NamespaceFacts, type PodFacts, podAnnotations } from "../kube/pod-facts.ts";
import { type EnablementSelector, matchSelectors } from "../kube/selectors.ts";

/**
 * What a namespace's labels say of its pods:
 * - `mesh`: some of them may belong to a mesh, as far as anybody can tell without seeing them;
 * - `opt-in`: a pod belongs to it only by a label of its own;
 * - `none`: none can.
 */
export type NamespaceClaim = "mesh" | "opt-in" | "none";

/**
 * Labels by which pods of a namespace get a sidecar, which is a mesh as well. Source: istio/istio
 * manifests/charts/istio-control/istio-discovery/templates/mutatingwebhook.yaml: "disabled" keeps every webhook away.
 */
const injectionLabel = "istio-injection";
const revisionLabel = "istio.io/rev";

/** What the labels of a namespace alone say. */
export function claimOf(labels: Labels, selectors: readonly EnablementSelector[]): NamespaceClaim {
  if (getsSidecars(labels)) return "mesh";
  const matching = selectors.filter(({ namespaceSelector }) => matchLabelSelector(namespaceSelector, labels));
  // pods that say nothing belong to it, or the namespace was marked for those that do
  if (matching.some((selector) => takesUnlabelled(selector) || isMarked(selector))) return "mesh";
  return matching.length > 0 ? "opt-in" : "none";
}

/** Whether a pod shows that its namespace has pods of a mesh. */
export function showsMesh(
  pod: Pick<PodFacts, "labels" | "annotations" | "hostNetwork">,
  namespace: Pick<NamespaceFacts, "labels">,
  selectors: readonly EnablementSelector[],
): boolean {
  if (pod.hostNetwork) return false;
  if (pod.annotations[podAnnotations.sidecarStatus] !== undefined) return true;
  return matchSelectors(selectors, pod.labels, namespace.labels) !== undefined;
}

function getsSidecars(labels: Labels): boolean {
  const injection = Object.hasOwn(labels, injectionLabel) ? labels[injectionLabel] : undefined;
  if (injection === "disabled") return false;
  return injection !== undefined || Object.hasOwn(labels, revisionLabel);
}

function takesUnlabelled({ podSelector }: EnablementSelector): boolean {
  return matchLabelSelector(podSelector, {});
}

function isMarked({ namespaceSelector }: EnablementSelector): boolean {
  return namespaceSelector.some(({ operator }) => operator === "In" || operator === "Exists");
}

/** What is remembered over restarts and boots. */
export interface NamespaceMemory {
  /** Marks the selectors that it was true for: with others everything is looked at anew. */
  readonly selectors: string;
  /** UID of each namespace that was seen with something of a mesh. */
  readonly seen: ReadonlyMap<string, string>;
}

/** Short text that differs for other selectors. */
export function selectorsMark(selectors: readonly EnablementSelector[]): string {
  return createHash("sha256").update(JSON.stringify(selectors)).digest("hex").slice(0, 16);
}

const heading = [
  "# Written by ambient-cni, for the time when its agent is away from this node. Pods of namespaces with the verdict",
  '# "start" are outside the mesh and start then; all others wait for the agent, also those of namespaces not listed.',
];

/** The list: verdict, name and UID of each namespace, one a line, with what the agent remembers of them. */
export function renderVerdicts(
  { selectors, seen }: NamespaceMemory,
  starting: Iterable<NamespaceFacts>,
): string {
  const lines = [
    ...[...seen].map(([name, uid]) => `hold ${name} ${uid}`),
    ...[...starting].map(({ name, uid }) => `start ${name} ${uid}`),
  ];
  return `${[...heading, `selectors ${selectors}`, ...lines.sort()].join("\n")}\n`;
}

/** A list as it was written; of anything else it takes what it understands. */
export function parseVerdicts(text: string): NamespaceMemory & { readonly starting: readonly string[] } {
  const words = text.split("\n").map((line) => line.split(" "));
  const of = (verdict: string) => words.filter(([first]) => first === verdict);
  return {
    selectors: of("selectors")[0]?.[1] ?? "",
    seen: new Map(of("hold").map(([, name = "", uid = ""]) => [name, uid])),
    starting: of("start").map(([, name = ""]) => name),
  };
}
