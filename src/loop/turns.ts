// SPDX-License-Identifier: Apache-2.0
// Long work done in turns, so that everybody else of the event loop has theirs.
import { setImmediate as nextTurn } from "node:timers/promises";

/** How long one piece of work may hold the event loop, in ms; what is one step too many is all that comes on top. */
const turnMs = 8;

/** The turns of one piece of work. */
export class Turns {
  #endsMs = performance.now() + turnMs;

  /** To be awaited between two steps: resolves at once while the turn lasts, else when all others had one. */
  async next(): Promise<void> {
    if (performance.now() < this.#endsMs) return;
    await nextTurn();
    this.#endsMs = performance.now() + turnMs;
  }
}
