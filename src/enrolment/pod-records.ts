// SPDX-License-Identifier: Apache-2.0
// All pods that the agent knows, by UID.
import type { PodFacts } from "../kube/pod-facts.ts";
import { createPodRecord, newestFacts, type PodRecord } from "./pod-record.ts";

/** The records of the node's pods. */
export class PodRecords {
  readonly #byUid = new Map<string, PodRecord>();

  get size(): number {
    return this.#byUid.size;
  }

  get(uid: string): PodRecord | undefined {
    return this.#byUid.get(uid);
  }

  has(uid: string): boolean {
    return this.#byUid.has(uid);
  }

  keys(): IterableIterator<string> {
    return this.#byUid.keys();
  }

  values(): IterableIterator<PodRecord> {
    return this.#byUid.values();
  }

  delete(uid: string): void {
    this.#byUid.delete(uid);
  }

  clear(): void {
    this.#byUid.clear();
  }

  /** The record of a pod, made if need be, with these facts unless it has newer ones. */
  note(pod: PodFacts): PodRecord {
    let record = this.#byUid.get(pod.uid);
    if (record === undefined) {
      record = createPodRecord(pod.uid);
      this.#byUid.set(pod.uid, record);
    }
    record.facts = newestFacts(record.facts, pod);
    return record;
  }

  /** The pod whose sandbox is this container, as far as the runtime has named it. */
  ofContainer(containerId: string): PodRecord | undefined {
    if (containerId === "") return undefined;
    return [...this.#byUid.values()].find((record) => record.sandbox?.containerId === containerId);
  }
}
