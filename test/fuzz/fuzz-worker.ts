// SPDX-License-Identifier: Apache-2.0
// Fuzzes one target on a thread of its own, which whoever started it can end: what runs is kept where both see it.
import { parentPort, workerData } from "node:worker_threads";
import { seededRandom } from "../plugin/random-json.ts";
import { CodeCoverage } from "./code-coverage.ts";
import type { FuzzTarget } from "./fuzz-target.ts";
import { MAX_INPUT_BYTES, mutated } from "./mutate.ts";

/** What the thread is told. */
export interface FuzzOrder {
  /** Module with the target, which exports a list of them. */
  readonly module: string;
  readonly name: string;
  readonly seconds: number;
  readonly seed: number;
  /** Files that count as code to be reached. */
  readonly covers: RegExp;
  /** How long one input may take. */
  readonly inputMs: number;
  /** Words 0 and 1: how many inputs were run, and how long the one that runs is. */
  readonly counters: Int32Array;
  /** The input that runs. */
  readonly running: Uint8Array;
}

/** What it says in the end. */
export type FuzzOutcome =
  | { readonly kind: "kept"; readonly runs: number; readonly reached: number; readonly inputs: number }
  | { readonly kind: "broken"; readonly why: string; readonly runs: number };

/** Inputs between two questions for coverage, which take milliseconds: few while there is much that is new. */
const BATCH = { least: 64, most: 4_096 } as const;
const MAX_KEPT = 4_096;

const order = workerData as FuzzOrder;
const { targets } = (await import(order.module)) as { targets: readonly FuzzTarget[] };
const target = targets.find(({ name }) => name === order.name) as FuzzTarget;

/** @throws whatever breaks a promise */
function runOne(input: Uint8Array): void {
  order.running.set(input);
  Atomics.store(order.counters, 1, input.length);
  Atomics.add(order.counters, 0, 1);
  const startMs = performance.now();
  // a copy of its own: what is kept of one input must not change with the next
  target.run(Uint8Array.from(input));
  const ms = performance.now() - startMs;
  if (ms <= order.inputMs) return;
  // the machine may have been busy with something else
  const againMs = performance.now();
  target.run(Uint8Array.from(input));
  if (performance.now() - againMs > order.inputMs)
    throw new Error(
      `an input of ${input.length} bytes takes ${Math.round(ms)} ms, more than ${order.inputMs}`,
    );
}

function fuzz(): FuzzOutcome {
  const random = seededRandom(order.seed);
  const words = target.words.map((word) => Buffer.from(word, "latin1"));
  using coverage = new CodeCoverage(order.covers);
  const inputs: Uint8Array[] = [];
  const keep = (input: Uint8Array): void => {
    if (inputs.length < MAX_KEPT) inputs.push(input);
    else inputs[random(MAX_KEPT)] = input;
  };
  for (const seed of target.seeds()) {
    const input = Buffer.from(seed as string).subarray(0, MAX_INPUT_BYTES);
    runOne(input);
    keep(input);
  }
  runOne(new Uint8Array());
  coverage.take();
  const endMs = performance.now() + order.seconds * 1000;
  for (let size: number = BATCH.least; performance.now() < endMs; ) {
    const batch: Uint8Array[] = [];
    while (batch.length < size && performance.now() < endMs) {
      const input = mutated({ inputs, words }, random);
      runOne(input);
      batch.push(input);
    }
    const isNew = coverage.peek();
    if (isNew) sift(batch, coverage, keep);
    size = isNew ? BATCH.least : Math.min(2 * size, BATCH.most);
  }
  return { kind: "kept", runs: order.counters[0] ?? 0, reached: coverage.count, inputs: inputs.length };
}

/** Finds the inputs that reach something new, by halves: a question for coverage takes as long as hundreds of inputs. */
function sift(
  inputs: readonly Uint8Array[],
  coverage: CodeCoverage,
  keep: (input: Uint8Array) => void,
): void {
  for (const input of inputs) runOne(input);
  const [first] = inputs;
  if (first === undefined) return;
  if (inputs.length === 1) {
    if (coverage.take()) keep(first);
    return;
  }
  if (!coverage.peek()) return;
  const middle = inputs.length >> 1;
  sift(inputs.slice(0, middle), coverage, keep);
  sift(inputs.slice(middle), coverage, keep);
}

try {
  parentPort?.postMessage(fuzz());
} catch (error) {
  const why = error instanceof Error ? (error.stack ?? error.message) : String(error);
  parentPort?.postMessage({ kind: "broken", why, runs: order.counters[0] ?? 0 } satisfies FuzzOutcome);
}
