// SPDX-License-Identifier: Apache-2.0
// The names of what `verify` finds, and what to do about each.

import type { CaptureKind } from "../check/capture.ts";

/** What to do about each of what can be wrong with a pod or the host. */
const FAULT_FIXES = {
  "missing-jump":
    "a running agent puts it back within its interval; look for another program that writes these chains",
  "duplicate-jump": "a running agent removes it; look for another program that writes these chains",
  "missing-chain": "a running agent puts it back; look for a program in the pod that flushes iptables",
  "missing-rule": "a running agent puts it back; look for a program in the pod that changes iptables",
  "extra-rule": "a running agent removes it; look for a program in the pod that changes iptables",
  reordered: "a running agent puts them in order; look for a program in the pod that changes iptables",
  "jump-not-first": "a running agent puts it first; look for another program that writes these chains",
  "unexpected-table": "a running agent removes it; it is of an earlier set of options",
  "missing-ip-rule": "a running agent puts it back; look for a program in the pod that changes `ip rule`",
  "missing-route":
    "a running agent puts it back; look for a program in the pod that changes routing table 100",
  "loopback-down":
    "a running agent brings it up; look for a program in the pod, or a runtime, that took the device lo down",
  "wrong-backend":
    "restart the agent, which moves them; FORCE_IPTABLES_BINARY must be what was used when the rules were made",
  "foreign-chain":
    "another program uses a chain name of ours in this pod: take that program (often istio-init) out of it",
  "may-be-bypassed":
    "something in the pod comes before our rules: take it out, or let it come after them; the agent removes nothing of others",
  "unreadable-rules":
    "the sentence names what keeps them from being judged; see which program in the pod writes rules there",
  "dormant-table": "somebody put the table to sleep: wake it up with nft, or delete the pod",
  "missing-set":
    "a running agent makes it again within seconds; see the probes' part of `ambient-cni doctor`",
  "missing-set-entry": "a running agent adds it within seconds; until then kubelet probes go through ztunnel",
  "wrong-set-entry": "a running agent corrects it within seconds",
  "stale-set-entry":
    "a running agent removes it within seconds; host processes reach that address past ztunnel until then",
  "host-chain": "a running agent puts it back within seconds; look for what reloads the host's firewall",
  "host-leftover":
    "ambient mode is off, and an agent of that mode left it: a running agent takes it away once no pod is captured",
  "netns-swapped": "restart the agent, which looks the pod's namespace up again; if it stays, delete the pod",
  "shared-netns": "two pods claim one network namespace: delete both, and report it to the container runtime",
  "no-sandbox": "the runtime has no process of this pod: look at the pod with crictl, and delete it",
  "ztunnel-sockets": "look at this node's ztunnel: kubectl get pods -A -l app=ztunnel -o wide, and its log",
  "no-sidecar-rules":
    "the pod's traffic goes past its proxy: delete it, so that its ADD is answered anew, or have it repaired (REPAIR_REPAIR_PODS=true)",
  "missing-routing":
    "a running agent puts it back; look for a program in the pod that changes `ip rule` or routing table 133",
  "missing-address":
    "a running agent puts it back; look for a program in the pod that changes addresses of lo",
  "not-captured": "the agent's log and `ambient-cni status NAMESPACE/POD` say why",
  "annotation-without-capture":
    "the pod says that it is in the mesh and is not: restart the agent, or delete the pod",
  "capture-without-annotation":
    "istiod does not know that the pod is in the mesh: `ambient-cni status` says whether the API server refuses the annotation",
  "unwanted-capture":
    "the pod should be outside the mesh and is redirected: restart the agent, or delete the pod",
} as const satisfies Readonly<Record<CaptureKind, string> & Record<string, string>>;

/** Whether something is known to be wrong; rules that cannot be read may be right. */
export function isKnownWrong({ kind }: Pick<Fault, "kind">): boolean {
  return kind !== "unreadable-rules";
}

/** Name of a fault. */
export type FaultKind = keyof typeof FAULT_FIXES;

/** One mismatch between what should be and what the kernel has. */
export interface Fault {
  readonly kind: FaultKind;
  /** `namespace/name`; `null` for the host. */
  readonly pod: string | null;
  /** One sentence. */
  readonly what: string;
  readonly fix: string;
}

/** A fault of a pod, or with `pod` null of the host. */
export function fault(kind: FaultKind, pod: string | null, what: string): Fault {
  return { kind, pod, what, fix: FAULT_FIXES[kind] };
}
