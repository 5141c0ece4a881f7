// SPDX-License-Identifier: Apache-2.0
// What the state API answers about a node, as types: see state-report.ts.
import type { Count, IsoTime } from "./report-values.ts";
import type { LogLineReport } from "./state-report.ts";

/** Answer of `GET /api/v1/node`. */
export interface NodeReport {
  readonly at: IsoTime;
  readonly version: string;
  readonly node: string;
  readonly startedAt: IsoTime;
  readonly uptimeSeconds: number;
  readonly ready: boolean;
  readonly conditions: readonly ConditionReport[];
  readonly backend: BackendReport;
  readonly watches: readonly WatchReport[];
  readonly ztunnel: NodeZtunnelReport;
  /** `null`: the agent does not install itself into the chain (INSTALL_CNI_PLUGIN=false). */
  readonly chain: ChainReport | null;
  readonly probes: NodeProbesReport;
  /** What the runtime tells of sandboxes besides CNI (NRI); `null`: it is not to be heard. Absent: an older agent answered. */
  readonly runtime?: RuntimeReport | null;
  /** Sandboxes that the agent keeps, by who told of them: add, nri, proc, pinned. Absent: an older agent answered. */
  readonly sandboxes?: readonly CountReport[];
  /** What ambient mode left on the host although it is off (AMBIENT_ENABLED=false); `null`: nothing. Absent: an older agent answered. */
  readonly ambientLeftovers?: AmbientLeftoversReport | null;
  /** Repairs of captured pods since the start, by kind of drift. */
  readonly repairs: readonly CountReport[];
  /** Repairs of sidecars' redirection since the start, by kind of drift. Absent: an older agent answered. */
  readonly sidecarRepairs?: readonly CountReport[];
  readonly pods: PodCountsReport;
  /** Namespace handles open in the agent. */
  readonly openNetns: Count;
  readonly process: ProcessReport;
  /** Settings that matter, by their names in the environment. */
  readonly settings: Readonly<Record<string, string>>;
  /** Accepted settings without effect, each with its reason. */
  readonly ignoredSettings: readonly string[];
  /** Last warnings and errors, oldest first. */
  readonly recentErrors: readonly LogLineReport[];
}

/** A condition of the agent's readiness. */
export interface ConditionReport {
  readonly name: string;
  readonly met: boolean;
  /** What is missing. */
  readonly reason: string | null;
}

/** The iptables variant in use. */
export interface BackendReport {
  readonly variant: string;
  readonly reason: string;
}

/** A watch on the API server. */
export interface WatchReport {
  readonly name: "pods" | "namespaces";
  readonly objects: Count;
  /** A whole list has been taken in. */
  readonly synced: boolean;
  /** Its copy can be relied on now. */
  readonly fresh: boolean;
  /** Since the server was last heard. */
  readonly ageSeconds: number | null;
  readonly lists: Count;
  readonly watches: Count;
  readonly failures: Count;
}

/** The ZDS server. */
export interface NodeZtunnelReport {
  readonly socket: string;
  /** A ztunnel has acknowledged its whole snapshot. */
  readonly ready: boolean;
  /** Pods that each new connection is told of. */
  readonly roster: Count;
  /** Connections since the start: many of them say that ztunnel restarts. */
  readonly accepted: Count;
  /** Oldest first; the last one is told of new pods. */
  readonly connections: readonly ConnectionReport[];
}

/** One connected ztunnel. */
export interface ConnectionReport {
  readonly id: Count;
  readonly pid: Count;
  readonly since: IsoTime;
  readonly phase: "hello" | "snapshot" | "live" | "closed";
  /** Pods it has acknowledged. */
  readonly acknowledged: Count;
  /** Requests that wait for their turn or their answer. */
  readonly pending: Count;
  /** Requests it refused. */
  readonly refused: Count;
}

