// SPDX-License-Identifier: Apache-2.0
// Writes the redirection annotation for istiod and people: in the background, once per wish, until it holds.

import { putLast } from "../bounds/bounded.ts";
import type { Logger } from "../log/logger.ts";
import { Backoff } from "../loop/backoff.ts";
import { type Clock, systemClock } from "../loop/clock.ts";
import { KeyedQueue } from "../loop/keyed-queue.ts";
import { type ApiClient, podPath } from "./api-client.ts";
import { ApiError } from "./api-error.ts";
import { recordOf, textOf } from "./json-fields.ts";
import { compareVersions } from "./object-cache.ts";
import { type PodFacts, type PodIdentity, podAnnotations } from "./pod-facts.ts";

/** What the annotation should say; null takes it away. */
export type RedirectionStatus = "enabled" | "pending" | null;

export interface AnnotationWriterOptions {
  readonly client: Pick<ApiClient, "mergePatch">;
  /** The pod as last seen by the watch. */
  readonly lookup: (uid: string) => PodFacts | undefined;
  readonly log: Logger;
  readonly clock?: Clock;
  readonly backoff?: { readonly baseMs?: number; readonly capMs?: number };
}

/** Counts since the start; `gone` are writes to pods that no longer exist. */
export interface AnnotationCounts {
  written: number;
  skipped: number;
  retried: number;
  gone: number;
}

/** What the API server said last of a value that it does not take. */
export interface AnnotationRefusal {
  /** ISO time. */
  readonly at: string;
  readonly message: string;
  /** Failures in a row. */
  readonly attempts: number;
}

interface Job {
  readonly pod: PodIdentity;
  readonly backoff: Backoff;
  wanted: RedirectionStatus;
  inFlight: boolean;
  refusal: AnnotationRefusal | undefined;
  /** Nobody wants the value any more; the job ends with the write in flight. */
  dropped: boolean;
}

/** Writes at once over all pods. */
const parallel = 4;
const maxRemembered = 2000;

/** Brings the annotation of pods to the last wanted value; never throws and never makes its caller wait. */
export class AnnotationWriter {
  readonly counts: AnnotationCounts = { written: 0, skipped: 0, retried: 0, gone: 0 };
  readonly #options: AnnotationWriterOptions;
  readonly #abort = new AbortController();
  readonly #jobs = new Map<string, Job>();
  readonly #queue: KeyedQueue<void>;
  readonly #written = new Map<string, { value: RedirectionStatus; version: string }>();
  #idle = Promise.withResolvers<void>();

  constructor(options: AnnotationWriterOptions) {
    this.#options = options;
    const { clock = systemClock } = options;
    this.#queue = new KeyedQueue({ concurrency: parallel, clock, run: (uid) => this.#run(uid) });
    this.#idle.resolve();
  }

  /** Pods whose annotation is not yet as wanted. */
  get pending(): number {
    return this.#jobs.size;
  }

