// SPDX-License-Identifier: Apache-2.0
// What ztunnel is told about a pod, and the list of pods every new ztunnel connection is told about.
import type { Netns } from "../linux/netns.ts";

/** The identity ztunnel gives a pod's traffic; empty strings are allowed, absence is not. */
export interface WorkloadInfo {
  readonly name: string;
  readonly namespace: string;
  readonly serviceAccount: string;
}

/** One pod of the roster. The namespace handle is borrowed: whoever made it closes it, after `remove`. */
export interface RosterEntry {
  readonly uid: string;
  readonly workload: WorkloadInfo;
  /** `undefined` while the pod's namespace is not known: a snapshot then says Keep instead of Add. */
  readonly netns: Netns | undefined;
}

/** The pods ztunnel should have, by UID: whoever walks over it sees those that come and go meanwhile. A namespace is in it at most once. */
export type Roster = ReadonlyMap<string, RosterEntry>;
