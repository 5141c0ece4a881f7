// SPDX-License-Identifier: Apache-2.0
// How long the turns of the event loop take: whoever comes during one waits for its end. Measured without a timer, which would wake
// the process twenty times a second: of an idle agent that was a third of all processor time.
import { addon, type Handle } from "./native.ts";

/** Of the turns since they were forgotten last; in ms. A percentile may be a quarter too high. */
export interface LoopTurns {
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly longestMs: number;
}

let handle: Handle | undefined;

/** From now on turns are measured, until the process ends. May be repeated. */
export function watchLoopTurns(): void {
  handle ??= addon().watchTurns();
}

/** @param options.forget begins anew, default false @returns zeros where nothing is measured */
export function readLoopTurns({ forget = false }: { readonly forget?: boolean } = {}): LoopTurns {
  const [p50, p99, longest] = handle === undefined ? [0, 0, 0] : addon().readTurns(handle, forget);
  return { p50Ms: p50 / 1e6, p99Ms: p99 / 1e6, longestMs: longest / 1e6 };
}
