// SPDX-License-Identifier: Apache-2.0
// What became of the requests of one way through the mesh, and when, seen from the last change of a label.
import type { EndKind } from "./line-connection.ts";

/** A pod, or a namespace, was told to enter or to leave the mesh; time is that of {@link monotonicMs}. */
export interface LabelChange {
  readonly round: number;
  readonly phase: "entering" | "leaving";
  readonly atMs: number;
}

/** A request that was not answered as it should be. */
export interface Fault {
  readonly way: string;
  readonly lane: string;
  readonly kind: EndKind | "wrong";
  readonly why: string;
  readonly round: number;
  readonly phase: "entering" | "leaving" | "before";
  /** Milliseconds from the label change before its end, to its begin (negative: it was under way) and its end. */
  readonly begunMs: number;
  readonly endedMs: number;
}

/** Counts of one way. */
export interface Tally {
  /** Requests that came to an end, failed ones included; events and notes of streams are not among them. */
  readonly requests: number;
  readonly failed: number;
  /** Of the failed: nothing came for the whole time that a client waits. */
  readonly hung: number;
  /** Sent again by the rule for kept connections. */
  readonly repeated: number;
  readonly streamsOpened: number;
  /** Ended by the other side in order, between two lines. */
  readonly streamsEnded: number;
  /** Of these, while a pod was entering the mesh: no connection needs to end for that. */
  readonly streamsEndedEntering: number;
  readonly streamLines: number;
  readonly maxMs: number;
  /** The first {@link maxFaults}. */
  readonly faults: readonly Fault[];
}

const maxFaults = 40;

/** A clock that all processes of a machine share, in milliseconds. Source: clock_gettime(2), CLOCK_MONOTONIC. */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint() / 1000n) / 1000;
}

/** Collects a {@link Tally}. */
export class TallyRecorder {
  /** The last change; faults are seen from it. */
  change: LabelChange | undefined;
  readonly #way: string;
  readonly #counts = {
    requests: 0,
    failed: 0,
    hung: 0,
    repeated: 0,
    streamsOpened: 0,
    streamsEnded: 0,
    streamsEndedEntering: 0,
    streamLines: 0,
    maxMs: 0,
  };
  readonly #faults: Fault[] = [];

  constructor(way: string) {
    this.#way = way;
  }

  get tally(): Tally {
    return { ...this.#counts, faults: this.#faults };
  }

  answered(ms: number): void {
    this.#counts.requests += 1;
    this.#counts.maxMs = Math.max(this.#counts.maxMs, ms);
  }

  repeated(): void {
    this.#counts.repeated += 1;
  }

  streamOpened(): void {
    this.#counts.streamsOpened += 1;
  }

  streamLine(): void {
    this.#counts.streamLines += 1;
  }

  streamEnded(): void {
    this.#counts.streamsEnded += 1;
    if (this.change?.phase === "entering") this.#counts.streamsEndedEntering += 1;
  }

  /** A request, or a whole stream, came to a bad end. */
  fault({ lane, kind, why, begunAtMs }: Pick<Fault, "lane" | "kind" | "why"> & { begunAtMs: number }): void {
    this.#counts.requests += 1;
    this.#counts.failed += 1;
    if (kind === "silent") this.#counts.hung += 1;
    if (this.#faults.length >= maxFaults) return;
    const { round = 0, phase = "before", atMs = begunAtMs } = this.change ?? {};
    this.#faults.push({
      way: this.#way,
      lane,
      kind,
      why,
      round,
      phase,
      begunMs: Math.round(begunAtMs - atMs),
      endedMs: Math.round(monotonicMs() - atMs),
    });
  }
}

/** The sum of several ways. */
export function addTallies(tallies: readonly Tally[]): Tally {
  const sum = (of: (tally: Tally) => number): number =>
    tallies.reduce((total, tally) => total + of(tally), 0);
  return {
    requests: sum((tally) => tally.requests),
    failed: sum((tally) => tally.failed),
    hung: sum((tally) => tally.hung),
    repeated: sum((tally) => tally.repeated),
    streamsOpened: sum((tally) => tally.streamsOpened),
    streamsEnded: sum((tally) => tally.streamsEnded),
    streamsEndedEntering: sum((tally) => tally.streamsEndedEntering),
    streamLines: sum((tally) => tally.streamLines),
    maxMs: Math.max(0, ...tallies.map((tally) => tally.maxMs)),
    faults: tallies.flatMap((tally) => tally.faults),
  };
}
