// SPDX-License-Identifier: Apache-2.0
// The table of commands besides `agent`: what main.ts runs, lists and completes.
import type { Command } from "./command.ts";
import { type Completable, completionCommand } from "./completion-command.ts";
import { dashboardCommand } from "./dashboard-command.ts";
import { debugCommand } from "./debug-command.ts";
import { doctorCommand } from "./doctor-command.ts";
import { rulesCommand } from "./rules-command.ts";
import { statusCommand } from "./status-command.ts";
import { uninstallCommand } from "./uninstall-command.ts";
import { verifyCommand } from "./verify-command.ts";

/** What main.ts runs itself. */
const ownCommands: readonly [agent: Completable, version: Completable] = [
  {
    name: "agent",
    summary: "run the node agent; settings come from the environment (NODE_NAME is required)",
    options: ["log_output_level", "log_as_json", "help"],
  },
  { name: "version", summary: "print the version", options: [] },
];

/** All commands but `agent` and `version`, in the order in which they are listed. */
export const commands: readonly Command[] = [
  statusCommand,
  verifyCommand,
  doctorCommand,
  debugCommand,
  dashboardCommand,
  rulesCommand,
  uninstallCommand,
  completionCommand(() => [...ownCommands, ...commands]),
];

/** The command of that name. */
export function findCommand(name: string | undefined): Command | undefined {
  return commands.find((command) => command.name === name);
}

/** One line for each command, `agent` and `version` among them, as `--help` shows them. */
export function listCommands(): string {
  const [agent, version] = ownCommands;
  const all = [agent, ...commands, version];
  const width = Math.max(...all.map(({ name }) => name.length));
  return all.map(({ name, summary }) => `  ${name.padEnd(width)}  ${summary}\n`).join("");
}

/** Names of all commands, for the sentence about an unknown one. */
export function commandNames(): string {
  return [...ownCommands, ...commands].map(({ name }) => name).join(", ");
}
