// SPDX-License-Identifier: Apache-2.0
// The three classic checks of a pod: ztunnel, rules, log; each with what was seen and one verdict.

import { join } from "node:path";
import type { AgentConfig } from "../config.ts";
import { ApiClient } from "../kube/api-client.ts";
import { recordOf, textOf } from "../kube/json-fields.ts";
import { type PodProcess, scanProc } from "../linux/proc-scan.ts";
import { BACKEND_NAMES } from "../netfilter/variant.ts";
import { renderSidecarText } from "../redirection/told-sidecar.ts";
import { isServedSidecar } from "../status/served-sidecar.ts";
import type { StateReader } from "../status/state-reader.ts";
import type { PodDetailReport, PodListReport } from "../status/state-report.ts";
import type { Fault, FaultKind } from "./fault.ts";
import { agentsEyes, type KernelEyes, openEyes } from "./kernel-eyes.ts";
import { checkPod, type PodCheck, subjectOf, wantedPod } from "./pod-check.ts";
import { readRules, ruleLines } from "./rule-reader.ts";

/** One check. */
export interface DebugCheck {
  readonly title: string;
  /** What was seen. */
  readonly lines: readonly string[];
  readonly passed: boolean;
  readonly verdict: string;
}

/** One pod's checks. */
export interface PodDebug {
  readonly name: string;
  readonly summary: string;
  readonly checks: readonly DebugCheck[];
}

/** What to look for. */
export interface DebugOptions {
  readonly config: AgentConfig;
  readonly agent: StateReader;
  /** Value of the label `app`, or `NAME=VALUE`. */
  readonly label: string;
  readonly namespace: string;
}

/** Checks the pods of an app on this node. @returns them, and how they were searched for */
export async function debugPods(options: DebugOptions): Promise<{ how: string; pods: PodDebug[] }> {
  const { config, agent, namespace } = options;
  const [list, node] = await Promise.all([agent.pods(), agent.node()]);
  const { how, names } = await podNames(options, list);
  const eyes = await openEyes({ ...config, ...agentsEyes(config, node) });
  const details = await Promise.all(names.map((name) => agent.pod(namespace, name)));
  const pods = details.filter((pod) => pod !== undefined);
  const { oldest } = await scanProc(pods.map(wantedPod), {
    procRoot: join(config.hostRoot, "proc"),
    ignoreNetns: eyes.hostNetns,
  });
  const debugged = await Promise.all(pods.map((pod) => debugPod(eyes, pod, oldest.get(pod.uid))));
  return { how, pods: debugged };
}

async function podNames(
  { config, label, namespace }: DebugOptions,
  list: PodListReport,
): Promise<{ how: string; names: string[] }> {
  const here = list.pods.filter(({ ns }) => ns === namespace).map(({ name }) => name);
  const labelSelector = label.includes("=") ? label : `app=${label}`;
  try {
    const client = ApiClient.load({ kubeconfigPath: config.kubeconfigPath, limits: { headersMs: 3_000 } });
    try {
      const path = `/api/v1/namespaces/${encodeURIComponent(namespace)}/pods`;
      const convert = (raw: unknown): string => textOf(recordOf(recordOf(raw).metadata).name);
      const { items } = await client.list(path, { labelSelector }, { convert, metadataOnly: true });
      return { how: `labelled ${labelSelector}`, names: items.filter((name) => here.includes(name)) };
    } finally {
      client.close();
    }
  } catch (error) {
    const value = label.slice(label.indexOf("=") + 1);
    const names = here.filter((name) => name === value || name.startsWith(`${value}-`));
    return { how: `by name, because labels cannot be asked for: ${(error as Error).message}`, names };
  }
}

async function debugPod(
  eyes: KernelEyes,
  pod: PodDetailReport,
  running: PodProcess | undefined,
): Promise<PodDebug> {
  const { faults, unseen, seen } = await checkPod(eyes, subjectOf(pod, running));
  const name = `${pod.ns}/${pod.name}`;
  const isWanted = pod.desired.wanted === true;
  const checks = [
    ztunnelCheck(pod, { seen, faults, isWanted }),
    isServedSidecar(pod)
      ? sidecarCheck(eyes, pod, { faults, unseen })
      : rulesCheck(eyes, { lines: await ruleLinesOf(eyes, pod, running), faults, unseen, isWanted }),
    logCheck(pod),
  ];
  return { name, summary: `${pod.state}, ${isWanted ? "wanted" : "not wanted"}: ${pod.desired.why}`, checks };
}

interface Known {
  readonly faults: readonly Fault[];
  readonly isWanted: boolean;
}

const IDENTITY_FAULTS: readonly FaultKind[] = ["no-sandbox", "netns-swapped", "shared-netns"];

