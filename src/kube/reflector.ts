// SPDX-License-Identifier: Apache-2.0
// Keeps a copy of a collection true: list, watch from there, and come back from every kind of failure.

import { isTold } from "../bounds/bounded.ts";
import { bounds } from "../bounds/bounds.ts";
import { type Clock, systemClock, type Timer } from "../loop/clock.ts";
import { Turns } from "../loop/turns.ts";
import type { WatchEvent } from "./api-client.ts";
import { recordOf, wordOf } from "./json-fields.ts";
import { compareVersions, type Keyed, laterVersion, ObjectCache, type ObjectChange } from "./object-cache.ts";
import type { ReflectorCounts, ReflectorOptions } from "./reflector-options.ts";
import { WatchFailures } from "./watch-failures.ts";

/** Watches that live shorter than this and bring nothing new count as failures, or a rude server would be hammered. */
const shortestWatchMs = 1000;

/** Least time between two lists that somebody asks for. */
const relistIntervalMs = 10_000;

/** A cache of one collection that maintains itself between `start` and `stop`. */
export class Reflector<T extends Keyed> {
  readonly counts: ReflectorCounts = { lists: 0, watches: 0, failures: 0, events: 0, ignoredEvents: 0 };
  readonly #options: ReflectorOptions<T>;
  readonly #clock: Clock;
  readonly #random: () => number;
  readonly #failures: WatchFailures;
  readonly #cache: ObjectCache<T>;
  readonly #listeners = new Set<(change: ObjectChange<T>) => void>();
  readonly #abort = new AbortController();
  readonly #synced = Promise.withResolvers<void>();
  #loop: Promise<void> | undefined;
  #version: string | undefined;
  #listedVersion: string | undefined;
  /** A list is to come before the next watch, although there is a version. */
  #mustList = false;
  #lastRelistMs = Number.NEGATIVE_INFINITY;
  /** Ends the watch under way. */
  #endWatch: (why: Error) => void = () => {};
  #connected = false;
  #isSynced = false;
  #lastContactMs: number | undefined;
  /** Objects of events that were not converted. */
  #droppedEvents = 0;

