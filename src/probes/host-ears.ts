// SPDX-License-Identifier: Apache-2.0
// What spares looks at the host: the kernel announces its rules, and is asked on a thread apart whether sets of ipset are as they were.
import type { Netns } from "../linux/netns.ts";
import type { NetnsNotices } from "../linux/netns-notices.ts";
import { NetnsPoll } from "../linux/netns-poll.ts";
import type { Logger } from "../log/logger.ts";
import { Bursts } from "../loop/bursts.ts";
import type { Clock } from "../loop/clock.ts";
import { setsQuestion } from "./host-look.ts";

type Ears = Pick<NetnsNotices, "listen">;
type Poll = Pick<NetnsPoll, "listen">;

/** Opens what hears of the host's namespace. @returns undefined when the handle was closed meanwhile @throws NativeError */
export type ListenToHost = (netns: Netns) => Promise<Ears | undefined>;

export interface HostEarsOptions {
  readonly listen: ListenToHost;
  /** The sets are ipset's, which no kernel announces. */
  readonly asksForSets: boolean;
  /** Default: the kernel. */
  readonly poll?: (netns: Netns) => Promise<Poll | undefined>;
  /** Something changed: it is to be looked at in so many ms. */
  readonly onheard: (inMs: number) => void;
  readonly log: Logger;
  readonly clock: Clock;
}

/** kube-proxy and CNI plugins write the same tables: what goes on and on is looked at as often as it was without announcements. */
const PACE = { most: 4, everyMs: 3_000, gatherMs: 50 };
/** What somebody takes out of a set of ipset is back within a second; the question takes some 30 µs. */
const SETS_EVERY_MS = 800;
/** From what we write to the look at what became of it. */
const ECHO_MS = 250;
/** Whatever is announced, all of it is looked at this often. */
const NET_MS = 60_000;

/** What was seen of one host, for as long as it holds. */
export class HostEars {
  readonly #options: HostEarsOptions;
  readonly #bursts: Bursts;
  #ears: Ears | undefined;
  #poll: Poll | undefined;
  #isHearing = false;
  #hasWritten = false;
  /** All was right, and nothing was heard since. */
  #isRight = false;
  #netMs = 0;

  constructor(options: HostEarsOptions) {
    this.#options = options;
    this.#bursts = new Bursts(PACE, options.clock);
  }

  /** How long all that was right can be taken for right unless something is heard, in ms; undefined: it cannot. */
  get restMs(): number | undefined {
    const restMs = this.#netMs - this.#options.clock.nowMs();
    return this.#isRight && restMs > 0 ? restMs : undefined;
  }

  /** A whole look begins: what changes from now on counts. */
  async begin(netns: Netns): Promise<void> {
    this.forget();
    await this.#open(netns);
    this.#netMs = this.#options.clock.nowMs() + NET_MS;
    this.#isHearing = await this.#listen();
  }

  /** We write, which is heard as well; where it is not, for who takes out what we put in makes the old answer true again, it is looked at. */
  write(): void {
    this.#hasWritten = true;
    if (this.#options.asksForSets) this.#options.onheard(ECHO_MS);
  }

  /** The look found all of it right. */
  note(): void {
    this.#isRight = this.#isHearing;
  }

  /** What was seen holds no more. */
  forget(): void {
    this.#isHearing = false;
    this.#isRight = false;
  }

  #heard(): void {
    this.forget();
    // once: an echo of what we wrote finds nothing to write
    const isOurs = this.#hasWritten;
    this.#hasWritten = false;
    this.#options.onheard(this.#bursts.pauseMs({ isOurs }));
  }

  /** A host that cannot be listened to is looked at by the clock, and each look tries again: the reason may have gone, as want of descriptors does. */
  async #open(netns: Netns): Promise<void> {
    if (this.#ears !== undefined) return;
    const {
      listen,
      asksForSets,
      poll = (at) => NetnsPoll.open(at, setsQuestion(SETS_EVERY_MS)),
    } = this.#options;
    try {
      if (asksForSets) this.#poll ??= await poll(netns);
      if (!asksForSets || this.#poll !== undefined) this.#ears = await listen(netns);
    } catch (error) {
      this.#options.log.debug({ err: error }, "cannot listen to the host's network namespace");
    }
  }

  /** @returns whether whatever changes from now on is heard */
  async #listen(): Promise<boolean> {
    if (this.#ears === undefined) return false;
    let isHearing = true;
    const onheard = (): void => {
      isHearing = false;
      this.#heard();
    };
    try {
      this.#ears.listen(onheard);
      await this.#poll?.listen(onheard);
    } catch (error) {
      this.#options.log.debug({ err: error }, "cannot listen to the host's network namespace");
      return false;
    }
    return isHearing;
  }
}
