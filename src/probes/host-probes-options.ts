// SPDX-License-Identifier: Apache-2.0
// What the keeper of the host's probes is told, and what it tells.
import type { Logger } from "../log/logger.ts";
import type { Clock } from "../loop/clock.ts";
import type { ListenToHost } from "./host-ears.ts";
import type { HostStateOptions } from "./host-state.ts";

/** Which host, and which processes' connections count as probes there. */
export interface HostProbesOptions extends HostStateOptions {
  /** Path of the host's namespace. */
  readonly hostNetnsPath: string;
  /** PROBE_MATCH: which host processes' connections count as probes; default "any". */
  readonly match?: "any" | "kubelet";
  /** /proc of the host, to find the kubelet in; default /proc. */
  readonly procRoot?: string;
  readonly log: Logger;
  /**
   * Whether a pod is known not to be in the mesh (deleted, or its labels do not ask for it): entries that an earlier agent
   * left of it go. False while that cannot be told. Default: never.
   */
  readonly isOutside?: (uid: string) => boolean;
  /** What is wrong, or that nothing is any more; called once after the first attempt and then on every change. */
  readonly onstate: (fault: string | undefined) => void;
  /**
   * How often the host is looked at without a reason where nobody listens to it, default 3 s: what somebody flushed is back within 5 s,
   * also on a slow machine. A look without a difference costs no process. Where the kernel takes long to show the rules, they are looked at less often.
   */
  readonly intervalMs?: number;
  /** Hears of the host: what is announced is looked at at once, and the sets of ipset are asked about. Default: nobody listens. */
  readonly listen?: ListenToHost | undefined;
  readonly clock?: Clock;
}

/** What has happened so far. */
export interface ProbeCounts {
  /** Times that sets or rules had been changed by somebody and were put right. */
  readonly restored: number;
  /** Times that the host was found, or brought, as it should be. */
  readonly reasserted: number;
  readonly failures: number;
  /** Runs of `ipset restore`, and batches of entries that the kernel took without it. */
  readonly setWrites: number;
  /** Batches of rules, or runs of iptables-restore. */
  readonly ruleWrites: number;
}
