// SPDX-License-Identifier: Apache-2.0
// `npm run test:machines`: demo, doctor and tests of the kernel on whole machines with other kernels and processors than this one's.
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { patienceVariable } from "../support/node/patience.ts";
import { writePart } from "../support/result-tables.ts";
import { readDemand } from "../support/skips/means.ts";
import { readOutcome, writePlan } from "./outcome.ts";
import { buildPackages, type Machine, machines, packages, planSteps, scriptOf } from "./plan.ts";
import { markdownOf, type Report, type StepRow, textOf } from "./report.ts";
import { boot, bringImage, MachineUnavailableError, makeCheckoutDisk } from "./virtual-machine.ts";

const names = machines.map(({ name }) => name);
const help = `usage: npm run test:machines [-- OPTION...]

Boots whole machines of Debian's kernels and packages, two at a time, each played by qemu without any help of this machine's
processor, with cgroup v2 alone and modules loaded when they are asked for. Runs the demo, ambient-cni doctor and tests of the
kernel on each. Images are kept in /var/tmp/ambient-cni-roots (DEBIAN_ROOTS_DIR names another folder). Needs root.

options:
  --only MACHINES   some of ${names.join(", ")}; separated by commas
  --short           demo, doctor and the native tests, on the first machine of each processor
  --steps STEPS     of the steps these alone, for example demo,doctor
  --tell            run nothing: tell what earlier runs have left in build/machines
  --write FILE      put the table on a Markdown page as well, with what earlier runs have left
`;
const page = "npm run test:machines";
const logs = join(import.meta.dirname, "../../build/machines");
/** How much slower a machine may be than this one: 10 to 24 times was measured, with nothing else on this one. */
const factor = 20;
/** Machines at a time: each takes one processor of this one's. */
const places = Math.min(2, availableParallelism());
/** For boot and end of a machine, and waiting for another one's. */
const restMs = 300_000;

/** The signal that is to end this process, once no machine is left. */
interface End {
  signal: NodeJS.Signals | undefined;
}

interface Options {
  readonly only: readonly string[];
  readonly short: boolean;
  /** Undefined: all. */
  readonly steps: readonly string[] | undefined;
  readonly write: string | undefined;
}

async function main(args: readonly string[]): Promise<number> {
  const options = readOptions(args);
  if (typeof options === "number") return options;
  let isFailed = false;
  const unavailable: string[] = [];
  const waiting = machines.filter(({ name }) => options.only.includes(name));
  const end: End = { signal: undefined };
  const work = async (place: number): Promise<void> => {
    for (let machine = waiting.shift(); machine !== undefined && !end.signal; machine = waiting.shift()) {
      try {
        const steps = await take(machine, options, place, end);
        if (steps.some(({ failures }) => failures.length > 0)) isFailed = true;
      } catch (error) {
        if (!(error instanceof MachineUnavailableError)) throw error;
        say(`SKIP ${machine.name}: ${error.message}`);
        unavailable.push(`${machine.name}: ${error.message}`);
      }
    }
  };
  // a machine that is under way comes to its end, and leaves nothing
  for (const result of await Promise.allSettled(Array.from({ length: places }, (_, place) => work(place))))
    if (result.status === "rejected") throw result.reason;
  if (end.signal !== undefined) process.kill(process.pid, end.signal);
  const report = await tellAll(unavailable);
  say(`\n${textOf(report)}`);
  if (options.write !== undefined) await writePart(options.write, page, markdownOf(report));
  const { requireAll, allowLacking } = readDemand(process.env);
  const isLacking = unavailable.length > 0 && requireAll && !allowLacking.includes("debian");
  return isFailed || isLacking ? 1 : 0;
}

/** Of all machines, also those of earlier runs. */
async function tellAll(unavailable: readonly string[]): Promise<Report> {
  const outcomes = await Promise.all(
    machines.map((machine) => readOutcome(machine, join(logs, machine.name))),
  );
  const known = outcomes.filter((outcome) => outcome !== undefined);
  const never = names.filter((_, index) => outcomes[index] === undefined);
  return {
    machines: known.flatMap(({ row }) => row ?? []),
    steps: known.flatMap(({ steps }) => steps),
    gaps: [
      ...unavailable,
      ...known.flatMap(({ gaps }) => gaps),
      ...(never.length === 0 ? [] : [`${never.join(", ")}: not asked for`]),
      ...always,
    ],
  };
}

/** What no run of these says. */
const always = [
  "kernels with other options than Debian's for clouds",
  "containerd on machines of other Debians and processors: test/runtimes has those, on this machine's kernel",
];

async function take(
  machine: Machine,
  { short, steps: asked }: Options,
  place: number,
  end: End,
): Promise<readonly StepRow[]> {
  const { name, arch } = machine;
  say(`${name}: bringing its disks`);
  const image = await bringImage(machine, arch === "amd64" ? packages : [...packages, ...buildPackages]);
  const work = await mkdtemp(join(tmpdir(), "ambient-cni-checkout-"));
  try {
    const checkoutDisk = join(work, "checkout.img");
    await makeCheckoutDisk(arch, checkoutDisk);
    // without what is built nothing of it runs
    const plan = planSteps(machine, { short }).filter(
      ({ kind, name: step }) => asked === undefined || kind === "build" || asked.includes(step),
    );
    if (end.signal !== undefined) return [];
    const folder = join(logs, name);
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder, { recursive: true });
    await writePlan(folder, plan);
    const ending = await boot(machine, {
      ...{ image, checkoutDisk, logs: folder, place },
      onword: (word) => {
        if (word.what === "up") say(`${name}: up after ${word.atS} s`);
        else if (word.what === "begin") say(`${name}: ${word.step}`);
      },
      script: scriptOf(machine, plan, { [patienceVariable]: String(factor) }),
      timeoutMs: plan.reduce((sum, { limit }) => sum + limit, 0) * 1000 + restMs,
    });
    end.signal ??= ending.interrupted;
    const { steps } = (await readOutcome(machine, folder)) ?? { steps: [] };
    for (const { what, passed, failures, seconds } of steps) {
      say(`${failures.length === 0 ? "ok  " : "FAIL"} ${name}, ${what}: ${passed} in ${seconds} s`);
      for (const line of failures) say(`     ${line}`);
    }
    if (steps.some(({ failures }) => failures.length > 0)) say(`(what it said is in ${folder})`);
    const how = ending.timedOut ? "ended from outside" : `ended with code ${ending.code}`;
    say(`${name}: ${how} after ${ending.seconds} s in all`);
    return steps;
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
        steps: { type: "string" },
        tell: { type: "boolean", default: false },
        write: { type: "string" },
        help: { type: "boolean", default: false },
      },
    });
    const all = values.short ? firstOfEach() : names;
    const only = values.tell ? [] : (values.only?.split(",") ?? all);
    const unknown = only.find((name) => !names.includes(name));
    if (unknown !== undefined)
      throw new Error(`Cannot use "${unknown}" as --only: it is none of ${names.join(", ")}`);
    const { short, write } = values;
    const steps = values.steps?.split(",");
    const known = machines.flatMap((machine) => planSteps(machine, { short: false }).map(({ name }) => name));
    const unheard = steps?.find((name) => !known.includes(name));
    if (unheard !== undefined)
      throw new Error(`Cannot use "${unheard}" as --steps: no machine has such a step`);
    if (!values.help) return { only, short, steps, write };
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
