// SPDX-License-Identifier: Apache-2.0
// `ambient-cni status`: the agent's own picture of the node, one line a pod.
import { isIPv6 } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import type { AmbientLeftoversReport, NodeReport } from "../status/node-state-report.ts";
import { isWithoutAmbient } from "../status/served-sidecar.ts";
import type { StateReader } from "../status/state-reader.ts";
import type { PodListReport, PodReport } from "../status/state-report.ts";
import { type Command, type CommandIo, parseCommandLine, parsePodName } from "./command.ts";
import { bypassLines, earlierLines, renderPodDetail } from "./pod-detail.ts";
import { AgentAwayError, stateClient } from "./state-client.ts";
import { type Cell, paint, printable, renderAge, renderTable } from "./table.ts";

const REFRESH_MS = 1_000;
const TIMEOUT_MS = 3_000;
const CLEAR_SCREEN = "\u001b[H\u001b[2J";

/** `ambient-cni status`. */
export const statusCommand: Command = {
  name: "status",
  summary: "what the agent knows of this node's pods",
  options: ["json", "watch", "help"],
  help: `usage: ambient-cni status [--json] [--watch] [NAMESPACE/POD]

Prints a line for the node and one for each of its pods, as the agent knows them; of one pod, everything that is known. To
have the kernel looked at instead, use: ambient-cni verify

columns:
  WANTED    it belongs into the mesh by its labels; ? while those of its namespace are not known
  STATE     outside, waiting, pending (half-way in or out), enrolled, unverified (its rules cannot be read or judged: it may
            well be captured), failed; sidecar: redirected to its own sidecar, which ztunnel has no part in
  VERIFIED  since rules, ip rule and route were last seen to be right in the kernel
  ZTUNNEL   ack: ztunnel has acknowledged the pod's present namespace; told: it has not yet
  PROBES    kubelet probes reach it past ztunnel

Below the table: pods that had connections open when they were captured, and what became of those; pods whose traffic may get past
ztunnel, because something comes before our rules.

options:
  --json    print the agent's answer: {"node": …, "pods": …}, or the pod's
  --watch   print it again every second until interrupted

exit code: 0, 1 when no agent answers or there is no such pod, 2 wrong usage

examples:
  ambient-cni status
  ambient-cni status --watch
  ambient-cni status shop/cart-7d9c6b5f4-x2x8k
  ambient-cni status --json | jq '.pods.pods[] | select(.state == "failed") | .summary'
`,
  run: runStatus,
};

async function runStatus(args: readonly string[], io: CommandIo): Promise<number> {
  const { values, positionals } = parseCommandLine("status", args, {
    json: { type: "boolean", default: false },
    watch: { type: "boolean", default: false },
  });
  const only = parsePodName("status", positionals);
  const agent = stateClient(io.config().runDir, { timeoutMs: TIMEOUT_MS });
  const { json } = values;
  const show = async (): Promise<number> => {
    try {
      return await (only === undefined ? showNode(agent, io, json) : showPod(agent, io, { only, json }));
    } catch (error) {
      if (!(error instanceof AgentAwayError)) throw error;
      if (json) io.print(`${JSON.stringify({ error: error.message })}\n`);
      io.warn(`ambient-cni: ${error.message}\n`);
      return 1;
    }
  };
  if (!values.watch) return await show();
  for (;;) {
    const startMs = performance.now();
    if (io.isTerminal && !json) io.print(CLEAR_SCREEN);
    const code = await show();
    if (io.signal.aborted) return code;
    await delay(Math.max(0, REFRESH_MS - (performance.now() - startMs)), undefined, {
      signal: io.signal,
    }).catch(() => {});
    if (io.signal.aborted) return code;
  }
}

async function showNode(agent: StateReader, io: CommandIo, json: boolean): Promise<number> {
  const [node, pods] = await Promise.all([agent.node(), agent.pods()]);
  if (json) io.print(`${JSON.stringify({ node, pods })}\n`);
  else io.print(renderNode(node, io.colours, { list: pods.pods }) + renderPods(pods, io));
  return 0;
}

async function showPod(
  agent: StateReader,
  io: CommandIo,
  { only, json }: { only: { ns: string; name: string }; json: boolean },
): Promise<number> {
  const pod = await agent.pod(only.ns, only.name);
  if (pod === undefined) {
    io.warn(`ambient-cni: there is no pod "${only.ns}/${only.name}" on this node\n`);
    return 1;
  }
  io.print(json ? `${JSON.stringify(pod)}\n` : renderPodDetail(pod, io.colours));
  return 0;
}

