// SPDX-License-Identifier: Apache-2.0
// Kubernetes Events on pods: what an operator sees in `kubectl describe pod` before anyone opens a log.
import { cutText, putLast } from "../bounds/bounded.ts";
import { bounds } from "../bounds/bounds.ts";
import type { Logger } from "../log/logger.ts";
import { type Clock, systemClock } from "../loop/clock.ts";
import type { ApiClient } from "./api-client.ts";
import { ApiError } from "./api-error.ts";
import { recordOf, textOf } from "./json-fields.ts";
import type { PodIdentity } from "./pod-facts.ts";

/**
 * Reasons the agent gives; the first word names the mesh, or says that it is about a pod's own sidecar, so that they can be searched for.
 * - `AmbientNotCaptured`: a step failed, or the pod's sandbox is not found; it is tried again.
 * - `AmbientCannotVerify`: the pod's rules cannot be read or judged; it may well be captured, and is not taken out of the mesh.
 * - `AmbientRepaired`: somebody had changed the pod's redirection; it was put back.
 * - `AmbientRecaptured`: a CNI call had said that the pod's sandbox ended, which lives on; it is captured again.
 * - `AmbientMayBeBypassed`: something in the pod stands before our rules and can take its traffic past ztunnel; nothing is removed.
 * - `AmbientZtunnelRefused`: ztunnel does not take the pod; names who holds a port that ztunnel needs, if anybody does.
 * - `AmbientWaitingForZtunnel`: no ztunnel is connected.
 * - `AmbientProbesMayFail`: a synthetic kubelet probe did not pass ztunnel.
 * - `AmbientChainFight`: on the agent's own pod: another program keeps taking our entry out of the CNI chain.
 * - `SidecarNotRedirected`, `SidecarCannotVerify`, `SidecarRepaired`: as the first three, of a pod's redirection to its own sidecar.
 * - `DeleteBrokenPod`, `LabelBrokenPod`: a sidecar's pod started without its rules, and was deleted or labelled, or could not be.
 *   Source: istio/istio cni/pkg/repair/repaircontroller.go.
 * - `RepairBrokenPod`: the same where rules are written late, of which istio-cni says nothing.
 */
export type EventReason =
  | "AmbientNotCaptured"
  | "AmbientCannotVerify"
  | "AmbientRepaired"
  | "AmbientRecaptured"
  | "AmbientMayBeBypassed"
  | "AmbientZtunnelRefused"
  | "AmbientWaitingForZtunnel"
  | "AmbientProbesMayFail"
  | "AmbientChainFight"
  | "SidecarNotRedirected"
  | "SidecarCannotVerify"
  | "SidecarRepaired"
  | "DeleteBrokenPod"
  | "LabelBrokenPod"
  | "RepairBrokenPod";

/** What happened to a pod. The message has cause and remedy. */
export interface PodEvent {
  readonly reason: EventReason;
  readonly message: string;
}

/** What becomes of an Event; `dropped`: too many at once, `forbidden`: the API server grants no right to write it. */
export const eventResults = ["written", "repeated", "dropped", "failed", "forbidden"] as const;
export type EventResult = (typeof eventResults)[number];

export interface EventRecorderOptions {
  readonly client: Pick<ApiClient, "create" | "mergePatch">;
  readonly nodeName: string;
  readonly log: Logger;
  readonly clock?: Clock;
  readonly onresult?: (result: EventResult) => void;
  /** An event that says what the last one of its reason said only raises that one's count, this often. Default 60 s. */
  readonly repeatMs?: number;
  /** Writes at most this many events in a burst, and one a second after that. Default 25. */
  readonly burst?: number;
}

interface Written {
  /** Under which it is remembered. */
  readonly key: string;
  readonly reason: EventReason;
  readonly message: string;
  /** Known once the API server has named the Event. */
  path: string | undefined;
  count: number;
  atMs: number;
}

const component = "ambient-cni";
const maxRemembered = 1000;
const maxWaiting = 100;
const writeTimeoutMs = 5000;

/** Writes Events in the background; never throws and never makes its caller wait. */
export class EventRecorder {
  readonly #options: EventRecorderOptions;
  readonly #clock: Clock;
  readonly #repeatMs: number;
  readonly #burst: number;
  readonly #written = new Map<string, Written>();
  readonly #abort = new AbortController();
  #waiting = 0;
  #tokens: number;
  #refilledMs: number;
  #last: Promise<void> = Promise.resolve();

  constructor(options: EventRecorderOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#repeatMs = options.repeatMs ?? 60_000;
    this.#burst = options.burst ?? 25;
    this.#tokens = this.#burst;
    this.#refilledMs = this.#clock.nowMs();
  }

