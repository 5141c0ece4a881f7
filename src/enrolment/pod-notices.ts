// SPDX-License-Identifier: Apache-2.0
// Listens to what the kernel announces in captured pods' namespaces: a change there asks for a look, and looks by the clock become rare.
import type { Netns } from "../linux/netns.ts";
import type { NetnsNotices } from "../linux/netns-notices.ts";
import type { Logger } from "../log/logger.ts";
import { Bursts } from "../loop/bursts.ts";
import type { Clock, Timer } from "../loop/clock.ts";
import { heardPauseMs } from "./look-costs.ts";
import { type Glance, PodGlances } from "./pod-glances.ts";
import type { PodRecord } from "./pod-record.ts";

/** What hears of one namespace; closed with the handle that it was opened for. */
export type Ears = Pick<NetnsNotices, "listen" | "close" | "isClosed">;

export interface PodNoticesOptions {
  /** @returns undefined when the handle was closed meanwhile @throws when the namespace cannot be listened to */
  readonly open: (netns: Netns) => Promise<Ears | undefined>;
  /** Namespaces listened to at most, for each takes descriptors; 0: none is. Those beyond are looked at by the clock alone. */
  readonly most: number;
  /** Shows what no kernel announces, where the rules are such. Default: all is announced. */
  readonly glance?: Glance | undefined;
  /** A pod's namespace has changed, or may have: it is to be looked at in so many ms, or earlier. */
  readonly onheard: (uid: string, inMs: number) => void;
  readonly log: Logger;
  readonly clock: Clock;
}

/** A look at a pod with our rules alone takes some 2 ms: one whose rules change without end costs a thousandth of a processor. */
const PACE = { most: 8, everyMs: 2_000, gatherMs: 50 };
/** A pod that was captured just now is not alone: what others wait for comes first. Jittered by a half, as is what follows. */
const OPEN_AFTER_MS = 1_000;
/** What changed after the last look and before we listened is found by one more look. */
const FIRST_LOOK_MS = 1_000;

interface Listened {
  readonly record: Pick<PodRecord, "hasWritten" | "slowLookMs" | "failures">;
  readonly netns: Netns;
  readonly bursts: Bursts;
  ears: Ears | undefined;
  opening: Timer | undefined;
  /** When what was heard is to be looked at; undefined: nothing was, since the last look began. */
  dueMs: number | undefined;
  /** A run is under way: whether what is heard is the echo of its own writes is known at its end. */
  isLooking: boolean;
  wasHeard: boolean;
}

/** By pod, the one namespace that is listened to. */
export class PodNotices {
  readonly #options: PodNoticesOptions;
  readonly #listened = new Map<string, Listened>();
  readonly #glances: PodGlances | undefined;
  #hasRefused = false;