/** One line of the node, and one for each thing that is missing. @param list its pods, for what is said of many at once */
export function renderNode(
  node: NodeReport,
  colours: boolean,
  { list = [] }: { readonly list?: readonly PodReport[] } = {},
): string {
  const { pods, ztunnel, chain, backend } = node;
  const newest = ztunnel.connections.at(-1);
  const state = node.ready ? paint("ready", "good", colours) : paint("not ready", "bad", colours);
  const parts = [
    `node ${node.node}: ${state}`,
    `agent ${node.version} up ${renderAge(node.uptimeSeconds * 1000)}`,
    backend.variant === "native" ? "native nftables" : `iptables-${backend.variant}`,
    isWithoutAmbient(node)
      ? "sidecars alone (AMBIENT_ENABLED=false)"
      : newest === undefined
        ? paint("no ztunnel", "bad", colours)
        : `ztunnel ${ztunnel.ready ? "connected" : newest.phase}, ${newest.acknowledged} acknowledged`,
    chain === null
      ? "chain left to others"
      : `chain ${chain.installed ? chain.file : paint("not installed", "bad", colours)}`,
    ...runtimeText(node, colours),
    `pods ${pods.known}: ${pods.wanted} wanted, ${pods.enrolled} enrolled, ${pods.verified} verified${sidecarText(pods)}${unverifiedText(pods, colours)}`,
  ];
  const lines = [parts.join(" · ")];
  const say = (what: string): void => void lines.push(`  ${paint("!", "bad", colours)} ${printable(what)}`);
  for (const { name, met, reason } of node.conditions) if (!met) say(`${name}: ${reason}`);
  if (node.probes.fault !== null) say(`probes: ${node.probes.fault}`);
  const path = node.probes.path;
  if (path !== null && path.outcome !== "bypassed") say(`probe path: ${path.message}. ${path.remedy ?? ""}`);
  if (node.ambientLeftovers) say(leftoversText(node.ambientLeftovers));
  if ((pods.mayBeBypassed ?? 0) > 0) say(`${pods.mayBeBypassed} pods may be bypassed: see below`);
  const isOutside = ({ state, ips }: PodReport): boolean => state === "enrolled" && ips.some(isIPv6);
  const outside = node.settings.AMBIENT_IPV6 === "false" ? list.filter(isOutside).length : 0;
  if (outside > 0) say(`AMBIENT_IPV6=false: IPv6 traffic of ${outside} captured pods passes ztunnel by`);
  if ((pods.slow ?? 0) > 0)
    say(`${pods.slow} pods take long to look at, and are looked at less often: see below`);
  for (const { kind, count } of pods.failing) say(`${count} pods not where they should be: ${kind}`);
  return `${lines.join("\n")}\n\n`;
}

/** Who tells of sandboxes besides CNI, and how many nobody but it told of. */
function runtimeText({ runtime, sandboxes = [] }: NodeReport, colours: boolean): string[] {
  if (!runtime || runtime.state === "absent") return [];
  if (runtime.state !== "connected") return [paint("NRI away", "doubt", colours)];
  const { count = 0 } = sandboxes.find(({ kind }) => kind === "nri") ?? {};
  return [`NRI ${runtime.runtime ?? "connected"}${count === 0 ? "" : `, ${count} sandboxes by it alone`}`];
}

/** Why the host still has what nobody keeps. */
function leftoversText({ rules, captured, fault }: AmbientLeftoversReport): string {
  if (rules.length === 0) return `cannot tell what ambient mode left on the host: ${fault}`;
  const why =
    captured.length > 0
      ? `network namespaces are still captured: ${captured.join(", ")}`
      : (fault ?? "it is about to be taken away");
  return `ambient mode is off, and the host still has ${rules.join(", ")}: ${why}`;
}

function sidecarText({ sidecar = 0 }: NodeReport["pods"]): string {
  return sidecar === 0 ? "" : `, ${sidecar} sidecar`;
}

function unverifiedText({ unverified = 0 }: NodeReport["pods"], colours: boolean): string {
  return unverified === 0 ? "" : `, ${paint(`${unverified} cannot be verified`, "doubt", colours)}`;
}

const HEAD: readonly Cell[] = [
  "NAMESPACE",
  "POD",
  "WANTED",
  "STATE",
  "VERIFIED",
  "ZTUNNEL",
  "PROBES",
  "LAST ERROR",
].map((text) => ({ text, style: "strong" as const }));

/** The table of pods. */
export function renderPods(
  list: PodListReport,
  options: { colours: boolean; columns?: number | undefined },
): string {
  if (list.pods.length === 0) return "no pods on this node\n";
  const nowMs = Date.parse(list.at);
  const table = renderTable([HEAD, ...list.pods.map((pod) => rowOf(pod, nowMs))], options);
  const earlier = renderNotes(list.pods, (pod) => earlierLines(pod).map((line) => line.join(" ")));
  const bypasses = renderNotes(list.pods, ({ observed }) =>
    observed === null ? [] : bypassLines(observed).map((line) => line.join(": ")),
  );
  return table + earlier + bypasses;
}

/** Below the table, for they are few: what is to be said of some pods. */
function renderNotes(pods: readonly PodReport[], notesOf: (pod: PodReport) => readonly string[]): string {
  const lines = pods.flatMap((pod) =>
    notesOf(pod).map((note) => `  ${printable(`${pod.ns}/${pod.name}: ${note}`)}\n`),
  );
  return lines.length === 0 ? "" : `\n${lines.join("")}`;
}

function rowOf(pod: PodReport, nowMs: number): Cell[] {
  const { desired, observed, lastError } = pod;
  const isIn = observed !== null;
  const verified = observed?.unread === null ? renderAge(nowMs - Date.parse(observed.at)) : "-";
  return [
    pod.ns,
    pod.name,
    desired.wanted === null ? "?" : desired.wanted ? "yes" : "no",
    { text: pod.state, style: styleOf(pod) },
    verified,
    !isIn ? "-" : observed.ztunnel.acknowledged ? "ack" : observed.ztunnel.inRoster ? "told" : "-",
    !isIn || observed.probes.member === null ? "-" : observed.probes.member ? "yes" : "no",
    lastError === null ? "" : `${lastError.message} (${lastError.attempts}x)`,
  ];
}

function styleOf({ state, desired, lastError }: PodReport): "good" | "bad" | "doubt" | "faint" {
  if (state === "unverified") return "doubt";
  if (state === "failed" || lastError !== null) return "bad";
  if (state === "enrolled" || state === "sidecar") return "good";
  return state === "outside" && desired.wanted === false ? "faint" : "doubt";
}
