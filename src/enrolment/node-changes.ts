// SPDX-License-Identifier: Apache-2.0
// What the API server and ztunnel tell of, as messages to the pods that it is about, and requests for looks at them.
import { isAnnouncementAlone, type PodFacts } from "../kube/pod-facts.ts";
import type { KeyedQueue } from "../loop/keyed-queue.ts";
import type { EnrolmentOptions } from "./enrolment-options.ts";
import type { PodRecords } from "./pod-records.ts";
import type { Message } from "./workload.ts";

/** Whom to listen to, and whom to tell. */
export interface NodeChangesOptions
  extends Pick<EnrolmentOptions, "ztunnel" | "node" | "annotations" | "history" | "clock"> {
  readonly records: PodRecords;
  readonly queue: Pick<KeyedQueue<unknown>, "request" | "requestWithin" | "isBusy">;
  /** Before stock is taken, and when it is over, nothing is passed on. */
  readonly isStarted: () => boolean;
  readonly tell: (uid: string, message: Message) => void;
  readonly requestAll: () => void;
}

/** Of the pods of a namespace whose labels change so many begin at once; the others begin when these, begun alone, are about done. */
const FIRST_PODS = 4;
const OTHERS_AFTER_MS = 12;

/** Takes the callbacks of node and ztunnel. */
export function listenToNode(options: NodeChangesOptions): void {
  const { ztunnel, node, annotations, records, queue, history, clock, isStarted, tell, requestAll } = options;
  ztunnel.onchange = (event) => {
    if (event.type !== "disconnected") {
      for (const { uid, waiters } of records.values())
        if (waiters.size > 0) queue.request(uid, { isUrgent: true });
    }
    // what the snapshot carried is acknowledged by now; what it did not is handed over by the runs
    // and what only a ztunnel that has left was told is handed to the one that stays
    const isOther = event.type === "disconnected" && event.connections > 0;
    if (event.type === "snapshot" || isOther) requestAll();
  };
  /** Of a captured pod its own annotation comes back to us: nothing is to be done, and a look at its namespace takes a dozen questions. */
  const isOwnWord = (pod: PodFacts): boolean => {
    const record = records.get(pod.uid);
    // a run that is under way, or asked for, reads it itself
    if (record?.facts === undefined || record.isBehind || queue.isBusy(pod.uid)) return false;
    return record.workload.phase.at === "captured" && isAnnouncementAlone(record.facts, pod);
  };
  const podChanged = (uid: string, pod: PodFacts | undefined): void => {
    if (!isStarted() || (pod === undefined && !records.has(uid))) return;
    if (pod !== undefined && isOwnWord(pod)) {
      const record = records.of(uid);
      record.put({ type: "facts", pod });
      record.read(clock.nowMs());
      return;
    }
    if (pod !== undefined) history.asked(uid);
    tell(uid, { type: "facts", pod });
  };
  node.onPodChange((change) => podChanged((change.current ?? change.previous).uid, change.current));
  node.onsetback = () => {
    annotations.forgetVersions();
    for (const { uid } of isStarted() ? records.values() : []) tell(uid, { type: "set-back" });
  };
  // a pod known from its ADD alone, and deleted while the watch was broken, is in no list and no event
  node.pods.onlist = () => {
    if (isStarted()) for (const uid of records.missingFrom(node.pods)) podChanged(uid, undefined);
  };
  node.onNamespaceChange((change) => {
    const { name } = change.current ?? change.previous;
    let count = 0;
    for (const { uid, facts } of isStarted() ? records.values() : []) {
      if (facts?.namespace !== name) continue;
      history.asked(uid);
      if (count++ < FIRST_PODS) queue.request(uid);
      else queue.requestWithin(uid, OTHERS_AFTER_MS);
    }
  });
}
