// SPDX-License-Identifier: Apache-2.0
// The records of all pods by UID, and which of them a CNI call is about.
import type { Place } from "./attachments.ts";
import type { EnrolmentOptions } from "./enrolment-options.ts";
import { PodRecord } from "./pod-record.ts";

/** All pods that the agent keeps something of. */
export class PodRecords extends Map<string, PodRecord> {
  /** The pod's record, made if there is none. */
  of(uid: string): PodRecord {
    let record = this.get(uid);
    if (record === undefined) {
      record = new PodRecord(uid);
      this.set(uid, record);
    }
    return record;
  }

  /** The pod that a CNI call names, by what ADD told of its sandbox, its UID, its sandbox or its namespace. */
  find(
    named: { readonly uid: string; readonly containerId: string; readonly netnsKey: string | undefined },
    place: Place | undefined,
  ): PodRecord | undefined {
    const known = this.get(place?.uid ?? named.uid);
    if (known !== undefined) return known;
    const { containerId, netnsKey } = named;
    for (const record of this.values()) {
      const { sandbox } = record;
      if (sandbox === undefined) continue;
      const isContainer = containerId !== "" && sandbox.containerId === containerId;
      if (isContainer || (netnsKey !== undefined && netnsKey === sandbox.netns.key)) return record;
    }
    return undefined;
  }

  /** Whether a namespace is another pod's than this one's. @param told.ownerOf the pod of which ADD told so */
  isOwned(
    netnsKey: string,
    { uid, ownerOf }: { readonly uid: string; readonly ownerOf: (netnsKey: string) => string | undefined },
  ): boolean {
    for (const record of this.values())
      if (record.uid !== uid && record.sandbox?.netns.key === netnsKey) return true;
    return (ownerOf(netnsKey) ?? uid) !== uid;
  }

  /** Closes whatever they own, and forgets them. */
  close(nowMs: number): void {
    for (const record of this.values()) record.close(nowMs);
    this.clear();
  }

  /** Whether an ADD under way is about this sandbox. */
  isAwaited(place: Place | undefined): boolean {
    if (place === undefined) return false;
    return [...(this.get(place.uid)?.waiters ?? [])].some(({ netnsKey }) => netnsKey === place.netnsKey);
  }

  /** Pods that are not outside and carry our annotation, or may. */
  announced(annotations: EnrolmentOptions["annotations"]): PodRecord[] {
    return [...this.values()].filter(({ uid, facts, workload: { phase } }) => {
      if (facts === undefined || phase.at === "outside") return false;
      return annotations.isWriting(uid) || annotations.isAnnotated(facts);
    });
  }

  /** Pods that were deleted, by a list that is newer than what is known of them and does not have them. */
  missingFrom(pods: EnrolmentOptions["node"]["pods"]): string[] {
    return [...this.values()]
      .filter(({ uid, facts, waiters }) => {
        const isGone = facts !== undefined && waiters.size === 0 && pods.get(uid) === undefined;
        return isGone && pods.hasListedSince(facts.resourceVersion);
      })
      .map(({ uid }) => uid);
  }
}

/** What a message says of the sandbox that it is about. */
export function about({ containerId, netnsKey }: { containerId: string; netnsKey: string | undefined }) {
  return { containerId, netnsKey };
}
