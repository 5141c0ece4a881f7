// SPDX-License-Identifier: Apache-2.0
// What has become of each pod whose sidecar this agent serves: where it stands, the last look, the last failure. Bounded, no I/O.
import { cutText, putLast } from "../bounds/bounded.ts";
import type { Family } from "../netfilter/family.ts";
import { type PodFailure, type PodTransition, remedySentence } from "./pod-history.ts";

/**
 * Where a pod stands that is redirected to its sidecar.
 * - `sidecar`: its rules stand, and were verified.
 * - `unverified`: they may stand, and what is there cannot be read or judged; the next look that succeeds ends it.
 * - `failed`: they could not be written, or are known to be wrong and could not be mended.
 */
export type SidecarState = "sidecar" | "unverified" | "failed";

/** One change of where a pod stands; `ms` is what the ADD or the look took that ended in it. */
export interface SidecarTransition extends Pick<PodTransition, "at" | "ms" | "reason"> {
  /** `outside`: nothing was known of it. */
  readonly from: SidecarState | "outside";
  readonly to: SidecarState;
}

/** A look that found, or made, everything right. */
export interface SidecarLook {
  /** ISO time. */
  readonly at: string;
  /** `Netns.key` */
  readonly netnsKey: string;
  /** Families whose rules stand. */
  readonly families: readonly Family[];
}

/** All that is remembered of a pod. */
export interface SidecarRecord {
  readonly state: SidecarState;
  /** The last one that ended well; `undefined`: none has. */
  readonly look: SidecarLook | undefined;
  /** What its looks end in at present; `undefined`: the last one ended well. */
  readonly failure: PodFailure | undefined;
  /** Oldest first. */
  readonly transitions: readonly SidecarTransition[];
}

/** What keeps a pod from where it should be. */
export interface SidecarSetback extends Pick<PodFailure, "kind" | "message" | "remedy"> {
  readonly state: Exclude<SidecarState, "sidecar">;
}

export interface SidecarRecordsOptions {
  readonly date?: () => Date;
  /** Pods remembered; the one that nothing was heard of longest goes first. Default 512. */
  readonly maxPods?: number;
}

const MAX_TRANSITIONS = 16;
const TEXT = { bytes: 500 };
const RIGHT = "its rules stand, and were verified in the kernel";

/** Remembers; no method throws. */
export class SidecarRecords {
  readonly #options: SidecarRecordsOptions;
  /** In the order of the last word about each pod. */
  readonly #records = new Map<string, SidecarRecord>();
  readonly #repairs = new Map<string, number>();
  /** Which the last {@link keepOnly} did not name. */
  #missed: ReadonlySet<string> = new Set();

  constructor(options: SidecarRecordsOptions = {}) {
    this.#options = options;
  }

  /** Differences that looks have put right since the start, by kind. */
  get repairs(): ReadonlyMap<string, number> {
    return this.#repairs;
  }

  /** What is remembered of a pod. */
  of(uid: string): SidecarRecord | undefined {
    return this.#records.get(uid);
  }

  /** Everything was right, or was made so. @param seen.ms what that took */
  right(uid: string, seen: { readonly netnsKey: string; readonly families: readonly Family[]; ms: number }) {
    const { netnsKey, families, ms } = seen;
    const look = { at: this.#now(), netnsKey, families };
    this.#become(uid, "sidecar", { look, failure: undefined, reason: RIGHT, ms });
  }

  /** An ADD or a look failed. @param ms what it took until then */
  failed(uid: string, { state, kind, message, remedy }: SidecarSetback, ms: number): void {
    const { look, failure: former } = this.#records.get(uid) ?? {};
    const failure: PodFailure = {
      at: this.#now(),
      kind,
      message: cutText(message, TEXT),
      remedy: remedySentence(remedy),
      attempts: (former?.attempts ?? 0) + 1,
    };
    this.#become(uid, state, { look, failure, reason: failure.message, ms });
  }

  /** A look put these right, which somebody had changed. */
  mended(drift: readonly { readonly kind: string }[]): void {
    for (const { kind } of drift) this.#repairs.set(kind, (this.#repairs.get(kind) ?? 0) + 1);
  }

  /** Forgets the pods that are none of these, this time and the time before: an ADD may be ahead of the list of pods. */
  keepOnly(uids: ReadonlySet<string>): void {
    const missed = new Set([...this.#records.keys()].filter((uid) => !uids.has(uid)));
    for (const uid of missed) if (this.#missed.has(uid)) this.#records.delete(uid);
    this.#missed = missed;
  }

  #become(
    uid: string,
    state: SidecarState,
    {
      look,
      failure,
      reason,
      ms,
    }: Pick<SidecarRecord, "look" | "failure"> & Pick<SidecarTransition, "reason" | "ms">,
  ): void {
    const former = this.#records.get(uid);
    const transitions = [...(former?.transitions ?? [])];
    if (former?.state !== state)
      transitions.push({
        at: this.#now(),
        from: former?.state ?? "outside",
        to: state,
        ms: Math.round(10 * ms) / 10,
        reason,
      });
    const record = { state, look, failure, transitions: transitions.slice(-MAX_TRANSITIONS) };
    putLast(this.#records, [uid, record], this.#options.maxPods ?? 512);
  }

  #now(): string {
    return (this.#options.date?.() ?? new Date()).toISOString();
  }
}
