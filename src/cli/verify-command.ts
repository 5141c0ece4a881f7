// SPDX-License-Identifier: Apache-2.0
// `ambient-cni verify`: what should be against what the kernel has.
import type { Fault } from "../diagnose/fault.ts";
import type { VerifyReport } from "../diagnose/verify-node.ts";
import { type Command, type CommandIo, parseCommandLine, parsePodName } from "./command.ts";
import { Progress } from "./progress.ts";
import { stateClient } from "./state-client.ts";
import { paint, printable } from "./table.ts";

/** Exit codes of `verify`, the worst of what holds: 1, then 3, then 4. */
export const VERIFY_EXIT = { right: 0, mismatch: 1, blind: 3, unverified: 4 } as const;

/** `ambient-cni verify`. */
export const verifyCommand: Command = {
  name: "verify",
  summary: "compare every pod and the host with what they should be, in the kernel",
  options: ["json", "help"],
  help: `usage: ambient-cni verify [--json] [NAMESPACE/POD]

Looks at the kernel itself: the network namespace that each pod really runs in, its rules in both iptables variants, ip rule,
route, ztunnel's sockets, annotations; of pods that are redirected to their sidecar its rules, in the variant that the node
uses; the host's chain and sets for kubelet probes. What should be is asked from the agent;
without an agent each pod that has something of ours must have all of it. Writes nothing. A mismatch is reported when it is
seen twice, 0.3 s apart: what a working agent repairs meanwhile is none.

names of mismatches:
  missing-jump missing-chain missing-rule extra-rule reordered duplicate-jump jump-not-first unexpected-table
  missing-ip-rule missing-route loopback-down wrong-backend foreign-chain dormant-table may-be-bypassed
  missing-set missing-set-entry wrong-set-entry stale-set-entry host-chain host-leftover
  netns-swapped shared-netns no-sandbox ztunnel-sockets
  no-sidecar-rules missing-routing missing-address
  not-captured annotation-without-capture capture-without-annotation unwanted-capture

name of what is no mismatch, for nobody can know whether there is one: unreadable-rules

options:
  --json   print one JSON object: agentAway, pods, faults, unverified, unseen

exit code: 0 all is right, 1 something differs, 2 wrong usage, 3 it could not be looked at, 4 everything was looked at and
nothing wrong was seen, but of some pods the rules cannot be read or judged

examples:
  ambient-cni verify
  ambient-cni verify shop/cart-7d9c6b5f4-x2x8k
  kubectl -n istio-system exec ds/ambient-cni-node -- ambient-cni verify --json
`,
  run: runVerify,
};

async function runVerify(args: readonly string[], io: CommandIo): Promise<number> {
  const { values, positionals } = parseCommandLine("verify", args, {
    json: { type: "boolean", default: false },
  });
  const [only] = positionals;
  parsePodName("verify", positionals);
  const config = io.config();
  const agent = stateClient(config.runDir);
  const { verifyNode } = await import("../diagnose/verify-node.ts");
  let report: VerifyReport;
  using progress = new Progress(io);
  try {
    report = await verifyNode({
      config,
      only,
      agent,
      onprogress: (done, all) => progress.say(`looked at ${done} of ${all} pods`),
    });
  } catch (error) {
    if (error instanceof TypeError) throw error;
    io.warn(`ambient-cni: Cannot look at this node: ${(error as Error).message}\n`);
    return VERIFY_EXIT.blind;
  }
  const isUnknown = only !== undefined && report.agentAway === null && report.pods.looked === 0;
  if (values.json) io.print(`${JSON.stringify(report)}\n`);
  else if (isUnknown)
    io.warn(`ambient-cni: Cannot verify "${only}": the agent of this node has no such pod\n`);
  else io.print(renderReport(report, io.colours));
  return isUnknown ? VERIFY_EXIT.blind : exitCode(report);
}

function exitCode({ faults, unverified, unseen, agentAway }: VerifyReport): number {
  if (faults.length > 0) return VERIFY_EXIT.mismatch;
  if (unseen.length > 0 || agentAway !== null) return VERIFY_EXIT.blind;
  return unverified.length > 0 ? VERIFY_EXIT.unverified : VERIFY_EXIT.right;
}

function renderReport(report: VerifyReport, colours: boolean): string {
  const { faults, unverified, unseen, agentAway, pods } = report;
  const lines = [
    ...faults.flatMap((each) => renderFault(each, { style: "bad", colours })),
    ...unverified.flatMap((each) => renderFault(each, { style: "doubt", colours })),
  ];
  for (const what of unseen) lines.push(`${paint("not looked at", "doubt", colours)}  ${printable(what)}`);
  if (agentAway !== null) {
    lines.push(`${paint("no agent", "doubt", colours)}  ${printable(agentAway)}`);
    lines.push("          what should be is not known: only pods that have something of ours were looked at");
  }
  const served = pods.sidecars === 0 ? "" : `, ${pods.sidecars} with a sidecar`;
  const looked = `${pods.looked} pods looked at, ${pods.wanted} of the mesh${served}`;
  const verdict =
    faults.length > 0
      ? paint(`${faults.length} ${faults.length === 1 ? "mismatch" : "mismatches"}`, "bad", colours)
      : agentAway === null && unseen.length + unverified.length === 0
        ? paint("all is right", "good", colours)
        : paint(`nothing wrong was seen${cannotVerify(unverified)}`, "doubt", colours);
  return `${[...lines, `${verdict}: ${looked}`].join("\n")}\n`;
}

function cannotVerify(unverified: readonly Fault[]): string {
  const { length } = unverified;
  return length === 0 ? "" : `, and ${length} ${length === 1 ? "pod" : "pods"} cannot be verified`;
}

function renderFault(
  { kind, pod, what, fix }: Fault,
  { style, colours }: { readonly style: "bad" | "doubt"; readonly colours: boolean },
): string[] {
  const place = pod ?? "host";
  return [`${paint(kind, style, colours)}  ${place}: ${printable(what)}`, `    fix: ${printable(fix)}`];
}
