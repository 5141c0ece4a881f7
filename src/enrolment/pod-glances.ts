// SPDX-License-Identifier: Apache-2.0
// Asks again and again, at little cost, whether something in pods is what it was: for what no kernel announces.
import type { Netns } from "../linux/netns.ts";
import type { Logger } from "../log/logger.ts";
import { type Clock, systemClock } from "../loop/clock.ts";
import { KeepTrue } from "../loop/keep-true.ts";
import { forEachLimited } from "../loop/limit.ts";

/** @returns equal texts as long as nothing changed; undefined where that cannot be told @throws when the kernel cannot be asked */
export type Glance = (netns: Netns) => Promise<string | undefined>;

export interface PodGlancesOptions {
  readonly glance: Glance;
  /** Namespaces to be glanced at, by pod. */
  readonly netnses: () => ReadonlyMap<string, Netns>;
  /** Something is not what it was, or has been seen for the first time. */
  readonly onchanged: (uid: string) => void;
  readonly log: Logger;
  readonly clock?: Clock;
}

/** What somebody changes is mended within 10 s, also where the glances themselves (0.35 ms for a pod) and the look take a second. */
const GLANCE_MS = 8_000;
const GLANCES = 2;

/** Glances at all pods every eight seconds, between `start` and `stop`. */
export class PodGlances {
  readonly #options: PodGlancesOptions;
  readonly #glances: KeepTrue;
  readonly #last = new WeakMap<Netns, string>();

  constructor(options: PodGlancesOptions) {
    this.#options = options;
    const { clock = systemClock } = options;
    this.#glances = new KeepTrue({
      work: (signal) => this.#glanceAtAll(signal),
      longestMs: GLANCE_MS,
      clock,
    });
  }

  start(): void {
    this.#glances.request().catch(() => {});
  }

  async stop(): Promise<void> {
    await this.#glances.stop();
  }

  /** Whether a change in this namespace would show. */
  sees(netns: Netns): boolean {
    return this.#last.has(netns);
  }

  async #glanceAtAll(stopped: AbortSignal): Promise<void> {
    const { glance, netnses, onchanged, log } = this.#options;
    const look = async ([uid, netns]: readonly [string, Netns]): Promise<void> => {
      if (stopped.aborted || netns.closed) return;
      let seen: string | undefined;
      try {
        seen = await glance(netns);
      } catch (error) {
        log.debug({ uid, netns: netns.key, err: error }, "cannot glance at a pod");
      }
      if (netns.closed || (seen !== undefined && this.#last.get(netns) === seen)) return;
      const wasSeen = this.#last.has(netns);
      if (seen === undefined) this.#last.delete(netns);
      else this.#last.set(netns, seen);
      // what cannot be told is looked at by the clock
      if (seen !== undefined || wasSeen) onchanged(uid);
    };
    await forEachLimited([...netnses()], look, { places: GLANCES });
  }
}
