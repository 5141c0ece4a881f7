// SPDX-License-Identifier: Apache-2.0
// What the kernel has counted on a rule of a pod, asked past the agent.
import type { Pod } from "../support/node/pod.ts";

/** Packets that the IPv4 rule which redirects to a port has seen. */
export async function iptablesCounters(pod: Pod, rule: { table: string; target: string }): Promise<number> {
  const { stdout } = await pod.exec(["iptables", "-t", rule.table, "-nvxL", "ISTIO_OUTPUT"]);
  const line = stdout.split("\n").find((each) => each.trimEnd().endsWith(`redir ports ${rule.target}`));
  if (line === undefined) throw new Error(`no rule redirects to ${rule.target}:\n${stdout}`);
  return Number(line.trim().split(/\s+/)[0]);
}
