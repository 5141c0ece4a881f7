// SPDX-License-Identifier: Apache-2.0
// Keeps what told rules look like in the kernel: recorded once, in a namespace of the agent's own, never learned from a pod.
import { DeadlineError, within } from "../loop/deadline.ts";
import { NetfilterFault } from "./netfilter-fault.ts";
import type { WantedRules } from "./rule-engine.ts";
import type { ToldRules } from "./told-rules.ts";

export interface KnownBytesOptions<Known> {
  /** Makes the record; what it throws becomes the cause of a fault. */
  readonly record: (told: ToldRules) => Promise<Known>;
  /** Default 256: names in annotations can make any number of sets of rules. */
  readonly maxEntries?: number;
  /** For how long a failure answers those who ask again; default 5 s. */
  readonly retryAfterMs?: number;
  /** Monotonic milliseconds. */
  readonly now?: () => number;
}

interface Entry<Known> {
  readonly rules: Promise<Known>;
  known?: Known;
  failedAtMs?: number;
}

const DEFAULT_MAX_ENTRIES = 256;
const DEFAULT_RETRY_AFTER_MS = 5_000;

/** Records rules when they are first asked for, once for everybody who asks meanwhile and later. */
export class KnownBytes<Known> {
  readonly #options: KnownBytesOptions<Known>;
  /** The one asked for longest ago first. */
  readonly #entries = new Map<string, Entry<Known>>();
  readonly #kept = new Set<string>();

  constructor(options: KnownBytesOptions<Known>) {
    this.#options = options;
  }

  /** What most pods have stays recorded, however many others are asked for: no ADD waits because of somebody's annotations. */
  keep(key: string): void {
    this.#kept.add(key);
  }

  /**
   * @param key equal for two sets of rules exactly when they are
   * @param told called when they are recorded
   * @throws {NetfilterFault} NO_KNOWN_BYTES; what `told` throws
   */
  async get(key: string, told: () => ToldRules): Promise<Known> {
    const entry = this.#find(key) ?? this.#begin(told());
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    const { maxEntries = DEFAULT_MAX_ENTRIES } = this.#options;
    for (const oldest of this.#entries.keys()) {
      if (this.#entries.size <= maxEntries) break;
      if (!this.#kept.has(oldest)) this.#entries.delete(oldest);
    }
    return await entry.rules;
  }

  /**
   * As {@link get}, for as long as a call can wait; recording goes on.
   * @throws {NetfilterFault} NO_KNOWN_BYTES, also when it is late; the signal's reason
   */
  async within(
    { key, told }: Pick<WantedRules, "key" | "told">,
    limits: { readonly ms: number; readonly signal?: AbortSignal | undefined },
  ): Promise<Known> {
    // what is recorded needs no timer
    const recorded = this.peek(key);
    if (recorded !== undefined) return recorded;
    try {
      return await within(this.get(key, told), limits);
    } catch (error) {
      if (!(error instanceof DeadlineError)) throw error;
      throw new NetfilterFault("NO_KNOWN_BYTES", `Cannot wait for known bytes: ${error.message}`, {
        cause: error,
      });
    }
  }

  /** What is recorded already, without a wait. */
  peek(key: string): Known | undefined {
    const entry = this.#entries.get(key);
    if (entry?.known === undefined) return undefined;
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    return entry.known;
  }

  #find(key: string): Entry<Known> | undefined {
    const entry = this.#entries.get(key);
    const { retryAfterMs = DEFAULT_RETRY_AFTER_MS } = this.#options;
    const isStale = entry?.failedAtMs !== undefined && this.#now() - entry.failedAtMs >= retryAfterMs;
    return isStale ? undefined : entry;
  }

  #begin(told: ToldRules): Entry<Known> {
    const entry: Entry<Known> = { rules: this.#record(told) };
    entry.rules.then(
      (known) => {
        entry.known = known;
      },
      () => {
        entry.failedAtMs = this.#now();
      },
    );
    return entry;
  }

  async #record(told: ToldRules): Promise<Known> {
    try {
      return await this.#options.record(told);
    } catch (cause) {
      const why = (cause as Error).message;
      throw new NetfilterFault(
        "NO_KNOWN_BYTES",
        `Cannot record what rules look like in this kernel: ${why}; without that no pod's rules can be written or verified`,
        { cause },
      );
    }
  }

  #now(): number {
    return this.#options.now?.() ?? performance.now();
  }
}