  constructor(options: ReflectorOptions<T>) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#random = options.random ?? Math.random;
    this.#failures = new WatchFailures({
      what: options.what,
      log: options.log,
      clock: this.#clock,
      random: this.#random,
      backoff: options.backoff,
    });
    this.#cache = new ObjectCache(options.same);
  }

  /** Whether a whole list has been taken in, and told, since the start. */
  get synced(): boolean {
    return this.#isSynced;
  }

  /** When the server was last heard, on the clock's scale; undefined before the first time. */
  get lastContactMs(): number | undefined {
    return this.#lastContactMs;
  }

  /** The latest version that was seen; undefined before the first. */
  get version(): string | undefined {
    return this.#version;
  }

  get size(): number {
    return this.#cache.size;
  }

  /** Whether the copy can be relied on: complete, its watch not known to be broken, and heard of within `maxAgeMs`. */
  isFresh(maxAgeMs: number): boolean {
    return this.#isSynced && this.#connected && this.heardWithin(maxAgeMs);
  }

  /** Whether the server was heard within `maxAgeMs`, whatever has become of the watch since. */
  heardWithin(maxAgeMs: number): boolean {
    return this.#lastContactMs !== undefined && this.#clock.nowMs() - this.#lastContactMs <= maxAgeMs;
  }

  /**
   * Whether an object seen elsewhere at this version, which is not in the copy, is known to be deleted: a later list did not
   * have it. An object that came and went while the watch was broken is never announced.
   */
  hasListedSince(resourceVersion: string): boolean {
    const listed = this.#listedVersion;
    return listed !== undefined && (compareVersions(listed, resourceVersion) ?? -1) >= 0;
  }

  /**
   * Whether the server has an object that it cannot have: older than the copy, which has not got it. Then its store was set back to a
   * backup, and a watch from our version is silent until it has caught up. Source: kubernetes/kubernetes issue 107457.
   */
  isContradictedBy({ key, resourceVersion }: Keyed): boolean {
    const version = this.#version;
    if (version === undefined || this.#cache.get(key) !== undefined) return false;
    return (compareVersions(resourceVersion, version) ?? 1) <= 0;
  }

  /** Does not believe the copy until it is listed anew, which is now. @returns false where it was for the same reason just before */
  relist(why: string): boolean {
    const nowMs = this.#clock.nowMs();
    if (this.#mustList || nowMs - this.#lastRelistMs < relistIntervalMs) return false;
    this.#lastRelistMs = nowMs;
    this.#mustList = true;
    this.#connected = false;
    this.#endWatch(new Error(why));
    return true;
  }

  /** Called after each complete list, when its changes have been told. */
  onlist: () => void = () => {};

  /** Called when the server has accepted a watch, which may have failed before. */
  onopen: (hasFailed: boolean) => void = () => {};

  /** Cuts a pause after a failure short, because somebody else was answered: the server is back. */
  retrySoon(): void {
    this.#failures.retrySoon();
  }

  get(key: string): T | undefined {
    return this.#cache.get(key);
  }

  values(): IterableIterator<T> {
    return this.#cache.values();
  }

  /** Calls back for each change from now on, after the cache has it; returns the way to stop that. */
  subscribe(listener: (change: ObjectChange<T>) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Begins to list and watch; a second call does nothing. */
  start(): void {
    this.#loop ??= this.#run();
  }

  /** Ends everything and resolves when nothing runs any more; the copy stays readable. */
  async stop(): Promise<void> {
    this.#abort.abort();
    this.#connected = false;
    await this.#loop;
  }

  /** Resolves after the first complete list. */
  waitForSync(): Promise<void> {
    return this.#synced.promise;
  }

  async #run(): Promise<void> {
    const { signal } = this.#abort;
    while (!signal.aborted) {
      try {
        if (this.#version === undefined || this.#mustList) await this.#list(signal);
        await this.#watch(signal);
      } catch (error) {
        if (signal.aborted) return;
        this.counts.failures += 1;
        this.#connected = false;
        if (this.#failures.needsList(error)) this.#version = undefined;
        await this.#failures.pauseAfter(error, signal);
      }
    }
  }

  async #list(signal: AbortSignal): Promise<void> {
    const { client, path, query, convert, fields, metadataOnly, budget } = this.#options;
    // The first list may come from the server's memory, which spares it work when all nodes start at once. Later
    // ones must not show an older state than we have seen, so they ask for the latest.
    const version = this.#isSynced ? {} : { resourceVersion: "0" };
    this.counts.lists += 1;
    const result = await client.list<T>(
      path,
      { ...query, ...version },
      {
        signal,
        convert,
        fields,
        metadataOnly,
        budget,
      },
    );
    this.#version = result.resourceVersion;
    this.#mustList = false;
    this.#noteContact();
    const changes = this.#cache.replace(result.items);
    this.#listedVersion = result.resourceVersion;
    const turns = new Turns();
    for (const change of changes) {
      this.#tell(change);
      await turns.next();
    }
    this.#isSynced = true;
    this.#synced.resolve();
    this.onlist();
  }

  async #watch(signal: AbortSignal): Promise<void> {
    const { client, path, query, fields, metadataOnly, graceMs = 5000, watchSeconds = 40 } = this.#options;
    const timeoutSeconds = Math.max(1, Math.round(watchSeconds * (1 + this.#random() / 4)));
    const startMs = this.#clock.nowMs();
    const versionBefore = this.#version;
    const watchQuery = {
      ...query,
      resourceVersion: this.#version,
      allowWatchBookmarks: true,
      timeoutSeconds,
    };
    this.counts.watches += 1;
    let proof: Timer | undefined;
    const end = new AbortController();
    this.#endWatch = (why) => end.abort(why);
    const hasFailed = this.#failures.isFailing;
    const events = client.watch(path, watchQuery, {
      signal: AbortSignal.any([signal, end.signal]),
      fields,
      silenceMs: timeoutSeconds * 1000 + graceMs,
      onopen: () => {
        this.#connected = true;
        this.#noteContact();
        // in a quiet collection nothing may come for as long as the watch lives
        if (hasFailed) proof = this.#clock.after(shortestWatchMs, () => this.#failures.noteSuccess());
        this.onopen(hasFailed);
      },
      metadataOnly,
    });
    try {
      const turns = new Turns();
      for await (const event of events) {
        this.counts.events += 1;
        this.#noteContact();
        this.#take(event);
        if (this.#version !== versionBefore) this.#failures.noteSuccess();
        await turns.next();
      }
    } finally {
      proof?.cancel();
    }
    this.#noteContact();
    const livedMs = this.#clock.nowMs() - startMs;
    if (livedMs < shortestWatchMs && this.#version === versionBefore) {
      throw new Error(`the watch ended after ${Math.round(livedMs)} ms without anything new`);
    }
    this.#failures.noteSuccess();
  }

  #take({ type, object: raw }: WatchEvent): void {
    const version = wordOf(recordOf(recordOf(raw).metadata).resourceVersion, bounds.resourceVersion);
    if (version !== "") this.#version = laterVersion(this.#version ?? version, version);
    if (type === "BOOKMARK") return;
    const object = this.#options.convert(raw);
    if (object === undefined) {
      this.counts.ignoredEvents += 1;
      const { what, log } = this.#options;
      const count = ++this.#droppedEvents;
      if (isTold(count))
        log.warn(
          { what, type, count },
          "ignored an event whose object was not asked for, or has no identity",
        );
      return;
    }
    const change = this.#cache.apply(type, object);
    if (change === undefined) this.counts.ignoredEvents += 1;
    else this.#tell(change);
  }

  #tell(change: ObjectChange<T>): void {
    for (const listener of this.#listeners) {
      try {
        listener(change);
      } catch (err) {
        const { key } = change.type === "set" ? change.current : change.previous;
        this.#options.log.error({ err, what: this.#options.what, key }, "a listener failed on a change");
      }
    }
  }

  #noteContact(): void {
    this.#lastContactMs = this.#clock.nowMs();
  }
}
