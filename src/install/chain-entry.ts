// SPDX-License-Identifier: Apache-2.0
// Our entry of the chain as this agent's settings want it, and under which name.
import type { AgentConfig } from "../config.ts";
import { type IstioCniKeys, istioCniType, type PluginEntry, pluginType } from "../conflist/conflist-edit.ts";
import type { LabelSelector } from "../kube/label-selector.ts";
import { chainExemptions } from "./exempt-namespaces.ts";

/** Whether this is a pod of istio-cni's own DaemonSet: the image was changed, and nothing else. */
export function standsForIstioCni(podName: string): boolean {
  return /^istio-cni-node-[^-]+$/.test(podName);
}

/**
 * The entry. In istio-cni's DaemonSet it and the launcher have istio-cni's name, and the entry what istio-cni's plugin reads:
 * whoever puts the old image back has its installer replace both, and no pod is lost between the two replacements.
 */
export function chainEntry(config: AgentConfig): PluginEntry {
  const inItsPlace = standsForIstioCni(config.podName);
  return {
    type: inItsPlace ? istioCniType : pluginType,
    cni_agent_run_dir: config.hostRunDir,
    agent_wait_seconds: config.install.agentWaitSeconds,
    exempt: chainExemptions(config),
    ...(inItsPlace ? istioCniKeys(config) : {}),
  };
}

function istioCniKeys({ ambient, selectors, excludeNamespaces, podNamespace }: AgentConfig): IstioCniKeys {
  return {
    ambient_enabled: ambient,
    enablement_selectors: selectors.map(({ podSelector, namespaceSelector }) => ({
      podSelector: selectorObject(podSelector),
      namespaceSelector: selectorObject(namespaceSelector),
    })),
    exclude_namespaces: [...excludeNamespaces].sort(),
    pod_namespace: podNamespace,
  };
}

/** As the Kubernetes API writes it. */
function selectorObject(selector: LabelSelector): object {
  return selector.length === 0 ? {} : { matchExpressions: selector };
}
