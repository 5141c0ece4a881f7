// SPDX-License-Identifier: Apache-2.0
// What the API server and ztunnel tell of, as messages to the pods that it is about, and requests for looks at them.
import { isAnnouncementAlone, type PodFacts } from "../kube/pod-facts.ts";
import type { KeyedQueue } from "../loop/keyed-queue.ts";
import type { EnrolmentOptions } from "./enrolment-options.ts";
import type { PodRecords } from "./pod-records.ts";
import type { Message } from "./workload.ts";

/** Whom to listen to, and whom to tell. */
export interface NodeChangesOptions extends Pick<EnrolmentOptions, "ztunnel" | "node" | "history" | "clock"> {
  readonly records: PodRecords;
  readonly queue: Pick<KeyedQueue<unknown>, "request" | "isBusy">;
  /** Before stock is taken, and when it is over, nothing is passed on. */
  readonly isStarted: () => boolean;
  readonly tell: (uid: string, message: Message) => void;
  readonly requestAll: () => void;
}

/** Listens from `listen` on. */
export class NodeChanges {
  readonly #options: NodeChangesOptions;

  constructor(options: NodeChangesOptions) {
    this.#options = options;
  }

  /** Takes the callbacks of node and ztunnel. */
  listen(): void {
    const { ztunnel, node } = this.#options;
    ztunnel.onchange = (event) => {
      if (event.type !== "disconnected") {
        for (const { uid, waiters } of this.#options.records.values())
          if (waiters.size > 0) this.#options.queue.request(uid, { isUrgent: true });
      }
      // what the snapshot carried is acknowledged by now; what it did not is handed over by the runs
      // and what only a ztunnel that has left was told is handed to the one that stays
      const isOther = event.type === "disconnected" && event.connections > 0;
      if (event.type === "snapshot" || isOther) this.#options.requestAll();
    };
    node.onPodChange((change) => this.#podChanged((change.current ?? change.previous).uid, change.current));
    node.pods.onlist = () => this.#podsListed();
    node.onNamespaceChange((change) => this.#namespaceChanged((change.current ?? change.previous).name));
  }

  #podChanged(uid: string, pod: PodFacts | undefined): void {
    if (!this.#options.isStarted()) return;
    if (pod === undefined && !this.#options.records.has(uid)) return;
    if (pod !== undefined && this.#isOwnWord(pod)) {
      const record = this.#options.records.of(uid);
      record.put({ type: "facts", pod });
      record.read(this.#options.clock.nowMs());
      return;
    }
    if (pod !== undefined) this.#options.history.asked(uid);
    this.#options.tell(uid, { type: "facts", pod });
  }

  /** Of a captured pod its own annotation comes back to us: nothing is to be done, and a look at its namespace takes a dozen questions. */
  #isOwnWord(pod: PodFacts): boolean {
    const record = this.#options.records.get(pod.uid);
    // a run that is under way, or asked for, reads it itself
    if (record?.facts === undefined || record.isBehind || this.#options.queue.isBusy(pod.uid)) return false;
    return record.workload.phase.at === "captured" && isAnnouncementAlone(record.facts, pod);
  }

  /** A pod known from its ADD alone, and deleted while the watch was broken, is in no list and no event. */
  #podsListed(): void {
    if (!this.#options.isStarted()) return;
    for (const uid of this.#options.records.missingFrom(this.#options.node.pods))
      this.#podChanged(uid, undefined);
  }

  #namespaceChanged(name: string): void {
    if (!this.#options.isStarted()) return;
    for (const record of this.#options.records.values()) {
      if (record.facts?.namespace !== name) continue;
      this.#options.history.asked(record.uid);
      this.#options.queue.request(record.uid);
    }
  }
}
