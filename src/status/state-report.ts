// SPDX-License-Identifier: Apache-2.0
// What the state API answers, as types: the contract between the agent and whoever looks at it from outside.
// docs/state-api.schema.json is made from them by scripts/state-schema.ts. `null` says "not known" or "none", never "not told".
import type { OutsideReason } from "../enrolment/desired-state.ts";
import type { EnrolmentState } from "../enrolment/enrolment-state.ts";
import type { LogLevel } from "../log/log-levels.ts";
import type { KeptLine } from "../log/log-ring.ts";
import type { BypassKind } from "../netfilter/bypass/bypass-judgement.ts";
import type { Count, IsoTime, NetnsKey, Sha256 } from "./report-values.ts";

/** Name of the state API's socket in the run dir; HTTP/1.1, mode 0600. */
export const STATE_SOCKET_NAME = "state.sock";

/** Where the reports are. One pod: `${STATE_PATHS.pods}/NAMESPACE/NAME`. */
export const STATE_PATHS = {
  pods: "/api/v1/pods",
  node: "/api/v1/node",
  logLevels: "/api/v1/log-levels",
} as const;

/** Where a pod stands; `sidecar`: its sidecar's rules stand, which this agent writes and looks after. Its other states are those of all pods. */
export type PodStateReport = EnrolmentState | "sidecar";

/** Answer of `GET /api/v1/pods`: every pod of the node, by namespace and name. */
export interface PodListReport {
  /** ISO time of the answer. What is `observed` has its own, older time. */
  readonly at: IsoTime;
  readonly node: string;
  readonly pods: readonly PodReport[];
}

/** One pod. In a list `transitions` has only the newest. */
export interface PodReport {
  readonly ns: string;
  readonly name: string;
  readonly uid: string;
  /** "Pending", "Running", "Succeeded", "Failed", "Unknown" or "". */
  readonly phase: string;
  readonly ips: readonly string[];
  readonly desired: DesiredReport;
  readonly state: PodStateReport;
  /** One sentence for people: why it stands there. */
  readonly summary: string;
  /** `null`: nobody has looked into it, as for a pod outside the mesh. */
  readonly observed: ObservedReport | null;
  /** Value of `ambient.istio.io/redirection` on the pod. */
  readonly annotation: string | null;
  /**
   * Connections that were open when the running pod was captured: they go on outside the mesh until they end, or were
   * reset. `null`: it was captured before it ran, by an earlier agent, or not at all. Absent: an older agent answered.
   */
  readonly earlierConnections?: Count | null;
  /**
   * What looks at it take, in ms, where that is so long that it is looked at less often; `null`: as usual. Absent: an older
   * agent answered.
   */
  readonly slowLookMs?: Count | null;
  /** Oldest first. */
  readonly transitions: readonly TransitionReport[];
  /** The last failure, `null` once a later run went well. */
  readonly lastError: PodErrorReport | null;
}

/** Answer of `GET /api/v1/pods/{ns}/{name}`: looked at in the kernel for this answer. */
export interface PodDetailReport extends PodReport {
  /** ISO time of the answer. */
  readonly at: IsoTime;
  readonly node: string;
  /** The agent's last log lines about the pod, oldest first. */
  readonly log: readonly LogLineReport[];
}

/** What should be, and why. `wanted` is `null` while the labels of the pod's namespace are not known. */
export interface DesiredReport {
  readonly wanted: boolean | null;
  /** One sentence: the selector entry that matched, or the exclusion. */
  readonly why: string;
  /** The entry of the enablement selectors that matched. */
  readonly selector: SelectorReport | null;
  /** What keeps the pod outside. */
  readonly exclusion: OutsideReason | null;
  readonly redirect: RedirectReport | null;
  /**
   * How the pod is redirected to its sidecar. `null`: it is not, another program does it, or its annotations cannot be followed, which is
   * its last error. Absent: an older agent answered.
   */
  readonly sidecar?: SidecarRedirectReport | null;
  /** Annotations of the pod that cannot be followed. */
  readonly warnings: readonly string[];
}

/** One entry of the enablement selectors. */
export interface SelectorReport {
  /** The first is 0. */
  readonly index: Count;
  /** As for kubectl's --selector: `pods istio.io/dataplane-mode=ambient`. */
  readonly text: string;
}

/** How the pod is redirected. */
export interface RedirectReport {
  readonly dnsCapture: boolean;
  readonly ingressMode: boolean;
  readonly virtualInterfaces: readonly string[];
  /** What becomes of connections from before the capture. Absent: an older agent answered. */
  readonly establishedConnections?: "keep" | "reset";
  readonly probeSnatV4: string;
  readonly probeSnatV6: string;
}

/** How a pod is redirected to its sidecar; the annotations of Istio's injector say it. */
export interface SidecarRedirectReport {
  /** How inbound connections reach the proxy. */
  readonly mode: "REDIRECT" | "TPROXY";
  readonly proxyUid: Count;
  readonly proxyGid: Count;
  /** `*`: all but the excluded ones. */
  readonly includeInboundPorts: "*" | readonly Count[];
  readonly excludeInboundPorts: readonly Count[];
  readonly includeOutboundPorts: readonly Count[];
  readonly excludeOutboundPorts: readonly Count[];
  /** Of both families. `*`: all but the excluded ones. */
  readonly includeOutboundCidrs: "*" | readonly string[];
  readonly excludeOutboundCidrs: readonly string[];
  readonly excludeInterfaces: readonly string[];
  readonly virtualInterfaces: readonly string[];
  readonly dnsCapture: boolean;
  readonly dualStack: boolean;
  /** Packets that belong to no connection are dropped. */
  readonly dropInvalid: boolean;
}

