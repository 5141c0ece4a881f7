// SPDX-License-Identifier: Apache-2.0
// What the reports ask of the agent's parts: the few facts of each, so that a part can be any object that has them.
import type { CaptureMeans } from "../check/look.ts";
import type { AgentConfig } from "../config.ts";
import type { Desired } from "../enrolment/desired-state.ts";
import type { PodHistory } from "../enrolment/pod-history.ts";
import type { PodStatus } from "../enrolment/pod-record.ts";
import type { ServedSidecar } from "../enrolment/sidecars.ts";
import type { PodFacts } from "../kube/pod-facts.ts";
import type { ReflectorCounts } from "../kube/reflector-options.ts";
import type { LogRing } from "../log/log-ring.ts";
import type { ProbeDrift } from "../probes/probe-drift.ts";
import type { FindBypasses } from "../redirection/pod-bypass.ts";
import type { ProbePathReport, RuntimeReport } from "./node-state-report.ts";
import type { ProcessFacts } from "./process-facts.ts";
import type { Readiness } from "./readiness.ts";

/** Pods of the node as the enrolment knows them; what it hands out is only read. */
export interface EnrolmentFacts {
  records(): Iterable<PodStatus>;
  record(uid: string): PodStatus | undefined;
  /** `undefined` while the labels of the pod's namespace are not known. */
  desired(pod: PodFacts): Desired | undefined;
  readonly repairs: ReadonlyMap<string, number>;
}

/** Pods whose sidecar this agent serves. */
export interface SidecarFacts {
  /** `undefined`: it is none of them. */
  served(pod: PodFacts): ServedSidecar | undefined;
  /** By kind of what looks put right. */
  readonly repairs: ReadonlyMap<string, number>;
  /** Compares a pod's redirection to its sidecar; writes nothing. */
  readonly verify: CaptureMeans["sidecars"]["verify"];
}

/** One copy of a collection. */
export interface WatchFacts {
  readonly size: number;
  readonly synced: boolean;
  /** On the clock of performance.now(). */
  readonly lastContactMs: number | undefined;
  readonly counts: Readonly<ReflectorCounts>;
  isFresh(maxAgeMs: number): boolean;
}

/** The copies of the API server's objects. */
export interface ClusterFacts {
  readonly pods: WatchFacts & { values(): Iterable<PodFacts> };
  readonly namespaces: WatchFacts;
  podByName(namespace: string, name: string): PodFacts | undefined;
}

/** One connected ztunnel. */
export interface ZdsConnectionFacts {
  readonly id: number;
  readonly pid: number;
  readonly connectedAt: Date;
  readonly phase: "hello" | "snapshot" | "live" | "closed";
  /** Pods acknowledged. */
  readonly acknowledgedCount: number;
  /** Requests that wait for their turn or their answer. */
  readonly pendingCount: number;
  readonly refusedCount: number;
}

/** The ZDS server. */
export interface ZtunnelFacts {
  readonly ready: boolean;
  readonly podCount: number;
  /** Connections past their hello, the newest last. */
  readonly connections: readonly ZdsConnectionFacts[];
  /** Connections since the start. */
  readonly acceptedCount: number;
  holds(uid: string): boolean;
  acknowledged(uid: string): string | undefined;
}

/** The host's side of kubelet probes. */
export interface ProbesFacts {
  readonly fault: string | undefined;
  readonly counts: { readonly restored: number; readonly failures: number };
  /** Addresses that the sets hold in the pod's name; `undefined` while they may differ from what was asked for. */
  addressesOf(uid: string): readonly string[] | undefined;
  /** What differs now, read from the kernel. */
  verify(): Promise<{ readonly drift: readonly ProbeDrift[] }>;
}

/** Our entry in the CNI chain. */
export interface ChainFacts {
  /** File that holds our entry. */
  readonly configPath: string | undefined;
  readonly fault: string | undefined;
  readonly rewrites: number;
  readonly fights: number;
  readonly isFighting: boolean;
  /** Plugin types of the chain, in order. */
  readonly pluginTypes?: readonly string[];
}

/** The last finding of a synthetic kubelet probe. */
export interface ProbePathFacts {
  readonly outcome: ProbePathReport["outcome"] | "unknown";
  /** Unix time; undefined before the first check. */
  readonly atMs: number | undefined;
  /** What was seen, and what to do about it, of an outcome other than `bypassed`. */
  readonly message?: string;
  readonly remedy?: string;
}

/** What an earlier agent's ambient mode left on a node that serves sidecars alone. */
export interface LeftoversFacts {
  /** Chains, sets and tables of the host. */
  readonly rules: readonly string[];
  /** Network namespaces that are still captured, by their file or a process. */
  readonly captured: readonly string[];
  /** What keeps it from being looked at or taken away. */
  readonly fault?: string | undefined;
}

/** What the container runtime tells besides CNI. */
export interface RuntimeFacts {
  /** Its socket. */
  readonly path: string;
  readonly state: RuntimeReport["state"];
  /** Of the state. */
  readonly since: Date;
  readonly runtime: { readonly name: string; readonly version: string } | undefined;
  readonly fault: string | undefined;
  /** Sessions since the start. */
  readonly registrations: number;
}

/** Settings that the reports show or follow. */
export type ReportedConfig = Pick<
  AgentConfig,
  | "ambient"
  | "nodeName"
  | "hostRoot"
  | "runDir"
  | "ztunnelSocketPath"
  | "selectors"
  | "excludeNamespaces"
  | "systemNamespace"
  | "dnsCapture"
  | "ipv6"
  | "probeSnatV4"
  | "probeSnatV6"
  | "branchEniProbes"
  | "probeMatch"
  | "establishedConnections"
  | "iptablesVariant"
  | "reconcileIntervalMs"
  | "kernelNotices"
  | "ztunnelWaitMs"
  | "leavePauseMs"
  | "leaveDrainMs"
  | "install"
  | "nri"
  | "ignored"
>;

/** All parts that reports are made from. */
export interface AgentFacts {
  readonly config: ReportedConfig;
  readonly backend: { readonly variant: string; readonly reason: string };
  readonly cluster: ClusterFacts;
  readonly enrolment: EnrolmentFacts;
  readonly history: PodHistory;
  readonly sidecars: SidecarFacts;
  /** Reads a pod's redirection; writes nothing. */
  readonly redirection: CaptureMeans["redirection"];
  /** Looks for what stands before a pod's rules. */
  readonly bypasses?: FindBypasses | undefined;
  readonly ztunnel: ZtunnelFacts;
  readonly probes: ProbesFacts;
  readonly readiness: Readiness;
  readonly ring: LogRing;
  readonly process: ProcessFacts;
  /** `undefined`: the agent does not install itself. */
  readonly chain?: ChainFacts | undefined;
  /** What is left of ambient mode where that is off; absent: it is on. */
  readonly leftovers?: { readonly found: LeftoversFacts | undefined } | undefined;
  /** `undefined`: nobody is to be heard. */
  readonly runtime?: RuntimeFacts | undefined;
  /** What the last synthetic probe found. */
  readonly probePath?: () => ProbePathFacts;
}
