// SPDX-License-Identifier: Apache-2.0
// `ambient-cni uninstall`: takes everything of the agent's off this node.
import { loadConfig, processConfigSource } from "../config.ts";
import { silentLogger } from "../log/logger.ts";
import { concealPods } from "../uninstall/announced-pods.ts";
import { UninstallError, type UninstallReport, uninstallNode } from "../uninstall/uninstall.ts";
import { type Command, type CommandIo, parseNumber, parseOptions } from "./command.ts";

/** `ambient-cni uninstall`. */
export const uninstallCommand: Command = {
  name: "uninstall",
  summary: "take everything of the agent off this node",
  options: ["dry-run", "json", "force", "quiet-seconds", "remove-launcher", "help"],
  help: `usage: ambient-cni uninstall [OPTION...]

Takes the agent off this node: the entry in the CNI chain (the original file comes back), the redirection of all running
pods, the host's rule and sets for kubelet probes, the launcher, and last the files in the run dir.
May be stopped anywhere and repeated; at the end it looks at everything once more. Settings (HOST_ROOT,
MOUNTED_CNI_NET_DIR, MOUNTED_CNI_BIN_DIR, ...) are the agent's. Pods keep running; their connections go past the mesh.

With credentials (KUBECONFIG, or a service account's; NODE_NAME spares a list of all pods) the annotation that istiod reads
is taken from each pod first; where it cannot be, the pod stays as it is. Without credentials istiod is not told. Beside an
istio-cni that serves the node only our entry and launcher go.

The launcher goes when nobody has called it for a while, and stays where CRI-O or Multus will call it for pods of today:
they keep each pod's chain until it is deleted. Where it stays it is harmless and answers DEL by itself.

options:
  --dry-run          say what would be done
  --json             print one JSON object: done, notes, left
  --force            also while an agent runs, which will put things back
  --quiet-seconds N  how long nobody must have called the launcher (0 to 60, default 5)
  --remove-launcher  also where a runtime may still call it for pods that were made with it

exit code: 0 nothing is left that should not be, 1 something is, 2 wrong usage

examples:
  HOST_ROOT=/ ambient-cni uninstall --dry-run
  kubectl -n istio-system delete daemonset ambient-cni-node    (does the same on every node)
`,
  run: runUninstall,
};

async function runUninstall(args: readonly string[], { print }: CommandIo): Promise<number> {
  const values = parseOptions("uninstall", args, {
    "dry-run": { type: "boolean", default: false },
    json: { type: "boolean", default: false },
    force: { type: "boolean", default: false },
    "quiet-seconds": { type: "string", default: "5" },
    "remove-launcher": { type: "boolean", default: false },
  });
  // not io.config(): what is taken away is never guessed, HOST_ROOT included
  const config = loadConfig(processConfigSource([]));
  try {
    const report = await uninstallNode({
      ...config,
      ...config.install,
      pods: () => concealPods(config),
      removeLauncherAlways: values["remove-launcher"],
      dryRun: values["dry-run"],
      force: values.force,
      quietMs: 1000 * parseNumber("quiet-seconds", values["quiet-seconds"], { max: 60 }),
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
  if (done.length === 0 && left.length === 0 && notes.length === 0)
    lines.push("nothing to do: nothing of ambient-cni is on this node");
  else if (isDryRun) lines.push("nothing was changed");
  else if (left.length > 0) lines.push("something is left: mend the reasons above and run this again");
  else if (notes.length > 0) lines.push("nothing is left but what the notes say");
  else lines.push("nothing of ambient-cni is left on this node");
  return `${lines.join("\n")}\n`;
}
