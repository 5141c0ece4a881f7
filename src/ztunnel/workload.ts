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

/** The pods ztunnel should have, by UID. A namespace is in it at most once. */
export class Roster {
  readonly #entries = new Map<string, RosterEntry>();

  get size(): number {
    return this.#entries.size;
  }

  get(uid: string): RosterEntry | undefined {
    return this.#entries.get(uid);
  }

  /** Live: sees pods that come and go during the iteration. */
  uids(): IterableIterator<string> {
    return this.#entries.keys();
  }

  /** Adds or replaces a pod. @returns the UIDs that held the same namespace until now; they are taken out */
  set(entry: RosterEntry): string[] {
    const evicted: string[] = [];
    for (const other of this.#entries.values()) {
      if (other.uid !== entry.uid && entry.netns !== undefined && other.netns?.key === entry.netns.key) {
        evicted.push(other.uid);
      }
    }
    for (const uid of evicted) this.#entries.delete(uid);
    this.#entries.set(entry.uid, entry);
    return evicted;
  }

  delete(uid: string): boolean {
    return this.#entries.delete(uid);
  }
}
