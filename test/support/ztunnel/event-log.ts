// SPDX-License-Identifier: Apache-2.0
// What the stand-in tells: one JSON object per event, with a clock that all processes of the machine share.
import { appendFileSync } from "node:fs";

/** One line of the log. `atMs` is CLOCK_MONOTONIC in milliseconds: comparable between processes. */
export interface StandInEvent {
  readonly atMs: number;
  readonly event: string;
  readonly [field: string]: unknown;
}

/** Now, on the clock of `StandInEvent.atMs`. */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

/** Where events go; each sink sees them in the order they happened. */
export class EventLog {
  readonly #sinks: ((event: StandInEvent) => void)[];

  constructor(...sinks: ((event: StandInEvent) => void)[]) {
    this.#sinks = sinks;
  }

  write(event: string, fields: Record<string, unknown> = {}): void {
    const line: StandInEvent = { atMs: Math.round(monotonicMs() * 1000) / 1000, event, ...fields };
    for (const sink of this.#sinks) sink(line);
  }
}

/** A sink that appends to a file, one line at a time, so that a killed process leaves a complete log. */
export function fileSink(path: string): (event: StandInEvent) => void {
  return (event) => appendFileSync(path, `${JSON.stringify(event)}\n`);
}

/** A sink that prints to stdout, which Node writes synchronously to pipes. */
export function stdoutSink(): (event: StandInEvent) => void {
  return (event) => void process.stdout.write(`${JSON.stringify(event)}\n`);
}
