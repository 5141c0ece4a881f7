// SPDX-License-Identifier: Apache-2.0
// What the demo prints: a line per step while it runs, a table at the end, and one JSON object for machines.
import { ClaimError } from "../support/node/claim.ts";

/** One step of the walk, done or not. */
export interface StepResult {
  readonly name: string;
  readonly ok: boolean;
  readonly ms: number;
  /** What was seen, or why the step failed. */
  readonly detail: string;
}

/** Collects the steps and prints them. */
export class Report {
  readonly steps: StepResult[] = [];
  readonly #print: (line: string) => void;
  readonly #startedMs = performance.now();

  constructor(print: (line: string) => void) {
    this.#print = print;
  }

  get ok(): boolean {
    return this.steps.length > 0 && this.steps.every((step) => step.ok);
  }

  /**
   * Runs a step and prints its line.
   *
   * @param step returns what it saw, in a few words; throwing means that the step failed.
   * @returns whether the walk can go on.
   */
  async step(name: string, step: () => Promise<string>): Promise<boolean> {
    const start = performance.now();
    let ok = true;
    let detail: string;
    try {
      detail = await step();
    } catch (error) {
      ok = false;
      detail = error instanceof ClaimError ? error.message : String((error as Error).stack ?? error);
    }
    const result = { name, ok, ms: round(performance.now() - start), detail };
    this.steps.push(result);
    this.#print(`${ok ? "ok  " : "FAIL"} ${name} (${result.ms} ms)\n       ${detail}`);
    return ok;
  }

  /** Prints the table. */
  summarise(): void {
    const width = Math.max(...this.steps.map((step) => step.name.length), 4);
    const total = round(performance.now() - this.#startedMs);
    const rule = `  ${"-".repeat(width)}  ------  --------`;
    const rows = this.steps.map(({ name, ok, ms }) => {
      return `  ${name.padEnd(width)}  ${ok ? "ok    " : "FAILED"}  ${String(ms).padStart(8)}`;
    });
    const end = `  ${"all of it".padEnd(width)}  ${this.ok ? "ok    " : "FAILED"}  ${String(total).padStart(8)}`;
    this.#print(["", `  ${"step".padEnd(width)}  result        ms`, rule, ...rows, rule, end, ""].join("\n"));
  }

  /** The object of `--json`. */
  json(): string {
    return JSON.stringify({
      ok: this.ok,
      steps: this.steps.map(({ name, ok, ms, detail }) => ({ name, ok, ms, detail })),
    });
  }
}

function round(ms: number): number {
  return Math.round(ms * 10) / 10;
}
