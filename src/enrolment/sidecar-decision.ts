// SPDX-License-Identifier: Apache-2.0
// Whether a pod's sidecar waits for this agent's rules, and for which. Pure.
import { parseGoBool } from "../kube/json-fields.ts";
import type { NamespaceNames } from "../kube/namespace-patterns.ts";
import { hasFinished, type PodFacts, podAnnotations } from "../kube/pod-facts.ts";
import {
  type SidecarOptions,
  SidecarOptionsError,
  sidecarAnnotations,
  sidecarOptionsOf,
} from "../redirection/sidecar-options.ts";

const injectName = "sidecar.istio.io/inject";

/**
 * Whether the injector left a pod's rules to the node's agent: it says that it was there, the proxy has no container of its own that
 * writes them, and nobody switched it off. The label counts before the annotation.
 * Source: istio/istio cni/pkg/plugin/plugin.go, doAddRun (the same conditions, in the same order of words).
 */
export function awaitsRules(pod: PodFacts, excludeNamespaces: NamespaceNames): boolean {
  const { annotations, labels, sidecar, hostNetwork } = pod;
  if (hostNetwork || sidecar === undefined || annotations[podAnnotations.sidecarStatus] === undefined)
    return false;
  if (parseGoBool(labels[injectName] ?? annotations[injectName] ?? "") === false) return false;
  // a proxy that is to get nothing but what is sent to it: without the container that would check for rules
  if (annotations[sidecarAnnotations.interceptionMode] === "NONE") return false;
  return !excludeNamespaces.has(pod.namespace) && !hasFinished(pod);
}

/**
 * The rules of a pod that waits for them.
 * @param takesOwnUsers rules count by the users of a pod's own user namespace
 * @throws {SidecarOptionsError} for an annotation that cannot be followed, and for a pod with users of its own where rules do not
 *   count by them
 */
export function sidecarOptionsOfPod(
  { annotations, sidecar }: PodFacts,
  { takesOwnUsers }: { readonly takesOwnUsers: boolean },
): SidecarOptions {
  if (sidecar?.ownUsers === true && !takesOwnUsers)
    throw new SidecarOptionsError(
      "it has a user namespace of its own (hostUsers: false), in which the kernel takes no rules of iptables by user from outside; " +
        "set NATIVE_NFTABLES=true, leave hostUsers out, or have the injector use istio-init",
    );
  return sidecarOptionsOf(
    annotations,
    sidecar ?? { dnsCapture: false, dualStack: false, dropInvalid: false },
  );
}