  constructor(options: PodNoticesOptions) {
    this.#options = options;
    const { glance, log, clock } = options;
    if (glance === undefined) return;
    const netnses = () => new Map(Array.from(this.#listened, ([uid, { netns }]) => [uid, netns]));
    const onchanged = (uid: string): void => this.#changed(uid);
    this.#glances = new PodGlances({ glance, netnses, onchanged, log, clock });
  }

  /** From here on pods are glanced at, where that is needed. */
  start(): void {
    this.#glances?.start();
  }

  /** Lets all of them go. */
  async stop(): Promise<void> {
    for (const [uid, listened] of this.#listened) this.#forget(uid, listened);
    await this.#glances?.stop();
  }

  /** How many namespaces are listened to, or about to be. */
  get size(): number {
    return this.#listened.size;
  }

  /** A look begins: what was announced until now is seen by it. @returns whether anything was since the last one */
  begin({ uid }: Pick<PodRecord, "uid">): boolean {
    const listened = this.#listened.get(uid);
    if (listened === undefined) return false;
    const isAnnounced = listened.dueMs !== undefined;
    listened.dueMs = undefined;
    listened.isLooking = true;
    this.#listen(uid, listened);
    return isAnnounced;
  }

  /** What came of a look is known: what was announced meanwhile is answered as becomes the pod that it is now. */
  looked({ uid }: Pick<PodRecord, "uid">): void {
    const listened = this.#listened.get(uid);
    if (listened === undefined) return;
    listened.isLooking = false;
    if (listened.wasHeard) this.#answer(uid, listened);
    listened.wasHeard = false;
  }

  /** A run ended: listens to a pod that is captured, and to no other. */
  follow(
    record: Pick<PodRecord, "uid" | "sandbox" | "workload" | "hasWritten" | "slowLookMs" | "failures">,
  ): void {
    const { uid, sandbox, workload } = record;
    const netns = workload.phase.at === "captured" ? sandbox?.netns : undefined;
    const before = this.#listened.get(uid);
    if (before !== undefined && before.netns === netns && !netns.closed) return;
    if (before !== undefined) this.#forget(uid, before);
    if (netns === undefined || netns.closed) return;
    const { most, clock, log } = this.#options;
    if (this.#listened.size >= most) {
      if (!this.#hasRefused && most > 0)
        log.warn({ most }, "more pods than are listened to: the others are looked at by the clock alone");
      this.#hasRefused = true;
      return;
    }
    const listened: Listened = {
      record,
      netns,
      bursts: new Bursts(PACE, clock),
      ears: undefined,
      opening: undefined,
      dueMs: undefined,
      isLooking: false,
      wasHeard: false,
    };
    this.#listened.set(uid, listened);
    listened.opening = clock.after(jittered(OPEN_AFTER_MS), () => void this.#open(uid, listened));
  }

  /** Whether we are told what changes in the pod's present namespace. */
  hears({
    uid,
    sandbox,
    areRulesAnnounced,
  }: Pick<PodRecord, "uid" | "sandbox" | "areRulesAnnounced">): boolean {
    const listened = this.#listened.get(uid);
    if (listened?.ears?.isClosed !== false || listened.netns !== sandbox?.netns) return false;
    return areRulesAnnounced || this.#glances?.sees(listened.netns) === true;
  }

  /** Until what was heard is to be looked at, in ms; undefined: nothing was. */
  dueInMs({ uid }: Pick<PodRecord, "uid">): number | undefined {
    const dueMs = this.#listened.get(uid)?.dueMs;
    return dueMs === undefined ? undefined : Math.max(0, dueMs - this.#options.clock.nowMs());
  }

  async #open(uid: string, listened: Listened): Promise<void> {
    const { open, log } = this.#options;
    try {
      const ears = await open(listened.netns);
      if (ears === undefined || this.#listened.get(uid) !== listened) {
        ears?.close();
        if (this.#listened.get(uid) === listened) this.#listened.delete(uid);
        return;
      }
      listened.ears = ears;
      this.#listen(uid, listened);
      this.#heard(uid, listened, jittered(FIRST_LOOK_MS));
    } catch (error) {
      // tried again with the next look by the clock
      if (this.#listened.get(uid) === listened) this.#listened.delete(uid);
      log.debug({ uid, netns: listened.netns.key, err: error }, "cannot listen in a pod's namespace");
    }
  }

  #listen(uid: string, listened: Listened): void {
    const { ears, netns } = listened;
    listened.wasHeard = false;
    try {
      ears?.listen(() => this.#changed(uid));
    } catch (error) {
      const fields = { uid, netns: netns.key, err: error };
      this.#options.log.debug(fields, "cannot listen in a pod's namespace any more");
      this.#forget(uid, listened);
    }
  }

  #changed(uid: string): void {
    const listened = this.#listened.get(uid);
    if (listened?.isLooking === true) listened.wasHeard = true;
    else if (listened !== undefined) this.#answer(uid, listened);
  }

  /** What we have written is looked at once more, which finds nothing and ends it. */
  #answer(uid: string, listened: Listened): void {
    const { record, bursts } = listened;
    const isOurs = record.hasWritten;
    record.hasWritten = false;
    this.#heard(uid, listened, bursts.pauseMs({ isOurs }));
  }

  #heard(uid: string, listened: Listened, inMs: number): void {
    if (this.#listened.get(uid) !== listened) return;
    // who is slow to look at does not have that cost brought about by announcements, which it can make itself
    const pauseMs = heardPauseMs(inMs, listened.record);
    const dueMs = this.#options.clock.nowMs() + pauseMs;
    listened.dueMs = Math.min(listened.dueMs ?? dueMs, dueMs);
    this.#options.onheard(uid, pauseMs);
  }

  #forget(uid: string, { ears, opening }: Listened): void {
    this.#listened.delete(uid);
    opening?.cancel();
    ears?.close();
  }
}

function jittered(ms: number): number {
  return ms * (0.5 + Math.random());
}