  /** Notes that something happened to a pod. */
  record(pod: PodIdentity, event: PodEvent): void {
    if (this.#abort.signal.aborted) return;
    const key = `${pod.uid} ${event.reason}`;
    const message = cutText(event.message, bounds.eventMessage);
    const earlier = this.#written.get(key);
    const isRepeat = earlier?.message === message;
    const nowMs = this.#clock.nowMs();
    if (isRepeat) {
      earlier.count++;
      if (nowMs - earlier.atMs < this.#repeatMs) return;
    }
    // those that wait for an API server that does not answer are old by the time it does
    if (this.#waiting >= maxWaiting || !this.#takeToken()) {
      this.#options.onresult?.("dropped");
      return;
    }
    // one after the other: the API server has more urgent work than ours
    if (isRepeat) {
      earlier.atMs = nowMs;
      this.#write(() => this.#repeat(pod, earlier));
    } else {
      const { reason } = event;
      const written: Written = { key, reason, message, path: undefined, count: 1, atMs: nowMs };
      putLast(this.#written, [key, written], maxRemembered);
      this.#write(() => this.#create(pod, written));
    }
  }

  #write(work: () => Promise<void>): void {
    this.#waiting++;
    this.#last = this.#last.then(work).finally(() => {
      this.#waiting--;
    });
  }

  /** Resolves when everything noted so far is written or given up. */
  idle(): Promise<void> {
    return this.#last;
  }

  /** Gives up what is not written yet. */
  stop(): void {
    this.#abort.abort();
  }

  async #create(pod: PodIdentity, written: Written): Promise<void> {
    const { client, nodeName } = this.#options;
    const { key, reason, message } = written;
    const now = new Date().toISOString();
    const folder = `/api/v1/namespaces/${encodeURIComponent(pod.namespace)}/events`;
    const body = {
      apiVersion: "v1",
      kind: "Event",
      // a name of its own, so that a request that is sent again does not make a second Event
      metadata: {
        name: `${pod.name.slice(0, 200)}.${process.hrtime.bigint().toString(16)}`,
        namespace: pod.namespace,
      },
      involvedObject: {
        apiVersion: "v1",
        kind: "Pod",
        namespace: pod.namespace,
        name: pod.name,
        uid: pod.uid,
      },
      type: reason === "AmbientRepaired" || reason === "SidecarRepaired" ? "Normal" : "Warning",
      reason,
      message,
      source: { component, host: nodeName },
      reportingComponent: component,
      reportingInstance: nodeName,
      firstTimestamp: now,
      lastTimestamp: now,
      count: 1,
    };
    await this.#attempt(
      { ns: pod.namespace, pod: pod.name, uid: pod.uid, event: reason, reason: message },
      async (signal) => {
        const answer = await client.create(folder, body, { signal });
        written.path = `${folder}/${encodeURIComponent(textOf(recordOf(recordOf(answer).metadata).name))}`;
        this.#options.onresult?.("written");
      },
    );
    if (written.path === undefined && this.#written.get(key) === written) this.#written.delete(key);
  }

  /** An API server keeps an Event for an hour: one that is over by then is written anew, or nobody would hear of it any more. */
  async #repeat(pod: PodIdentity, written: Written): Promise<void> {
    const { path } = written;
    if (path === undefined) return;
    const patch = { count: written.count, lastTimestamp: new Date().toISOString() };
    let isOver = false;
    await this.#attempt({ event: path, reason: written.message }, async (signal) => {
      const answer = this.#options.client.mergePatch(path, patch, { signal });
      isOver = await answer.then(() => false, isGone);
      if (!isOver) this.#options.onresult?.("repeated");
    });
    if (!isOver) return;
    Object.assign(written, { path: undefined, count: 1 });
    await this.#create(pod, written);
  }

  /** An Event that cannot be written is not worth a second try: the next one of its kind comes by itself. */
  async #attempt(about: object, write: (signal: AbortSignal) => Promise<void>): Promise<void> {
    if (this.#abort.signal.aborted) return;
    const { log } = this.#options;
    try {
      await write(AbortSignal.any([this.#abort.signal, AbortSignal.timeout(writeTimeoutMs)]));
    } catch (error) {
      if (isForbidden(error)) {
        this.#options.onresult?.("forbidden");
        // whoever would have read it in the pod's Events finds it here
        log.warn({ ...about, err: error }, "may not write an Event: it is only in this line");
      } else {
        this.#options.onresult?.("failed");
        log.debug({ ...about, err: error }, "cannot write an Event");
      }
    }
  }

  #takeToken(): boolean {
    const now = this.#clock.nowMs();
    this.#tokens = Math.min(this.#burst, this.#tokens + (now - this.#refilledMs) / 1000);
    this.#refilledMs = now;
    if (this.#tokens < 1) return false;
    this.#tokens--;
    return true;
  }
}

/** @throws what says anything else */
function isGone(error: unknown): boolean {
  if (error instanceof ApiError && error.isNotFound) return true;
  throw error;
}

/** Not that of a namespace that is just being deleted. Source: Kubernetes pkg/apis core/v1 NamespaceTerminatingCause. */
function isForbidden(error: unknown): boolean {
  return error instanceof ApiError && error.status === 403 && !error.causes.includes("NamespaceTerminating");
}
