// SPDX-License-Identifier: Apache-2.0
// Looks at pods with a sidecar now and then: what somebody changed of the rules that their ADD wrote is put right.
import { cutText } from "../bounds/bounded.ts";
import type { EventRecorder, PodEvent } from "../kube/event-recorder.ts";
import type { PodFacts } from "../kube/pod-facts.ts";
import type { Netns } from "../linux/netns.ts";
import type { Logger } from "../log/logger.ts";
import type { Clock } from "../loop/clock.ts";
import { KeepTrue } from "../loop/keep-true.ts";
import { forEachLimited } from "../loop/limit.ts";
import type { SidecarDrift } from "../redirection/sidecar-redirection.ts";
import type { Attachments, Place } from "./attachments.ts";
import { logRemedy } from "./failure.ts";
import { openPlace } from "./place.ts";
import type { PodFailure } from "./pod-history.ts";
import type { SidecarRecords, SidecarSetback } from "./sidecar-records.ts";
import type { Sidecars } from "./sidecars.ts";

export interface SidecarLooksOptions {
  readonly pods: { values(): Iterable<PodFacts> };
  readonly sidecars: Pick<Sidecars, "awaitsRules" | "apply">;
  /** Whose ADD this node's agent answered, and where: rules that another program wrote are that program's to mend. */
  readonly attachments: Pick<Attachments, "placeOf">;
  /** Where the pods stand: {@link Sidecars.apply} tells it, a look adds what it alone can know. */
  readonly records: Pick<SidecarRecords, "of" | "failed" | "mended" | "keepOnly">;
  /** Finds the namespace of a pod whose rules were written without an ADD: a repaired one. The handle is the caller's to close. */
  readonly find: (pod: PodFacts) => Promise<Netns | undefined>;
  /** An ADD that fails is told by kubelet in an Event of its own. */
  readonly events: Pick<EventRecorder, "record">;
  /** Below which paths of the runtime are seen. */
  readonly hostRoot: string;
  readonly intervalMs: number;
  readonly log: Logger;
  readonly clock?: Clock;
}

/** What a look may take of one pod, in ms. */
const POD_MS = 10_000;

/** Of what an Event repeats; all of it is in the log. */
const DETAILS = { bytes: 600 };

/** Pods at a time: one that makes its namespace slow holds up none of the others. */
const LOOKS = 4;

/** Looks at a few pods at a time; what fails of one is said once and tried again with the next look. */
export class SidecarLooks {
  readonly #options: SidecarLooksOptions;
  readonly #looks: KeepTrue;
  /** By UID, why rules of an earlier agent still stand beside ours, as it was told. */
  readonly #leftovers = new Map<string, string>();

  constructor(options: SidecarLooksOptions) {
    this.#options = options;
    const { intervalMs: longestMs, clock } = options;
    this.#looks = new KeepTrue({ work: (signal) => this.#look(signal), longestMs, jitter: 0.25, clock });
  }

  start(): void {
    this.#looks.request().catch(() => {});
  }

  async stop(): Promise<void> {
    await this.#looks.stop();
  }

  async #look(stopped: AbortSignal): Promise<void> {
    const { pods, sidecars, attachments, records } = this.#options;
    const served = [...pods.values()].filter(
      (pod) => sidecars.awaitsRules(pod) && pod.deletionTimestamp !== true,
    );
    const known = new Set(served.map(({ uid }) => uid));
    const look = async (pod: PodFacts): Promise<void> => {
      if (stopped.aborted) return;
      const place = attachments.placeOf(pod.uid);
      if (place !== undefined || records.of(pod.uid)?.look !== undefined)
        await this.#lookAt(pod, place, stopped);
    };
    await forEachLimited(served, look, { places: LOOKS });
    if (stopped.aborted) return;
    records.keepOnly(known);
    for (const uid of this.#leftovers.keys()) if (!known.has(uid)) this.#leftovers.delete(uid);
  }

  async #lookAt(pod: PodFacts, place: Place | undefined, stopped: AbortSignal): Promise<void> {
    const { sidecars, records, hostRoot, find, log } = this.#options;
    const { namespace: ns, name, uid } = pod;
    using netns = place === undefined ? await find(pod) : openPlace(place, hostRoot);
    if (netns === undefined) return records.failed(uid, awayFrom(place), 0);
    const before = records.of(uid)?.failure;
    try {
      const signal = AbortSignal.any([stopped, AbortSignal.timeout(POD_MS)]);
      const { repaired, leftoverFault } = await sidecars.apply(pod, netns, { signal });
      this.#tellLeftover(pod, leftoverFault);
      if (repaired.length > 0) this.#mended(pod, repaired);
    } catch (error) {
      const { failure, state } = records.of(uid) ?? {};
      if (stopped.aborted || (failure !== undefined && failure.message === before?.message)) return;
      const { message: reason } = error as Error;
      log.warn({ ns, pod: name, uid, reason }, "cannot look after a sidecar's rules; trying again");
      if (failure !== undefined) this.#options.events.record(pod, eventOf(failure, state === "failed"));
    }
  }

  /** Once, until something else is wrong or nothing is. */
  #tellLeftover({ namespace: ns, name, uid }: PodFacts, reason: string | undefined): void {
    if (this.#leftovers.get(uid) === reason) return;
    if (reason === undefined) {
      this.#leftovers.delete(uid);
      return;
    }
    this.#leftovers.set(uid, reason);
    this.#options.log.warn(
      { ns, pod: name, uid, reason },
      "rules of an earlier agent still stand beside a sidecar's; trying again",
    );
  }

  #mended(pod: PodFacts, repaired: readonly SidecarDrift[]): void {
    const { records, events, log } = this.#options;
    const { namespace: ns, name, uid } = pod;
    records.mended(repaired);
    log.warn(
      { ns, pod: name, uid, drift: repaired },
      "a sidecar's rules were changed by somebody and are right again",
    );
    const details = repaired.map(({ family, detail }) => `IPv${family}: ${detail}`).join("; ");
    events.record(pod, {
      reason: "SidecarRepaired",
      message: `The redirection of this pod to its sidecar had been changed and was put back: ${cutText(details, DETAILS)}. Look for what writes network rules in it.`,
    });
  }
}

function eventOf({ message, remedy }: PodFailure, isWrong: boolean): PodEvent {
  return isWrong
    ? {
        reason: "SidecarNotRedirected",
        message: `Not redirected to its sidecar as it should be: ${message}; ${remedy}`,
      }
    : {
        reason: "SidecarCannotVerify",
        message: `Cannot verify whether this pod is redirected to its sidecar: ${message}; ${remedy}. It is left as it is until that can be told`,
      };
}

/** Its runtime has taken the namespace away, and may be making another. */
function awayFrom(place: Place | undefined): SidecarSetback {
  const message =
    place === undefined
      ? "no process of it is found on this node in a namespace that has its address"
      : `network namespace ${place.netnsKey} is not at "${place.netnsPath}" any more`;
  return { state: "unverified", kind: "sandbox", message, remedy: logRemedy };
}
