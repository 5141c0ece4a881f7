// SPDX-License-Identifier: Apache-2.0
// Whether a DaemonSet has a place for a node: the node selector and the required node affinity of its pods. Pure.
// Source: Kubernetes pkg/controller/daemon, NodeShouldRunDaemonPod; component-helpers scheduling/corev1/nodeaffinity.
import { listOf, recordOf, textOf, textsOf } from "./json-fields.ts";
import { matchValue } from "./label-selector.ts";

/** What of a node counts. */
export interface NodeFacts {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
}

/** Reads a node from the API's JSON. */
export function toNodeFacts(raw: unknown): NodeFacts {
  const metadata = recordOf(recordOf(raw).metadata);
  return { name: textOf(metadata.name), labels: textsOf(metadata.labels) };
}

/**
 * Whether pods of the DaemonSet may be placed on the node. Preferred affinity and taints do not count, as for istio-cni.
 * Source: istio/istio cni/pkg/nodeagent/server.go, ShouldStopCleanup; release note 58768.
 */
export function fitsNode(daemonSet: unknown, node: NodeFacts): boolean {
  const spec = recordOf(recordOf(recordOf(recordOf(daemonSet).spec).template).spec);
  const wanted = Object.entries(textsOf(spec.nodeSelector));
  if (!wanted.every(([key, value]) => node.labels[key] === value)) return false;
  const affinity = recordOf(recordOf(spec.affinity).nodeAffinity);
  const required = affinity.requiredDuringSchedulingIgnoredDuringExecution;
  if (required === undefined || required === null) return true;
  return listOf(recordOf(required).nodeSelectorTerms).some((term) => termMatches(recordOf(term), node));
}

/** All of its conditions; a term without any matches nothing. */
function termMatches(term: Readonly<Record<string, unknown>>, { name, labels }: NodeFacts): boolean {
  const expressions = listOf(term.matchExpressions).map(recordOf);
  const fields = listOf(term.matchFields).map(recordOf);
  if (expressions.length + fields.length === 0) return false;
  return (
    expressions.every((each) => conditionHolds(each, labels[textOf(each.key)])) &&
    fields.every((each) => conditionHolds(each, textOf(each.key) === "metadata.name" ? name : undefined))
  );
}

function conditionHolds(condition: Readonly<Record<string, unknown>>, value: string | undefined): boolean {
  const { operator } = condition;
  const values = listOf(condition.values).map(textOf);
  switch (operator) {
    case "In":
    case "NotIn":
    case "Exists":
    case "DoesNotExist":
      return matchValue({ operator, values }, value);
    case "Gt":
      return isNumber(value) && isNumber(values[0]) && BigInt(value) > BigInt(values[0]);
    case "Lt":
      return isNumber(value) && isNumber(values[0]) && BigInt(value) < BigInt(values[0]);
    default:
      // one that we do not know: nobody is sent away over it
      return true;
  }
}

/** Source: Kubernetes apimachinery pkg/labels, Requirement.Matches: both are parsed as integers. */
function isNumber(text: string | undefined): text is string {
  return text !== undefined && /^[+-]?\d+$/.test(text);
}
