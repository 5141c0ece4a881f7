// SPDX-License-Identifier: Apache-2.0
// `npm run test:fuzz`: every parser of others' bytes in the agent, each for its seconds.
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { fuzzTarget } from "./fuzz-run.ts";
import { targets } from "./targets.ts";

const help = `usage: node test/fuzz/main.ts [OPTION...] [TARGET...]

  --seconds N           for each target (default 3)
  --seed N              of what chance brings (default: the clock; it is printed)
  --replay FILE         run one target on one input, and nothing else
  --list                print the targets

Inputs that reach new code are kept and changed further; coverage is V8's own. An input that breaks a promise is written to
build/fuzz/. The launcher's parsers are fuzzed by plugin/build/fuzz.
`;

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      seconds: { type: "string", default: "3" },
      seed: { type: "string", default: String(Date.now() % 2 ** 31) },
      replay: { type: "string" },
      list: { type: "boolean" },
      help: { type: "boolean" },
    },
  });
  if (values.help || values.list) {
    process.stdout.write(
      values.help ? help : targets.map(({ name, whose }) => `${name}: ${whose}\n`).join(""),
    );
    return 0;
  }
  const unknown = positionals.find((name) => !targets.some((target) => target.name === name));
  const [seconds, seed] = [Number(values.seconds), Number(values.seed)];
  if (unknown !== undefined || !(seconds > 0) || !Number.isSafeInteger(seed)) {
    process.stderr.write(
      unknown === undefined ? help : `fuzz: there is no target "${unknown}"; see --list\n`,
    );
    return 2;
  }
  const chosen = targets.filter(({ name }) => positionals.length === 0 || positionals.includes(name));
  if (values.replay !== undefined) {
    for (const target of chosen) target.run(Uint8Array.from(readFileSync(values.replay)));
    process.stdout.write("every promise is kept\n");
    return 0;
  }
  const module = new URL("targets.ts", import.meta.url).href;
  let broken = 0;
  for (const { name } of chosen) {
    const result = await fuzzTarget({ module, name, seconds, seed });
    if (result.kind === "kept") {
      const { runs, inputs, reached } = result;
      process.stdout.write(
        `fuzz: ${name}: ${runs} inputs, ${reached} characters of code reached, ${inputs} inputs kept\n`,
      );
      continue;
    }
    broken++;
    const path = write(name, result.input);
    process.stdout.write(
      `fuzz: ${name}: BROKEN after ${result.runs} inputs (seed ${seed}): ${result.why}\n` +
        `      again: node test/fuzz/main.ts --replay ${path} ${name}\n`,
    );
  }
  return broken === 0 ? 0 : 1;
}

function write(name: string, input: Uint8Array): string {
  const folder = join(import.meta.dirname, "../../build/fuzz");
  mkdirSync(folder, { recursive: true });
  const digest = createHash("sha256").update(input).digest("hex").slice(0, 12);
  writeFileSync(join(folder, `${name}-${digest}`), input);
  return `build/fuzz/${name}-${digest}`;
}

process.exitCode = await main();