function ztunnelCheck(
  pod: PodDetailReport,
  { seen, faults, isWanted }: Known & { readonly seen: PodCheck["seen"] | undefined },
): DebugCheck {
  const title = "ztunnel is told of the pod and listens in it";
  const ztunnel = pod.observed?.ztunnel;
  const told =
    ztunnel?.acknowledged === true
      ? `acknowledged namespace ${ztunnel.netns} on connection ${ztunnel.connection}`
      : ztunnel?.inRoster === true
        ? "told of the pod, has not acknowledged it"
        : "not told of the pod";
  const open = (seen?.sockets.value ?? [])
    .filter(({ listening }) => listening)
    .map(({ protocol, port }) => `${protocol}/${port}`);
  const earlier = pod.earlierConnections ?? 0;
  const lines = [
    `ztunnel: ${told}`,
    `listening: ${open.join(" ") || "nothing"}`,
    ...(earlier > 0 ? [`connections open when it was captured: ${earlier}`] : []),
  ];
  if (!isWanted) {
    const passed = ztunnel?.inRoster !== true && open.length === 0;
    return {
      title,
      lines,
      passed,
      verdict: passed
        ? isServedSidecar(pod)
          ? "the pod has a sidecar of its own, and ztunnel has no part in it"
          : "the pod is outside the mesh, and ztunnel has no part in it"
        : "the pod should be outside the mesh, but ztunnel has it",
    };
  }
  const wrong = faults.find(({ kind }) => kind === "ztunnel-sockets" || IDENTITY_FAULTS.includes(kind));
  if (wrong !== undefined) return { title, lines, passed: false, verdict: `${wrong.what}; ${wrong.fix}` };
  if (ztunnel?.acknowledged !== true) {
    const verdict = `ztunnel has not acknowledged the pod; ${pod.lastError?.remedy ?? "look at its log on this node"}`;
    return { title, lines, passed: false, verdict };
  }
  return { title, lines, passed: true, verdict: "ztunnel has the pod and listens on all its ports" };
}

const RULE_KINDS: readonly FaultKind[] = ["ztunnel-sockets", "capture-without-annotation"];

function rulesCheck(
  { backend }: KernelEyes,
  { lines, faults, unseen, isWanted }: Known & Pick<PodCheck, "unseen"> & { readonly lines: string[] },
): DebugCheck {
  const title = `rules in mangle and nat (${BACKEND_NAMES[backend.variant]})`;
  const right = isWanted
    ? "chains, jumps, ip rule and route are as they should be"
    : "nothing of ours is there, as it should be";
  return { title, lines, ...verdictOf({ faults, unseen }, right) };
}

/** Compared with what is told, in the kernel; the lines are what should be there. */
function sidecarCheck(
  eyes: KernelEyes,
  { desired: { sidecar = null }, observed }: PodDetailReport,
  found: Pick<PodCheck, "faults" | "unseen">,
): DebugCheck {
  const title = "rules that redirect it to its sidecar";
  if (sidecar === null)
    return {
      title,
      lines: ["not known: its ADD was not answered by this agent, or its annotations cannot be followed"],
      passed: false,
      verdict: "nobody looks after its rules: see the last check, and `ambient-cni doctor`",
    };
  const seen = observed?.families.map(({ family }) => family) ?? [];
  const lines = (seen.length > 0 ? seen : eyes.families).flatMap((family) => [
    `IPv${family}, as they should be:`,
    ...renderSidecarText(sidecar, family)
      .split("\n")
      .filter((line) => /^[*-]/.test(line))
      .map((line) => `  ${line}`),
  ]);
  return { title, lines, ...verdictOf(found, "all of them stand, and what leads to the proxy besides") };
}

function verdictOf(
  { faults, unseen }: Pick<PodCheck, "faults" | "unseen">,
  right: string,
): Pick<DebugCheck, "passed" | "verdict"> {
  const wrong = faults.filter(({ kind }) => !RULE_KINDS.includes(kind));
  if (wrong.length > 0) {
    const verdict = wrong.map(({ kind, what, fix }) => `${kind}: ${what}; ${fix}`).join(" | ");
    return { passed: false, verdict };
  }
  if (unseen.length === 0) return { passed: true, verdict: right };
  const why = unseen.map(({ message }) => message).join(" | ");
  return { passed: false, verdict: `could not be looked at: ${why}` };
}

/** Our rules as the engine tells them; why there are none to tell where it cannot. */
async function ruleLinesOf(
  eyes: KernelEyes,
  pod: PodDetailReport,
  running: PodProcess | undefined,
): Promise<string[]> {
  try {
    const { chains } = await readRules(eyes, pod, running);
    return ruleLines(chains, eyes.families);
  } catch (error) {
    return [`not known: ${(error as Error).message}`];
  }
}

function logCheck({ log, lastError }: PodDetailReport): DebugCheck {
  const lines = log.map(
    ({ at, level, scope, message, reason }) =>
      `${at} ${level} ${scope}: ${message}${reason === null ? "" : `: ${reason}`}`,
  );
  const title = "what the agent said of the pod";
  if (lastError !== null)
    return { title, lines, passed: false, verdict: `${lastError.message}; ${lastError.remedy}` };
  const last = log.findLast(({ level }) => level === "error" || level === "warn");
  const verdict = last === undefined ? "no failure" : `no failure since; the last warning: ${last.message}`;
  return { title, lines: lines.length === 0 ? ["nothing"] : lines, passed: true, verdict };
}
