// SPDX-License-Identifier: Apache-2.0
// A file that cannot be parsed may be one that somebody is writing at this moment: it gets some time to become whole.
import type { Clock } from "../loop/clock.ts";

/** Remembers since when which files are broken. */
export class HalfWritten {
  readonly #graceMs: number;
  readonly #clock: Clock;
  readonly #since = new Map<string, number>();

  constructor(graceMs: number, clock: Clock) {
    this.#graceMs = graceMs;
    this.#clock = clock;
  }

  /** Whether one of the files that are broken now has not been so for long. */
  isAnyYoung(broken: Iterable<string>): boolean {
    const names = new Set(broken);
    for (const name of this.#since.keys()) if (!names.has(name)) this.#since.delete(name);
    const now = this.#clock.nowMs();
    let isYoung = false;
    for (const name of names) {
      const since = this.#since.get(name) ?? now;
      this.#since.set(name, since);
      isYoung ||= now - since < this.#graceMs;
    }
    return isYoung;
  }
}
