// SPDX-License-Identifier: Apache-2.0
// Runs one target for its time, and keeps the input that broke a promise or never came to an end.
import { Worker } from "node:worker_threads";
import type { FuzzOrder, FuzzOutcome } from "./fuzz-worker.ts";
import { MAX_INPUT_BYTES } from "./mutate.ts";
import { removeScratchFolder } from "./scratch-folder.ts";

/** How a target is run. */
export interface FuzzOptions {
  /** Module that exports `targets`, as a URL. */
  readonly module: string;
  readonly name: string;
  readonly seconds: number;
  readonly seed: number;
  /** Default: all of src/. */
  readonly covers?: RegExp;
  /** How long one input may take, default 1000: a parser of 16 KiB needs a thousandth of it. */
  readonly inputMs?: number;
  /** After so long an input counts as one that never ends, default 10000. */
  readonly hangMs?: number;
}

/** What came of it. */
export type FuzzResult =
  | Extract<FuzzOutcome, { kind: "kept" }>
  | (Extract<FuzzOutcome, { kind: "broken" }> & { readonly input: Uint8Array });

/** Never rejects over what the target does. */
export async function fuzzTarget(options: FuzzOptions): Promise<FuzzResult> {
  const { hangMs = 10_000, inputMs = 1_000, covers = /\/src\//, ...rest } = options;
  const counters = new Int32Array(new SharedArrayBuffer(8));
  const running = new Uint8Array(new SharedArrayBuffer(MAX_INPUT_BYTES));
  const workerData: FuzzOrder = { ...rest, covers, inputMs, counters, running };
  const worker = new Worker(new URL("fuzz-worker.ts", import.meta.url), { workerData });
  const { threadId } = worker;
  const input = () => Uint8Array.from(running.subarray(0, counters[1]));
  const outcome = await new Promise<FuzzOutcome>((resolve) => {
    let last = -1;
    const watch = setInterval(() => {
      const runs = Atomics.load(counters, 0);
      if (runs === last && runs > 0)
        end({ kind: "broken", why: `an input does not end within ${hangMs} ms`, runs });
      last = runs;
    }, hangMs);
    const end = (result: FuzzOutcome): void => {
      clearInterval(watch);
      resolve(result);
    };
    worker.once("message", end);
    worker.once("error", (error) => end({ kind: "broken", why: String(error), runs: counters[0] ?? 0 }));
    worker.once("exit", () => end({ kind: "broken", why: "the thread ended", runs: counters[0] ?? 0 }));
  });
  await worker.terminate();
  removeScratchFolder(threadId);
  return outcome.kind === "kept" ? outcome : { ...outcome, input: input() };
}
