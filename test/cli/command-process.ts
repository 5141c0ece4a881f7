// SPDX-License-Identifier: Apache-2.0
// Runs one command as main.ts does, from the sources: `node command-process.ts NAME ARG...`.
import { findCommand } from "../../src/cli/commands.ts";
import { processIo } from "../../src/cli/process-io.ts";
import { UsageError } from "../../src/cli/usage-error.ts";

const [name, ...args] = process.argv.slice(2);
const command = findCommand(name);
if (command === undefined) throw new Error(`no command "${name}"`);
try {
  if (args.includes("--help")) process.stdout.write(command.help);
  else process.exitCode = await command.run(args, processIo());
} catch (error) {
  process.stderr.write(`ambient-cni: ${(error as Error).message}\n`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
process.exit();
