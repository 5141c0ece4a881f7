// SPDX-License-Identifier: Apache-2.0
// `ambient-cni doctor`: everything about the node that keeps pods out of the mesh, each with its fix.
import { type Finding, type FindingLevel, worstLevel } from "../diagnose/finding.ts";
import { type Command, type CommandIo, parseOptions } from "./command.ts";
import { Progress } from "./progress.ts";
import { stateClient } from "./state-client.ts";
import { paint, printable, type Style } from "./table.ts";

const AGENT_TIMEOUT_MS = 2_000;

/** `ambient-cni doctor`. */
export const doctorCommand: Command = {
  name: "doctor",
  summary: "find what keeps pods of this node out of the mesh, with the fix",
  options: ["json", "help"],
  help: `usage: ambient-cni doctor [--json]

Examines the node before an installation or afterwards: CNI folders (also those of k3s, OpenShift, MicroK8s, GKE, Talos, RKE2),
the chain that the runtime really uses and fights over it, iptables variants, what the kernel can do (tried in a network
namespace made for it), capabilities, IPv6, ztunnel, the way of kubelet probes, the API server and its permissions,
NetworkPolicies that drop probes, pods that can send past ztunnel, pods without the rules that their sidecar waits for,
exemptions, disks, other agents. Writes nothing. Settings are the agent's.

options:
  --json   print one JSON object: {"worst": "ok|warn|fail", "findings": [{id, level, what, fix}]}

exit code: 0 nothing keeps pods out, 1 something does, 2 wrong usage

examples:
  ambient-cni doctor
  HOST_ROOT=/ ambient-cni doctor --json | jq '.findings[] | select(.level != "ok")'
  kubectl -n istio-system exec ds/ambient-cni-node -- ambient-cni doctor
`,
  run: runDoctor,
};

async function runDoctor(args: readonly string[], io: CommandIo): Promise<number> {
  const values = parseOptions("doctor", args, { json: { type: "boolean", default: false } });
  const config = io.config();
  const { examineNode } = await import("../diagnose/doctor.ts");
  const agent = stateClient(config.runDir, { timeoutMs: AGENT_TIMEOUT_MS });
  using progress = new Progress(io);
  const ended = new Set<string>();
  using _timer = setInterval(() => progress.say(`examining; done: ${[...ended].join(" ")}`), 200);
  const findings = await examineNode({ config, agent, onprogress: (id) => void ended.add(id) });
  const worst = worstLevel(findings);
  if (values.json) io.print(`${JSON.stringify({ worst, findings })}\n`);
  else io.print(renderFindings(findings, io.colours));
  return worst === "fail" ? 1 : 0;
}

const STYLES: Readonly<Record<FindingLevel, Style>> = { ok: "good", warn: "doubt", fail: "bad" };

/** A line for each finding, a second one for its fix; the worst last, where a terminal ends. */
export function renderFindings(findings: readonly Finding[], colours: boolean): string {
  const width = Math.max(...findings.map(({ id }) => id.length), 0);
  const order = (["ok", "warn", "fail"] as const).flatMap((level) =>
    findings.filter((each) => each.level === level),
  );
  const lines = order.flatMap(({ id, level, what, fix }) => [
    `${paint(level.padEnd(4), STYLES[level], colours)}  ${id.padEnd(width)}  ${printable(what)}`,
    ...(fix === null ? [] : [`${" ".repeat(6 + width)}  fix: ${printable(fix)}`]),
  ]);
  const count = (level: FindingLevel): number => findings.filter((each) => each.level === level).length;
  return `${[...lines, `${count("fail")} to mend, ${count("warn")} to know, ${count("ok")} right`].join("\n")}\n`;
}
