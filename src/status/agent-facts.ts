// SPDX-License-Identifier: Apache-2.0
// What the reports ask of the agent's parts: the few facts of each, so that a part can be any object that has them.
import type { CaptureMeans } from "../check/look.ts";
import type { AgentConfig } from "../config.ts";
import type { Enrolment } from "../enrolment/enrolment.ts";
import type { PodHistory } from "../enrolment/pod-history.ts";
import type { PodStatus } from "../enrolment/pod-record.ts";
import type { Sidecars } from "../enrolment/sidecars.ts";
import type { AnnotationWriter } from "../kube/annotation-writer.ts";
import type { NodeState } from "../kube/node-state.ts";
import type { PodFacts } from "../kube/pod-facts.ts";
import type { Reflector } from "../kube/reflector.ts";
import type { LogRing } from "../log/log-ring.ts";
import type { HostProbes } from "../probes/host-probes.ts";
import type { ProbePathState } from "../probes/probe-path-watch.ts";
import type { FindBypasses } from "../redirection/pod-bypass.ts";
import type { ZdsConnection } from "../ztunnel/zds-connection.ts";
import type { ZdsServer } from "../ztunnel/zds-server.ts";
import type { RuntimeReport } from "./node-state-report.ts";
import type { ProcessFacts } from "./process-facts.ts";
import type { Readiness } from "./readiness.ts";

/** One copy of a collection. */
export type WatchFacts = Pick<
  Reflector<PodFacts>,
  "size" | "synced" | "lastContactMs" | "counts" | "isFresh"
>;

/** One connected ztunnel. */
export type ZdsConnectionFacts = Pick<
  ZdsConnection,
  "id" | "pid" | "connectedAt" | "phase" | "acknowledgedCount" | "pendingCount" | "refusedCount"
>;

/** Our entry in the CNI chain. */
export interface ChainFacts {
  /** File that holds our entry. */
  readonly configPath: string | undefined;
  readonly fault: string | undefined;
  readonly rewrites: number;
  readonly fights: number;
  readonly isFighting: boolean;
  /** Plugin types of the chain, in order. */
  readonly pluginTypes: readonly string[];
}

/** The last finding of a synthetic kubelet probe. */
export interface ProbePathFacts extends ProbePathState {
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

/** All parts that reports are made from. */
export interface AgentFacts {
  readonly config: AgentConfig;
  readonly backend: { readonly variant: string; readonly reason: string };
  /** The copies of the API server's objects. */
  readonly cluster: Pick<NodeState, "podByName"> & {
    readonly pods: WatchFacts & { values(): Iterable<PodFacts> };
    readonly namespaces: WatchFacts;
  };
  /** Pods of the node as the enrolment knows them; what it hands out is only read. */
  readonly enrolment: Pick<Enrolment, "record" | "desired" | "repairs"> & { records(): Iterable<PodStatus> };
  readonly history: PodHistory;
  readonly annotations: Pick<AnnotationWriter, "refusal">;
  /** Pods whose sidecar this agent serves. */
  readonly sidecars: Pick<Sidecars, "served" | "repairs" | "verify">;
  /** Reads a pod's redirection; writes nothing. */
  readonly redirection: CaptureMeans["redirection"];
  /** Looks for what stands before a pod's rules. */
  readonly bypasses?: FindBypasses | undefined;
  readonly ztunnel: Pick<ZdsServer, "ready" | "podCount" | "acceptedCount" | "holds" | "acknowledged"> & {
    /** Connections past their hello, the newest last. */
    readonly connections: readonly ZdsConnectionFacts[];
  };
  /** The host's side of kubelet probes. */
  readonly probes: Pick<HostProbes, "fault" | "addressesOf" | "verify"> & {
    readonly counts: Pick<HostProbes["counts"], "restored" | "failures">;
  };
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
