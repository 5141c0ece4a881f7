// SPDX-License-Identifier: Apache-2.0
// `npm run test:attack`: every attack on one node, each with its bound, and a table of what was measured.
import { parseArgs } from "node:util";
import { followOuter, insideNode } from "../support/node/inside.ts";
import { runInNode } from "../support/node/run-in-node.ts";
import type { AttackGroup } from "./attack.ts";
import { attackGroups } from "./attack-groups.ts";
import { runCampaign } from "./campaign.ts";
import { renderCount, renderProgress, renderTable } from "./table.ts";

const help = `usage: node test/attack/main.ts [OPTION...]

Runs on a small node of its own, in new namespaces of this machine. Nothing is left behind. Needs root.

options:
  --only TEXT   attacks and groups whose name has this in it; may be repeated
  --list        print the attacks and do nothing
`;

async function main(args: readonly string[]): Promise<number> {
  const options = readOptions(args);
  if (typeof options === "number") return options;
  const groups = chosen(options.only);
  if (options.list) {
    for (const { name, attacks } of groups)
      for (const { name: attack, what, bound } of attacks)
        process.stdout.write(`${name}/${attack}: ${what}; ${bound}\n`);
    return 0;
  }
  if (groups.length === 0) {
    process.stderr.write(`attack: no attack has "${options.only.join('" or "')}" in its name\n`);
    return 2;
  }
  if (insideNode() === undefined)
    return await runInNode(import.meta.filename, args, { tools: ["nft", "python3"] });
  followOuter();
  // with this process the whole node ends, nothing has to be taken down
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => process.exit(130));
  const rows = await runCampaign(groups, (row) => process.stdout.write(`${renderProgress(row)}\n`));
  const seconds = Math.round(process.uptime());
  process.stdout.write(
    `\n${renderTable(rows)}\n\n${rows.length} attacks in ${seconds} s\n${renderCount(rows)}\n`,
  );
  return rows.some(({ verdict }) => verdict === "FAILED") ? 1 : 0;
}

function chosen(only: readonly string[]): AttackGroup[] {
  const isChosen = (name: string): boolean => only.length === 0 || only.some((part) => name.includes(part));
  return attackGroups
    .map((group) => ({
      ...group,
      attacks: isChosen(group.name) ? group.attacks : group.attacks.filter(({ name }) => isChosen(name)),
    }))
    .filter(({ attacks }) => attacks.length > 0);
}

function readOptions(args: readonly string[]): { only: readonly string[]; list: boolean } | number {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        only: { type: "string", multiple: true, default: [] },
        list: { type: "boolean", default: false },
        help: { type: "boolean", default: false },
      },
    });
    if (values.help) {
      process.stdout.write(help);
      return 0;
    }
    return { only: values.only, list: values.list };
  } catch (error) {
    process.stderr.write(`attack: ${(error as Error).message}\n\n${help}`);
    return 2;
  }
}

process.exitCode = await main(process.argv.slice(2));
if (insideNode() !== undefined) process.exit();
