// SPDX-License-Identifier: Apache-2.0
// How often the host's rules are looked at: where the kernel takes long to show them, so rarely that it is a small part of a processor.
import type { Clock } from "../loop/clock.ts";

export interface LookPaceOptions {
  /** The usual pause in ms, which quick looks keep. */
  readonly intervalMs: number;
  readonly clock: Clock;
}

/** What a look takes where others have very many rules that come with ours; elsewhere a busy machine hardly takes it twice in turn. */
const LONG_LOOK_MS = 150;
/** Such a look is followed by a pause of so many times what it took: it costs at most a twentieth of a processor. */
const REST_FACTOR = 20;
const MAX_REST_MS = 30_000;
/** Before the pause is over somebody may come for another reason, or a timer be early. */
const DUE_FACTOR = 0.9;

/** The pause after looks at one host. */
export class LookPace {
  readonly #options: LookPaceOptions;
  /** What the last two looks took: of a busy machine one look tells little. */
  #tookMs: readonly number[] = [];
  #dueMs = Number.NEGATIVE_INFINITY;
  #key: string | undefined;

  constructor(options: LookPaceOptions) {
    this.#options = options;
  }

  /** From a look to the next that nobody asks for; ms. */
  get pauseMs(): number {
    const { intervalMs } = this.#options;
    const tookMs = Math.min(...this.#tookMs, Number.POSITIVE_INFINITY);
    const isLong = this.#tookMs.length > 0 && tookMs >= LONG_LOOK_MS;
    return isLong ? Math.max(intervalMs, Math.min(REST_FACTOR * tookMs, MAX_REST_MS)) : intervalMs;
  }

  /** Whether to look now; always where looks are quick. @param key of what the rules should be: when it changes, they are looked at */
  isDue(key: string): boolean {
    return this.#key !== key || this.#options.clock.nowMs() >= this.#dueMs;
  }

  /** Looks, and notes what that took. @throws what `look` throws */
  async time<T>(key: string, look: () => Promise<T>): Promise<T> {
    const { clock, intervalMs } = this.#options;
    const startMs = clock.nowMs();
    const seen = await look();
    const endMs = clock.nowMs();
    this.#tookMs = [endMs - startMs, ...this.#tookMs].slice(0, 2);
    const { pauseMs } = this;
    this.#dueMs = pauseMs > intervalMs ? endMs + DUE_FACTOR * pauseMs : endMs;
    this.#key = key;
    return seen;
  }

  /** What was seen holds no more: the next look is due at once. */
  forget(): void {
    this.#dueMs = Number.NEGATIVE_INFINITY;
  }
}
