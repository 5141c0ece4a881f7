// SPDX-License-Identifier: Apache-2.0
// `npm run test:churn`: random but repeatable operations on a node; after each hundred everything must be as its labels ask.
import { parseArgs } from "node:util";
import { followOuter, insideNode } from "../support/node/inside.ts";
import { runInNode } from "../support/node/run-in-node.ts";
import { churn } from "./churn.ts";
import { describeOperation } from "./operations.ts";
import { planChurn } from "./plan.ts";

const help = `usage: node test/churn/main.ts [OPTION...]

Each seed gets a small node of its own, in new namespaces of this machine. Nothing is left behind. Needs root.

options:
  --seed N         the first seed (default 1)
  --seeds N        how many seeds, one after the other (default 1)
  --operations N   operations for each seed (default 400)
  --every N        operations between two looks at the node (default 100)
  --until K        stop after the first K operations and look
  --list           print the operations and do nothing
  --debug          agents log at level debug
`;

const numbers = { seed: 1, seeds: 1, operations: 400, every: 100, until: Number.MAX_SAFE_INTEGER };
type Numbers = Record<keyof typeof numbers, number>;

interface MainOptions extends Numbers {
  readonly list: boolean;
  readonly debug: boolean;
}

async function main(args: readonly string[]): Promise<number> {
  const options = readOptions(args);
  if (typeof options === "number") return options;
  if (options.list) {
    const operations = planChurn(options.seed, Math.min(options.operations, options.until));
    for (const [index, operation] of operations.entries())
      process.stdout.write(`${describeOperation(operation, index)}\n`);
    return 0;
  }
  return insideNode() === undefined ? await runSeeds(options) : await runSeed(options);
}

async function runSeeds(options: MainOptions): Promise<number> {
  let passed = 0;
  let failed = 0;
  for (let seed = options.seed; seed < options.seed + options.seeds; seed++) {
    const { operations, every, until, debug } = options;
    const args = Object.entries({ seed, operations, every, until }).flatMap(([name, value]) => [
      `--${name}`,
      String(value),
    ]);
    const code = await runInNode(import.meta.filename, debug ? [...args, "--debug"] : args, {
      tools: ["nft"],
    });
    if (code > 1) return code;
    if (code === 0) passed++;
    else failed++;
  }
  process.stdout.write(`${passed} passed, ${failed} failed\n`);
  return failed === 0 ? 0 : 1;
}

async function runSeed(options: MainOptions): Promise<number> {
  followOuter();
  // with this process the whole node ends, nothing has to be taken down
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => process.exit(130));
  return (await churn(options, (line) => process.stdout.write(`${line}\n`))) ? 0 : 1;
}

function readOptions(args: readonly string[]): MainOptions | number {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        seed: { type: "string" },
        seeds: { type: "string" },
        operations: { type: "string" },
        every: { type: "string" },
        until: { type: "string" },
        list: { type: "boolean", default: false },
        debug: { type: "boolean", default: false },
        help: { type: "boolean", default: false },
      },
    });
    if (values.help) {
      process.stdout.write(help);
      return 0;
    }
    const { list, debug } = values;
    const read = { ...numbers };
    for (const name of Object.keys(numbers) as (keyof typeof numbers)[]) {
      const text = values[name];
      if (text === undefined) continue;
      if (!/^[1-9]\d*$/.test(text)) throw new Error(`--${name} "${text}" is no number above 0`);
      read[name] = Number(text);
    }
    return { ...read, list, debug };
  } catch (error) {
    process.stderr.write(`churn: ${(error as Error).message}\n\n${help}`);
    return 2;
  }
}

process.exitCode = await main(process.argv.slice(2));
if (insideNode() !== undefined) process.exit();