  /** Notes the wanted value; the write follows in the background, unless the annotation is known to have it already. */
  set(pod: PodIdentity, value: RedirectionStatus): void {
    if (this.#abort.signal.aborted) return;
    const job = this.#jobs.get(pod.uid);
    if (job !== undefined) {
      job.wanted = value;
      job.dropped = false;
      return;
    }
    if (this.#known(pod.uid) === value) {
      this.counts.skipped += 1;
      return;
    }
    if (this.#jobs.size === 0) this.#idle = Promise.withResolvers<void>();
    const { uid, namespace, name } = pod;
    const created: Job = {
      pod: { uid, namespace, name },
      backoff: new Backoff(this.#options.backoff),
      wanted: value,
      inFlight: false,
      refusal: undefined,
      dropped: false,
    };
    this.#jobs.set(pod.uid, created);
    this.#queue.request(uid);
  }

  /** Whether a write to this pod is under way, or waits for its turn. */
  isWriting(uid: string): boolean {
    return this.#jobs.has(uid);
  }

  /** Why the pod has not the annotation that it should have; `undefined`: it has, or nobody refused it. */
  refusal(uid: string): AnnotationRefusal | undefined {
    return this.#jobs.get(uid)?.refusal;
  }

  /** Whether the pod carries the annotation, or will once everything wanted is written. */
  isAnnotated(pod: PodFacts): boolean {
    const job = this.#jobs.get(pod.uid);
    if (job !== undefined) return job.wanted !== null;
    const known = this.#known(pod.uid);
    // a pod that the watch has not shown yet is known by what its ADD brought
    return known === undefined ? pod.annotations[podAnnotations.redirection] !== undefined : known !== null;
  }

  /** Drops what is remembered and wanted for a pod that is gone. */
  forget(uid: string): void {
    this.#written.delete(uid);
    const job = this.#jobs.get(uid);
    if (job?.inFlight === true) job.dropped = true;
    else if (job !== undefined) this.#finish(job);
  }

  /** The store was set back: what the watch shows counts from now on, however old it seems beside what we wrote. */
  forgetVersions(): void {
    this.#written.clear();
  }

  /** Resolves when every wanted value has been written or given up. */
  idle(): Promise<void> {
    return this.#idle.promise;
  }

  /** Gives up all writes; later wishes are ignored. */
  stop(): void {
    this.#abort.abort();
    void this.#queue.stop();
    for (const job of [...this.#jobs.values()]) this.#finish(job);
  }

  /**
   * The annotation as far as anybody can know: our own last write, until the watch shows a later state.
   * Undefined when neither tells.
   */
  #known(uid: string): RedirectionStatus | undefined {
    const seen = this.#options.lookup(uid);
    const written = this.#written.get(uid);
    if (seen === undefined) return written?.value;
    if (written !== undefined && (compareVersions(seen.resourceVersion, written.version) ?? 0) < 0)
      return written.value;
    this.#written.delete(uid);
    const value = seen.annotations[podAnnotations.redirection];
    if (value === undefined) return null;
    return value === "enabled" || value === "pending" ? value : undefined;
  }

  async #run(uid: string): Promise<void> {
    const job = this.#jobs.get(uid);
    if (job === undefined) return;
    const value = job.wanted;
    // After a failure nobody knows whether the write took effect, so only a first try may be spared.
    if (job.backoff.failures === 0 && this.#known(uid) === value) {
      this.counts.skipped += 1;
      this.#finish(job);
      return;
    }
    job.inFlight = true;
    const outcome = await this.#write(job.pod, value).then(
      (version) => ({ version }),
      (error: unknown) => ({ error }),
    );
    job.inFlight = false;
    if (this.#jobs.get(uid) !== job) return;
    if (job.dropped) this.#finish(job);
    else if ("error" in outcome) this.#onFailure(job, outcome.error);
    else {
      putLast(this.#written, [uid, { value, version: outcome.version }], maxRemembered);
      job.backoff.reset();
      job.refusal = undefined;
      if (job.wanted === value) this.#finish(job);
      else this.#queue.request(uid);
    }
  }

  /** @returns the pod's version with it */
  async #write({ namespace, name, uid }: PodIdentity, value: RedirectionStatus): Promise<string> {
    const answer = await this.#options.client.mergePatch(
      podPath(namespace, name, "status"),
      // The UID makes the server refuse when another pod has taken the name.
      { metadata: { uid, annotations: { [podAnnotations.redirection]: value } } },
      { signal: this.#abort.signal },
    );
    this.counts.written += 1;
    return textOf(recordOf(recordOf(answer).metadata).resourceVersion);
  }

  #onFailure(job: Job, error: unknown): void {
    const { log } = this.#options;
    const { namespace, name } = job.pod;
    if (isPodGone(error)) {
      this.counts.gone += 1;
      log.debug({ namespace, pod: name }, "pod is gone, its annotation needs no write");
      this.#written.delete(job.pod.uid);
      this.#finish(job);
      return;
    }
    this.counts.retried += 1;
    const attempts = job.backoff.failures + 1;
    const fields = { err: error, namespace, pod: name, failures: attempts };
    // not for good: an admission policy says it, and is changed, and a pod that is still announced must not leave the mesh
    const isRefused = error instanceof ApiError && [400, 403, 422].includes(error.status);
    if (isRefused && job.refusal === undefined)
      log.error(fields, "the API server refuses the redirection annotation; trying again");
    else if (attempts === 2 && !isRefused)
      log.warn(fields, "cannot write the redirection annotation; trying again");
    else log.debug(fields, "cannot write the redirection annotation; trying again");
    if (isRefused) job.refusal = { at: new Date().toISOString(), message: error.message, attempts };
    const retryAfterMs = error instanceof ApiError ? (error.retryAfterMs ?? 0) : 0;
    const pauseMs = Math.max(job.backoff.nextMs(), Math.min(retryAfterMs, 30_000));
    this.#queue.requestAfter(job.pod.uid, pauseMs);
  }

  #finish(job: Job): void {
    this.#jobs.delete(job.pod.uid);
    if (this.#jobs.size === 0) this.#idle.resolve();
  }
}

/**
 * The pod no longer exists, or another one has its name.
 * Source: Kubernetes apimachinery ValidateObjectMetaUpdate (metadata.uid is immutable: 422);
 * newer servers check the UID as a precondition (409).
 */
export function isPodGone(error: unknown): boolean {
  if (!(error instanceof ApiError)) return false;
  if (error.isNotFound) return true;
  if (error.status === 422) return error.fields.includes("metadata.uid");
  return error.status === 409 && /precondition.*uid/i.test(error.message);
}