/** What is there. */
export interface ObservedReport {
  /** ISO time of the look. */
  readonly at: IsoTime;
  /** `kernel`: looked at for this answer; `last-run`: what the agent saw when it verified the pod last. */
  readonly source: "kernel" | "last-run";
  /** `dev:ino` of the pod's network namespace; `null`: no sandbox is known. */
  readonly netns: NetnsKey | null;
  /** Sandbox container; `null` for a namespace found in /proc. */
  readonly containerId: string | null;
  /**
   * Who told of the sandbox: `add`, the runtime by CNI; `nri`, the runtime by NRI alone; `proc`, a process of the pod was found; `pinned`, a
   * namespace with its address. `null`: none is known, or a sidecar's pod. Absent: an older agent answered.
   */
  readonly sandboxSource?: "add" | "nri" | "proc" | "pinned" | null;
  /** IPv4, then IPv6 where it is wanted or the pod has it (of a sidecar: where its pod has it); empty when the namespace could not be read (see `unread`). */
  readonly families: readonly FamilyReport[];
  /** Why the namespace could not be read. */
  readonly unread: string | null;
  /** Sockets that ztunnel should have opened in the pod; `null`: not looked at. */
  readonly sockets: readonly SocketReport[] | null;
  readonly ztunnel: PodZtunnelReport;
  readonly probes: PodProbesReport;
  /** What stands before our rules and can take traffic past ztunnel; `null`: not looked at. Absent: an older agent answered. */
  readonly bypasses?: BypassesReport | null;
}

/** What was seen before our rules. */
export interface BypassesReport {
  /** At most 16; empty: nothing. */
  readonly found: readonly FoundBypassReport[];
  /** False: there is more than is read, or it changes while it is read. */
  readonly complete: boolean;
}

/** Something of somebody else's that packets meet before our rules. */
export interface FoundBypassReport {
  readonly kind: BypassKind;
  /** ip, ip6, inet or netdev. */
  readonly family: string;
  readonly table: string;
  readonly chain: string;
  /** One sentence: which rule, and what it can do. */
  readonly detail: string;
}

/** Redirection of one address family. */
export interface FamilyReport {
  readonly family: 4 | 6;
  /** Why the family, or its routing, is left out (IPv6 off in the namespace, or AMBIENT_IPV6=false). */
  readonly skipped: string | null;
  /** Hash of our chains as they are (`kernel`) or as they were verified to be (`last-run`); `null`: not known, or a sidecar's. */
  readonly fingerprint: Sha256 | null;
  /** Hash of our chains as they should be; `null` of a sidecar's. */
  readonly wantedFingerprint: Sha256 | null;
  /** Ways in which rules, ip rule or route differ; empty: they are right. */
  readonly drift: readonly DriftReport[];
  /** `fwmark 0x111/0xfff lookup 100`; `null`: not known or not applicable. */
  readonly ipRule: boolean | null;
  /** `local default dev lo table 100`; `null`: not known or not applicable. */
  readonly route: boolean | null;
}

/** One difference; `kind` is one of `Drift`'s. */
export interface DriftReport {
  readonly kind: string;
  readonly table: string;
  readonly chain: string;
  readonly detail: string;
}

/** A port of ztunnel's in the pod. */
export interface SocketReport {
  readonly port: 15001 | 15006 | 15008 | 15053;
  readonly protocol: "tcp" | "udp";
  readonly listening: boolean;
}

/** What ztunnel has confirmed of this pod. */
export interface PodZtunnelReport {
  /** In the list that each new ztunnel connection is sent. */
  readonly inRoster: boolean;
  /** The newest connection has acknowledged the pod's present namespace. */
  readonly acknowledged: boolean;
  /** `dev:ino` that was acknowledged. */
  readonly netns: NetnsKey | null;
  /** Id of the connection, as in the node's report. */
  readonly connection: Count | null;
}

/** The pod in the host's sets that let kubelet probes past ztunnel. */
export interface PodProbesReport {
  /** The sets hold all of the pod's addresses in its name; `null`: not known. */
  readonly member: boolean | null;
  /** Addresses that belong into the sets. */
  readonly addresses: readonly string[];
}

/** One change of a pod's state. */
export interface TransitionReport {
  /** ISO time. */
  readonly at: IsoTime;
  readonly from: PodStateReport;
  readonly to: PodStateReport;
  /** From the start of the run to the change. */
  readonly ms: number;
  /** What the run did, in its order. */
  readonly steps: readonly StepReport[];
  /** One sentence. */
  readonly reason: string;
}

/** One step of a run: sandbox (where it had to be looked for), rules, ztunnel, remove-ztunnel, remove-probes, remove-rules. */
export interface StepReport {
  readonly step: string;
  readonly ms: number;
}

/** A failure, and what to do about it. */
export interface PodErrorReport {
  /** ISO time of the last attempt that failed. */
  readonly at: IsoTime;
  readonly message: string;
  readonly remedy: string;
  /** Failures in a row. */
  readonly attempts: Count;
}

/** A line of the agent's log. */
export interface LogLineReport extends KeptLine {
  readonly at: IsoTime;
}

/** Answer and body of `/api/v1/log-levels`. */
export interface LogLevelsReport {
  readonly default: LogLevel;
  /** Levels of scopes that differ from the default. */
  readonly scopes: Readonly<Record<string, LogLevel>>;
}

/** Body of every answer that is no success. */
export interface StateErrorReport {
  /** One sentence with cause and remedy. */
  readonly error: string;
}
