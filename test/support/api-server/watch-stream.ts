// SPDX-License-Identifier: Apache-2.0
// One open watch of the stub API server: filtering, bookmarks, the end of its time, and the faults of streams.
import type { ServerResponse } from "node:http";
import { type Faults, takeFault } from "./faults.ts";
import type { Change, ChangeType } from "./object-store.ts";
import { type KubeObject, type ResourceName, resourceKinds, type Status } from "./objects.ts";
import type { Matcher } from "./selectors.ts";

export interface WatchOptions {
  readonly resource: ResourceName;
  readonly matches: Matcher;
  readonly project: (object: KubeObject) => object;
  readonly faults: Faults;
  readonly bookmarkMs: number | undefined;
  readonly timeoutMs: number;
  readonly version: () => number;
  /**
   * It tells nothing of this version and before, no bookmark either: a server whose store was set back is silent until it has caught up.
   * Source: kubernetes apiserver pkg/storage/cacher/cache_watcher.go, process; kubernetes/kubernetes issue 107457.
   */
  readonly after: number;
}

/** What a selector makes of a write: an object that starts to match is ADDED, one that stops is DELETED. */
export function visibleType(change: Change, matches: Matcher): ChangeType | undefined {
  const now = change.type !== "DELETED" && matches(change.object);
  const before = change.previous !== undefined && matches(change.previous);
  if (now) return before ? "MODIFIED" : "ADDED";
  return before ? "DELETED" : undefined;
}

/** Writes a watch's events into its response. */
export class WatchStream {
  readonly #response: ServerResponse;
  readonly #options: WatchOptions;
  readonly #timers: NodeJS.Timeout[] = [];
  #held: string | undefined;
  #heldTimer: NodeJS.Timeout | undefined;

  constructor(response: ServerResponse, options: WatchOptions) {
    this.#response = response;
    this.#options = options;
    response.writeHead(200, { "content-type": "application/json", "cache-control": "no-cache, private" });
    response.flushHeaders();
    this.#timers.push(setTimeout(() => this.end(), options.timeoutMs));
    if (options.bookmarkMs !== undefined) {
      this.#timers.push(setInterval(() => this.bookmark(), options.bookmarkMs));
    }
    response.on("close", () => this.#stop());
  }

  /** Sends one write if the watch's selectors see it. */
  change(change: Change): void {
    if (change.resource !== this.#options.resource || change.version <= this.#options.after) return;
    const type = visibleType(change, this.#options.matches);
    if (type !== undefined) this.event(type, change.object);
  }

  event(type: ChangeType, object: KubeObject): void {
    const { faults } = this.#options;
    if (takeFault(faults, "garbleEvents")) {
      this.#write("{this is not JSON}\n");
      return;
    }
    const line = `${JSON.stringify({ type, object: this.#options.project(object) })}\n`;
    if (faults.swapEvents) {
      this.#swap(line);
      return;
    }
    this.#write(line);
    if (faults.duplicateEvents) this.#write(line);
  }

  /** Tells the version reached; with `initialEnd`, that the initial events are complete. */
  bookmark(initialEnd = false): void {
    if (this.#options.version() < this.#options.after) return;
    const annotations = initialEnd ? { annotations: { "k8s.io/initial-events-end": "true" } } : {};
    const { kind, apiVersion } = resourceKinds[this.#options.resource];
    const metadata = {
      resourceVersion: String(this.#options.version()),
      creationTimestamp: null,
      ...annotations,
    };
    this.#write(`${JSON.stringify({ type: "BOOKMARK", object: { kind, apiVersion, metadata } })}\n`);
  }

  /** Sends an ERROR event and ends. */
  fail(status: Status): void {
    this.#write(`${JSON.stringify({ type: "ERROR", object: status })}\n`);
    this.end();
  }

  /** The orderly end that a watch's timeout brings. */
  end(): void {
    if (this.#options.faults.hang) return;
    this.#flushHeld();
    this.#stop();
    this.#response.end();
  }

  /** Breaks the connection. */
  drop(): void {
    this.#stop();
    this.#response.destroy();
  }

  #swap(line: string): void {
    const held = this.#held;
    if (held === undefined) {
      this.#held = line;
      this.#heldTimer = setTimeout(() => this.#flushHeld(), 50);
      return;
    }
    this.#write(line);
    this.#flushHeld();
  }

  #flushHeld(): void {
    clearTimeout(this.#heldTimer);
    const held = this.#held;
    this.#held = undefined;
    if (held !== undefined) this.#write(held);
  }

  #write(line: string): void {
    if (this.#options.faults.hang || this.#response.writableEnded || this.#response.destroyed) return;
    this.#response.write(line);
  }

  #stop(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    clearTimeout(this.#heldTimer);
  }
}
