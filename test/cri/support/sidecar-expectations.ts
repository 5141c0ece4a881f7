// SPDX-License-Identifier: Apache-2.0
// What an injected pod must come to, whoever wrote its rules, and however late.

/** One page each way, each by the proxy. */
export const throughProxy = {
  pages: ["PEER", "POD"],
  led: { "outbound to the peer": 1, "inbound to the pod": 1 },
};

/** The line by which an agent counts the one pod that it has repaired. */
export function onePodRepaired(type: "repair" | "delete" | "label"): string {
  return `istio_cni_repair_pods_repaired_total{type="${type}",result="success"} 1`;
}
