// SPDX-License-Identifier: Apache-2.0
// `ambient-cni debug APP_LABEL NAMESPACE`: the three checks that everybody makes by hand, for one app's pods on this node.
import type { PodDebug } from "../diagnose/pod-debug.ts";
import { type Command, type CommandIo, parseCommandLine } from "./command.ts";
import { stateClient } from "./state-client.ts";
import { paint, printable } from "./table.ts";
import { UsageError } from "./usage-error.ts";

/** `ambient-cni debug`. */
export const debugCommand: Command = {
  name: "debug",
  summary: "the three classic checks for the pods of an app",
  options: ["help"],
  help: `usage: ambient-cni debug APP_LABEL NAMESPACE

For each pod of the app on this node: is ztunnel told of it and does it listen inside it (15001, 15006, 15008, 15053); what is
in its tables mangle and nat (of a pod that is redirected to its sidecar: what should be there, and whether it is); what did
the agent log about it. Each check ends in one line that says what it means.

APP_LABEL is the value of the label "app" (or NAME=VALUE for another label). Where this command cannot ask the API server it
takes pods of that name, or whose name begins with it.

exit code: 0 all checks are passed, 1 one is not, no pod was found or no agent answers, 2 wrong usage

examples:
  ambient-cni debug cart shop
  ambient-cni debug app.kubernetes.io/name=cart shop
  kubectl -n istio-system exec ds/ambient-cni-node -- ambient-cni debug cart shop
`,
  run: runDebug,
};

async function runDebug(args: readonly string[], io: CommandIo): Promise<number> {
  const { positionals } = parseCommandLine("debug", args, {});
  const [label, namespace, ...rest] = positionals;
  if (label === undefined || namespace === undefined || rest.length > 0) {
    throw new UsageError("debug takes APP_LABEL and NAMESPACE; see ambient-cni debug --help");
  }
  const config = io.config();
  const { debugPods } = await import("../diagnose/pod-debug.ts");
  const found = await debugPods({ config, agent: stateClient(config.runDir), label, namespace });
  if (found.pods.length === 0) {
    io.warn(`ambient-cni: no pod of "${label}" in namespace "${namespace}" on this node (${found.how})\n`);
    return 1;
  }
  for (const pod of found.pods) io.print(renderDebug(pod, io.colours));
  return found.pods.every(({ checks }) => checks.every(({ passed }) => passed)) ? 0 : 1;
}

function renderDebug({ name, summary, checks }: PodDebug, colours: boolean): string {
  const parts = checks.map(({ title, lines, passed, verdict }, index) => {
    const mark = passed ? paint("ok", "good", colours) : paint("WRONG", "bad", colours);
    const body = lines.map((line) => `     ${printable(line)}\n`).join("");
    return `  ${index + 1}. ${title}\n${body}     ${mark}: ${printable(verdict)}\n`;
  });
  return `${paint(name, "strong", colours)}  ${printable(summary)}\n${parts.join("")}\n`;
}
