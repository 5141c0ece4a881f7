// SPDX-License-Identifier: Apache-2.0
// One line on a terminal's stderr for work that takes over a second; nothing anywhere else.
import type { CommandIo } from "./command.ts";

const QUIET_MS = 1_000;
const STEP_MS = 100;
const CLEAR = "\r\u001b[K";

/** A line that appears after a second and goes when the work is done. */
export class Progress implements Disposable {
  readonly #io: CommandIo;
  readonly #startMs = performance.now();
  #shownMs = 0;
  #isShown = false;

  constructor(io: CommandIo) {
    this.#io = io;
  }

  /** What is being done now. */
  say(text: string): void {
    const nowMs = performance.now();
    const isEarly = nowMs - this.#startMs < QUIET_MS || nowMs - this.#shownMs < STEP_MS;
    if (!this.#io.showsProgress || isEarly) return;
    this.#shownMs = nowMs;
    this.#isShown = true;
    this.#io.warn(`${CLEAR}${text}`);
  }

  [Symbol.dispose](): void {
    if (this.#isShown) this.#io.warn(CLEAR);
  }
}
