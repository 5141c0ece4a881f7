// SPDX-License-Identifier: Apache-2.0
// `ambient-cni uninstall`: takes everything of the agent's off this node.
import { parseArgs } from "node:util";
import type { AgentConfig } from "../config.ts";
import { UninstallError, type UninstallReport, uninstallNode } from "../install/uninstall.ts";
import { silentLogger } from "../observe/logger.ts";

export const uninstallHelp = `usage: ambient-cni uninstall [OPTION...]

Takes the agent off this node: the entry in the CNI chain (the original file comes back), the redirection of all running
pods, the host's rule and sets for kubelet probes, the files in the run dir, and last the launcher. Needs no API server.
Safe to repeat. Settings (HOST_ROOT, MOUNTED_CNI_NET_DIR, MOUNTED_CNI_BIN_DIR, ...) are the agent's. Pods keep running;
their new connections go past the mesh.

options:
  --dry-run          say what would be done
  --json             print one JSON object: done, notes, left
  --remove-launcher  also where CRI-O may still call it for pods that were made with it

exit code: 0 nothing is left, 1 something is, 2 wrong usage

examples:
  HOST_ROOT=/ ambient-cni uninstall --dry-run
  kubectl -n istio-system delete daemonset ambient-cni-node    (does the same on every node)
`;

/** Where the lines go. */
export interface UninstallOutput {
  print(text: string): void;
}

/** Runs the command. @returns the exit code @throws TypeError for options that are not known */
export async function runUninstall(
  args: readonly string[],
  { config, print }: UninstallOutput & { config: AgentConfig },
): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      "dry-run": { type: "boolean", default: false },
      json: { type: "boolean", default: false },
      "remove-launcher": { type: "boolean", default: false },
    },
  });
  const { install } = config;
  try {
    const report = await uninstallNode({
      ...config,
      netDir: install.netDir,
      binDir: install.binDir,
      ownedFileName: install.ownedFileName,
      removeLauncherAlways: values["remove-launcher"],
      dryRun: values["dry-run"],
      log: silentLogger,
      ondone: (line) => (values.json ? undefined : print(`${line}\n`)),
    });
    print(values.json ? `${JSON.stringify(report)}\n` : summary(report, values["dry-run"]));
    return report.left.length === 0 ? 0 : 1;
  } catch (error) {
    if (!(error instanceof UninstallError)) throw error;
    const left = [error.message];
    print(
      values.json
        ? `${JSON.stringify({ done: [], notes: [], left })}\n`
        : `Cannot uninstall: ${error.message}\n`,
    );
    return 1;
  }
}

function summary({ done, notes, left }: UninstallReport, isDryRun: boolean): string {
  const lines = [...notes.map((note) => `note: ${note}`), ...left.map((line) => `left: ${line}`)];
  if (done.length === 0 && left.length === 0) lines.push("nothing of ambient-cni is on this node");
  else if (isDryRun) lines.push("nothing was changed");
  else if (left.length === 0) lines.push("nothing of ambient-cni is left on this node");
  else lines.push("something is left: mend the reasons above and run this again");
  return `${lines.join("\n")}\n`;
}