/** Our entry in the runtime's chain. */
export interface ChainReport {
  /** File that holds our entry; `null`: nowhere yet. */
  readonly file: string | null;
  /** Our entry is there now. */
  readonly installed: boolean;
  /** Plugin types of the chain, in order. */
  readonly plugins: readonly string[];
  /** Why we are not in the chain that the runtime uses, with the remedy. */
  readonly fault: string | null;
  /** Times that somebody took our entry away. */
  readonly rewrites: Count;
  /** Times that this happened so often that it counts as a fight. */
  readonly fights: Count;
  /** A fight is going on now. */
  readonly fighting: boolean;
}

/** The host's side of kubelet probes. */
export interface NodeProbesReport {
  readonly fault: string | null;
  /** Times that sets or rules had been changed by somebody and were put right. */
  readonly restored: Count;
  readonly failures: Count;
  /** Outcome of the last synthetic probe. */
  readonly path: ProbePathReport | null;
}

/** The connection to the container runtime's NRI socket. */
export interface RuntimeReport {
  readonly socket: string;
  /** `absent`: the runtime has no such socket, or it is not mounted; `away`: there is one, and the runtime does not tell. */
  readonly state: "absent" | "connecting" | "connected" | "away";
  /** Of the state. */
  readonly since: IsoTime;
  /** Name and version, as it says; `null`: it has not greeted us yet. */
  readonly runtime: string | null;
  /** Why the last connection ended, while there is no other. */
  readonly fault: string | null;
  /** Connections since the start: many of them say that the runtime cuts us off, or restarts. */
  readonly registrations: Count;
}

/** Chains and sets of the host that no agent keeps any more. */
export interface AmbientLeftoversReport {
  /** In words: `chain ISTIO_POSTRT`, `ipset istio-inpod-probes-v4`. */
  readonly rules: readonly string[];
  /** Network namespaces in which pods are captured still, which keeps the rest where it is. At most 16. */
  readonly captured: readonly string[];
  /** What keeps it from being looked at or taken away. */
  readonly fault: string | null;
}

/** A synthetic probe from the host to a captured pod. */
export interface ProbePathReport {
  readonly at: IsoTime;
  readonly outcome: "bypassed" | "captured" | "unreachable";
  readonly message: string;
  readonly remedy: string | null;
}

/** A count by kind. */
export interface CountReport {
  readonly kind: string;
  readonly count: Count;
}

/** How many pods stand where. */
export interface PodCountsReport {
  readonly known: Count;
  readonly wanted: Count;
  readonly outside: Count;
  readonly waiting: Count;
  readonly pending: Count;
  readonly enrolled: Count;
  /** Their rules cannot be read or judged. Absent: an older agent answered. */
  readonly unverified?: Count;
  readonly failed: Count;
  /** Redirected to their sidecar by this agent, and right. Absent: an older agent answered, which counts them as outside. */
  readonly sidecar?: Count;
  /** Enrolled, and found right by a look that is not older than twice the interval, or what a slow one has in its place. */
  readonly verified: Count;
  /** Captured, but something stands before our rules, or it cannot be told whether. Absent: an older agent answered. */
  readonly mayBeBypassed?: Count;
  /** So slow to look at that they are looked at less often. Absent: an older agent answered. */
  readonly slow?: Count;
  /** Wanted and not captured, or not redirected to their sidecar, by reason, those that are `unverified` left out: sandbox, ztunnel, ztunnel-refused, rules, kernel, api, other. */
  readonly failing: readonly CountReport[];
}

/** The agent's process. */
export interface ProcessReport {
  readonly pid: Count;
  readonly rssBytes: Count;
  readonly heapUsedBytes: Count;
  readonly cpuSeconds: number;
  readonly openFds: Count;
  /** Of the last half minute. */
  readonly eventLoopDelayP50Ms: number;
  readonly eventLoopDelayP99Ms: number;
  readonly eventLoopDelayMaxMs: number;
}
