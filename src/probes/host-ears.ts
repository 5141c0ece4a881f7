// SPDX-License-Identifier: Apache-2.0
// What spares looks at the host: the kernel announces its rules, and says of sets at a glance whether they are as they were seen to be.
import type { Netns } from "../linux/netns.ts";
import type { NetnsNotices } from "../linux/netns-notices.ts";
import type { Logger } from "../log/logger.ts";
import { Bursts } from "../loop/bursts.ts";
import type { Clock } from "../loop/clock.ts";

/** Opens what hears of the host's namespace. @returns undefined when the handle was closed meanwhile @throws NativeError */
export type ListenToHost = (netns: Netns) => Promise<Pick<NetnsNotices, "listen"> | undefined>;

export interface HostEarsOptions {
  readonly listen: ListenToHost;
  /** Something changed: it is to be looked at in so many ms. */
  readonly onheard: (inMs: number) => void;
  readonly log: Logger;
  readonly clock: Clock;
}

/** kube-proxy and CNI plugins write the same tables: what goes on and on is looked at as often as it was without announcements. */
const PACE = { most: 4, everyMs: 3_000, gatherMs: 50 };
/** Whatever is announced, all of it is looked at this often. */
const NET_MS = 60_000;

/** What was seen of one host, for as long as it holds. */
export class HostEars {
  readonly #options: HostEarsOptions;
  readonly #bursts: Bursts;
  #ears: Pick<NetnsNotices, "listen"> | undefined;
  #isOpened = false;
  #hasWritten = false;
  /** What the sets looked like at a glance when all was right; undefined: it is not known, or something was heard since. */
  #glance: string | undefined;
  #untilMs = Number.NEGATIVE_INFINITY;

  constructor(options: HostEarsOptions) {
    this.#options = options;
    this.#bursts = new Bursts(PACE, options.clock);
  }

  /** Whether all that was right can be taken for right as long as a glance at the sets is the same. */
  get isAtEase(): boolean {
    return this.#glance !== undefined && this.#options.clock.nowMs() < this.#untilMs;
  }

  /** Whether the sets look as they did. */
  isSame(glance: string): boolean {
    return this.isAtEase && this.#glance === glance;
  }

  /** A whole look begins: what is announced from now on counts. */
  async begin(netns: Netns): Promise<void> {
    this.forget();
    await this.#open(netns);
    this.#ears?.listen(() => {
      this.forget();
      // once: an echo of what we wrote finds nothing to write
      const isOurs = this.#hasWritten;
      this.#hasWritten = false;
      this.#options.onheard(this.#bursts.pauseMs({ isOurs }));
    });
    if (this.#ears !== undefined) this.#untilMs = this.#options.clock.nowMs() + NET_MS;
  }

  /** We write, which is announced as well. */
  write(): void {
    this.#hasWritten = true;
  }

  /** The look found all of it right. @param glance at the sets, from before the look */
  note(glance: string): void {
    this.#glance = glance;
  }

  /** What was seen holds no more. */
  forget(): void {
    this.#glance = undefined;
    this.#untilMs = Number.NEGATIVE_INFINITY;
  }

  /** Once: a host that cannot be listened to is looked at by the clock. */
  async #open(netns: Netns): Promise<void> {
    if (this.#isOpened) return;
    this.#isOpened = true;
    try {
      this.#ears = await this.#options.listen(netns);
    } catch (error) {
      this.#options.log.debug({ err: error }, "cannot listen to the host's network namespace");
    }
  }
}
