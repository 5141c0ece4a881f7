// SPDX-License-Identifier: Apache-2.0
// `npm run soak`: 20 minutes of pods that come and go; the agent must hold in the end what it held after two.
import { parseArgs } from "node:util";
import { followOuter, insideNode } from "../support/node/inside.ts";
import { runInNode } from "../support/node/run-in-node.ts";
import { type SoakOptions, soak } from "./soak.ts";

const help = `usage: node test/soak/main.ts [OPTION...]

Runs on a small node of its own, in new namespaces of this machine. Nothing is left behind. Needs root.

options:
  --minutes N     how long, looks not counted (default 20)
  --first-look N  minutes until the look that the last one is compared with (default 2)
  --lanes N       pods that come and go at the same time (default 4)
`;

async function main(args: readonly string[]): Promise<number> {
  const options = readOptions(args);
  if (typeof options === "number") return options;
  if (insideNode() === undefined) return await runInNode(import.meta.filename, args);
  followOuter();
  // with this process the whole node ends, nothing has to be taken down
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => process.exit(130));
  return (await soak(options, (line) => process.stdout.write(`${line}\n`))) ? 0 : 1;
}

function readOptions(args: readonly string[]): SoakOptions | number {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        minutes: { type: "string", default: "20" },
        "first-look": { type: "string", default: "2" },
        lanes: { type: "string", default: "4" },
        help: { type: "boolean", default: false },
      },
    });
    if (values.help) {
      process.stdout.write(help);
      return 0;
    }
    return {
      minutes: readNumber("minutes", values.minutes),
      firstLookMinutes: readNumber("first-look", values["first-look"]),
      lanes: readNumber("lanes", values.lanes),
    };
  } catch (error) {
    process.stderr.write(`soak: ${(error as Error).message}\n\n${help}`);
    return 2;
  }
}

function readNumber(name: string, text: string): number {
  const number = Number(text);
  if (text === "" || !(number > 0)) throw new Error(`--${name} "${text}" is no number above 0`);
  return number;
}

process.exitCode = await main(process.argv.slice(2));
if (insideNode() !== undefined) process.exit();
