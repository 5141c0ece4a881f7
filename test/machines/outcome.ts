// SPDX-License-Identifier: Apache-2.0
// What came of a machine, read from the folder of what it said: at its end, and by later runs, which tell of it too.
import { stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type ConsoleWord, readConsoleLine } from "./console.ts";
import { leftOut, type Machine, planSteps, type Step } from "./plan.ts";
import type { MachineRow, StepRow } from "./report.ts";
import { readDescription, readIfThere, readStep } from "./results.ts";

/** What came of one machine. */
export interface Outcome {
  /** Undefined when it never came up. */
  readonly row: MachineRow | undefined;
  readonly steps: readonly StepRow[];
  /** What was not run on it. */
  readonly gaps: readonly string[];
}

/** Says in the folder what is asked of the machine, for {@link readOutcome}. */
export async function writePlan(folder: string, steps: readonly Step[]): Promise<void> {
  await writeFile(join(folder, "plan.json"), `${JSON.stringify(steps.map(({ name }) => name))}\n`);
}

/** Reads what a machine left; undefined when it was never started. */
export async function readOutcome(machine: Machine, folder: string): Promise<Outcome | undefined> {
  const plan = await readIfThere(join(folder, "plan.json"));
  if (plan === "") return undefined;
  const asked = JSON.parse(plan) as string[];
  const consolePath = join(folder, "console.log");
  const words = (await readIfThere(consolePath)).split("\n").flatMap((line) => readConsoleLine(line) ?? []);
  const { name, variant } = machine;
  const steps: StepRow[] = [];
  for (const step of planSteps(machine, { short: false })) {
    if (!asked.includes(step.name)) continue;
    const ended = words.find((word) => word.what === "end" && word.step === step.name);
    const { code, seconds } = ended?.what === "end" ? ended : { code: undefined, seconds: 0 };
    const { passed, failures } = await readStep(step, folder, code);
    steps.push({ machine: name, what: step.name, passed, failures, seconds });
  }
  if (!words.some(({ what }) => what === "off")) {
    const failures = [`the machine did not switch itself off${whyLost(words)}`];
    steps.push({ machine: name, what: "its end", passed: 0, failures, seconds: 0 });
  }
  const description = await readIfThere(join(folder, "machine"));
  const up = words.find(({ what }) => what === "up");
  const row =
    description === "" || up?.what !== "up"
      ? undefined
      : { name, variant, bootS: up.atS, date: await dayOf(consolePath), ...readDescription(description) };
  return { row, steps, gaps: leftOut(machine, asked) };
}

function whyLost(words: readonly ConsoleWord[]): string {
  const lost = words.find(({ what }) => what === "lost");
  return lost?.what === "lost" ? `: ${lost.why}` : "";
}

/** YYYY-MM-DD. */
async function dayOf(path: string): Promise<string> {
  return (await stat(path)).mtime.toISOString().slice(0, 10);
}
