// SPDX-License-Identifier: Apache-2.0
// What was put back in enrolled pods: counted, logged, and told to whoever looks at the pod.
import type { EventRecorder } from "../kube/event-recorder.ts";
import type { Logger } from "../log/logger.ts";
import type { Drift } from "../redirect/fingerprint.ts";
import type { PodRecord } from "./pod-record.ts";

/** Keeps account of repairs. */
export class Repairs {
  readonly #events: EventRecorder;
  readonly #log: Logger;
  /** Repairs of enrolled pods by kind of drift, since the start. */
  readonly counts = new Map<string, number>();

  constructor({ events, log }: { readonly events: EventRecorder; readonly log: Logger }) {
    this.#events = events;
    this.#log = log;
  }

  /** Notes what was found changed in a pod and has been put back. */
  note(record: PodRecord, repaired: readonly Drift[]): void {
    const { uid, facts: pod, sandbox } = record;
    for (const { kind } of repaired) this.counts.set(kind, (this.counts.get(kind) ?? 0) + 1);
    this.#log.warn(
      { ns: pod?.namespace, pod: pod?.name, uid, netns: sandbox?.netns.key, drift: repaired },
      "repaired the redirection of a pod",
    );
    if (pod === undefined) return;
    const details = repaired.map(({ family, detail }) => `IPv${family}: ${detail}`).join("; ");
    const message = `The redirection of this pod had been changed and was put back: ${details}. Look for what writes network rules in it.`;
    this.#events.record(pod, { reason: "AmbientRepaired", message });
  }
}
