// SPDX-License-Identifier: Apache-2.0
// `npm run test:machines`: demo, doctor and tests of the kernel on whole machines with other kernels and processors than this one's.
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { patienceVariable } from "../support/node/patience.ts";
import { writePart } from "../support/result-tables.ts";
import type { ConsoleWord } from "./console.ts";
import { buildPackages, leftOut, type Machine, machines, packages, planSteps, scriptOf } from "./plan.ts";
import { type MachineRow, markdownOf, type Report, type StepRow, textOf } from "./report.ts";
import { readDescription, readStep } from "./results.ts";
import { boot, bringImage, MachineUnavailableError, makeCheckoutDisk } from "./virtual-machine.ts";

const names = machines.map(({ name }) => name);
const help = `usage: npm run test:machines [-- OPTION...]

Boots whole machines of Debian's kernels and packages, one after the other, each played by qemu without any help of this machine's
processor, with cgroup v2 alone and modules loaded when they are asked for. Runs the demo, ambient-cni doctor and tests of the
kernel on each. Images are kept in /var/tmp/ambient-cni-roots (DEBIAN_ROOTS_DIR names another folder). Needs root.

options:
  --only MACHINES   some of ${names.join(", ")}; separated by commas
  --short           demo, doctor and the native tests, on the first machine of each processor
  --write FILE      put the table on a Markdown page as well
`;
const page = "npm run test:machines";
const logs = join(import.meta.dirname, "../../build/machines");
/** How much slower a machine may be than this one: 10 to 24 times was measured, with nothing else on this one. */
const factor = 20;
/** For boot and end of a machine, and waiting for another one's. */
const restMs = 300_000;

interface Options {
  readonly only: readonly string[];
  readonly short: boolean;
  readonly write: string | undefined;
}

/** What came of one machine. */
interface Outcome {
  readonly row: MachineRow | undefined;
  readonly steps: readonly StepRow[];
}

async function main(args: readonly string[]): Promise<number> {
  const options = readOptions(args);
  if (typeof options === "number") return options;
  const chosen = machines.filter(({ name }) => options.only.includes(name));
  const rows: MachineRow[] = [];
  const steps: StepRow[] = [];
  const gaps: string[] = [];
  for (const machine of chosen) {
    try {
      const outcome = await take(machine, options);
      if (outcome.row !== undefined) rows.push(outcome.row);
      steps.push(...outcome.steps);
      gaps.push(...leftOut(machine, options));
    } catch (error) {
      if (!(error instanceof MachineUnavailableError)) throw error;
      say(`SKIP ${machine.name}: ${error.message}`);
      gaps.push(`${machine.name}: ${error.message}`);
    }
  }
  const rest = names.filter((name) => !options.only.includes(name));
  if (rest.length > 0) gaps.push(`${rest.join(", ")}: not asked for`);
  const date = new Date().toISOString().slice(0, 10);
  const report: Report = { date, machines: rows, steps, gaps: [...gaps, ...always] };
  say(`\n${textOf(report)}`);
  if (options.write !== undefined) await writePart(options.write, page, markdownOf(report));
  return steps.every(({ failures }) => failures.length === 0) ? 0 : 1;
}

/** What no run of these says. */
const always = [
  "kernels with other options than Debian's for clouds",
  "a container runtime on these machines: test/runtimes has those, on this machine's kernel",
];

async function take(machine: Machine, { short }: Options): Promise<Outcome> {
  const { name, arch, variant } = machine;
  say(`${name}: bringing its disks`);
  const image = await bringImage(machine, arch === "amd64" ? packages : [...packages, ...buildPackages]);
  const work = await mkdtemp(join(tmpdir(), "ambient-cni-checkout-"));
  try {
    const checkoutDisk = join(work, "checkout.img");
    await makeCheckoutDisk(arch, checkoutDisk);
    const plan = planSteps(machine, { short });
    const folder = join(logs, name);
    await rm(folder, { recursive: true, force: true });
    const ended = new Map<string, { readonly code: number; readonly seconds: number }>();
    let bootS = 0;
    let lost = "";
    const onword = (word: ConsoleWord): void => {
      if (word.what === "up") {
        bootS = word.atS;
        say(`${name}: up after ${bootS} s`);
      } else if (word.what === "begin") say(`${name}: ${word.step}`);
      else if (word.what === "end") ended.set(word.step, word);
      else if (word.what === "lost") lost = word.why;
    };
    const limits = plan.reduce((sum, { limit }) => sum + limit, 0);
    const ending = await boot(machine, {
      ...{ image, checkoutDisk, logs: folder, onword },
      script: scriptOf(machine, plan, { [patienceVariable]: String(factor) }),
      timeoutMs: limits * 1000 + restMs,
    });
    const steps: StepRow[] = [];
    for (const step of plan) {
      const { passed, failures } = await readStep(step, folder, ended.get(step.name)?.code);
      const row = {
        machine: name,
        what: step.name,
        passed,
        failures,
        seconds: ended.get(step.name)?.seconds ?? 0,
      };
      steps.push(row);
      say(`${failures.length === 0 ? "ok  " : "FAIL"} ${name}, ${row.what}: ${passed} in ${row.seconds} s`);
      for (const line of failures) say(`     ${line}`);
    }
    if (!ending.isOff) {
      const why =
        lost || (ending.timedOut ? "it did not end in its time" : `qemu ended with code ${ending.code}`);
      const failures = [`the machine did not switch itself off: ${why}`];
      steps.push({ machine: name, what: "its end", passed: 0, failures, seconds: ending.seconds });
      say(`FAIL ${name}: ${failures[0]}`);
    }
    if (steps.some(({ failures }) => failures.length > 0)) say(`(what it said is in ${folder})`);
    say(`${name}: ${ending.seconds} s in all`);
    const description = await readFile(join(folder, "machine"), "utf8").catch(() => undefined);
    const row =
      description === undefined ? undefined : { name, variant, bootS, ...readDescription(description) };
    return { row, steps };
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

function readOptions(args: readonly string[]): Options | number {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        only: { type: "string" },
        short: { type: "boolean", default: false },
        write: { type: "string" },
        help: { type: "boolean", default: false },
      },
    });
    const all = values.short ? firstOfEach() : names;
    const only = values.only?.split(",") ?? all;
    const unknown = only.find((name) => !names.includes(name));
    if (unknown !== undefined)
      throw new Error(`Cannot use "${unknown}" as --only: it is none of ${names.join(", ")}`);
    if (!values.help) return { only, short: values.short, write: values.write };
    process.stdout.write(help);
    return 0;
  } catch (error) {
    process.stderr.write(`test:machines: ${(error as Error).message}\n\n${help}`);
    return 2;
  }
}

/** The first machine of each processor. */
function firstOfEach(): string[] {
  const first = new Map([...machines].reverse().map(({ arch, name }) => [arch, name]));
  return names.filter((name) => [...first.values()].includes(name));
}

process.exitCode = await main(process.argv.slice(2));
