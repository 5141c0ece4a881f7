// SPDX-License-Identifier: Apache-2.0
// The whole node against what should be: pods and host, looked at in the kernel; what is found is looked for twice.
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { isTouched } from "../check/signs.ts";
import type { AgentConfig } from "../config.ts";
import { Netns } from "../linux/netns.ts";
import { type PodProcess, scanProc } from "../linux/proc-scan.ts";
import { forEachLimited } from "../loop/limit.ts";
import { knownVariant } from "../netfilter/variant.ts";
import type { RedirectOptions } from "../redirection/rules.ts";
import { rulesKnowledge } from "../redirection/rules-knowledge.ts";
import type { NodeReport } from "../status/node-state-report.ts";
import type { StateReader } from "../status/state-reader.ts";
import type { PodListReport, PodReport } from "../status/state-report.ts";
import { lookAtHostRules } from "../uninstall/node-cleanup-host.ts";
import { type Fault, fault, isKnownWrong } from "./fault.ts";
import { checkHost, type HostMember } from "./host-check.ts";
import { type KernelEyes, openEyes } from "./kernel-eyes.ts";
import { checkPod, type PodSubject, sharedNamespaces, subjectOf, wantedPod } from "./pod-check.ts";

/** How to verify. */
export interface VerifyOptions {
  readonly config: AgentConfig;
  /** Says what should be; asked again before something is reported. */
  readonly agent: Pick<StateReader, "pods" | "node">;
  /** Only this pod, `namespace/name`, and the host. */
  readonly only?: string | undefined;
  /** How far it is. */
  readonly onprogress?: (done: number, all: number) => void;
}

/** What was found. */
export interface VerifyReport {
  readonly at: string;
  /** Why nobody said what should be; `null`: the agent did. */
  readonly agentAway: string | null;
  /** Pods that were looked at, how many of them belong into the mesh, and how many are redirected to their sidecar. */
  readonly pods: { readonly looked: number; readonly wanted: number; readonly sidecars: number };
  /** What is known to be wrong. */
  readonly faults: readonly Fault[];
  /** Pods whose rules cannot be read or judged: they may well be right. */
  readonly unverified: readonly Fault[];
  /** What could not be looked at, and why. */
  readonly unseen: readonly string[];
}

const PARALLEL = 8;
/** Before a fault is looked for again. */
const CONFIRM_MS = 300;

/**
 * Looks at every pod and at the host. A fault counts when it is found in two looks: between two, an agent that is at work
 * finishes what it does.
 * @throws Error when nothing can be looked at: no host namespace, no iptables
 */
export async function verifyNode(options: VerifyOptions): Promise<VerifyReport> {
  const first = await look(options);
  if (first.faults.length + first.unverified.length === 0) return first;
  await delay(CONFIRM_MS);
  const second = await look({ ...options, onprogress: () => {} });
  const before = new Set([...first.faults, ...first.unverified].map(keyOf));
  const wasSeen = (each: Fault): boolean => before.has(keyOf(each));
  return {
    ...second,
    faults: second.faults.filter(wasSeen),
    unverified: second.unverified.filter(wasSeen),
  };
}

function keyOf({ kind, pod }: Fault): string {
  return `${kind} ${pod}`;
}

interface Subjects {
  readonly agentAway: string | null;
  readonly subjects: readonly PodSubject[];
  readonly members: readonly HostMember[] | undefined;
  readonly eyes: KernelEyes;
  readonly settings: Settings;
}

type Settings = Pick<
  AgentConfig,
  | "ambient"
  | "ipv6"
  | "probeSnatV4"
  | "probeSnatV6"
  | "branchEniProbes"
  | "probeMatch"
  | "establishedConnections"
>;

async function look(options: VerifyOptions): Promise<VerifyReport> {
  const { subjects, members, eyes, agentAway, settings } = await gather(options);
  const unseen: string[] = [];
  const faults: Fault[] = sharedNamespaces(subjects);
  const { config, onprogress } = options;
  const host = hostFaults(config, { settings, eyes, members }).then(
    (found) => void faults.push(...found),
    (error: Error) => void unseen.push(`the host: ${error.message}`),
  );
  let done = 0;
  const checkOne = async (subject: PodSubject): Promise<void> => {
    try {
      const pod = await checkPod(eyes, subject);
      faults.push(...pod.faults);
      for (const { message } of pod.unseen) unseen.push(`${subject.name}: ${message}`);
    } catch (error) {
      const { message } = error as Error;
      if (rulesKnowledge(error) === "unknown") faults.push(fault("unreadable-rules", subject.name, message));
      else unseen.push(`${subject.name}: ${message}`);
    }
    onprogress?.(++done, subjects.length);
  };
  await Promise.all([host, forEachLimited(subjects, checkOne, { places: PARALLEL })]);
  const found = faults.filter(({ pod }) => pod === null || isMeant(pod, options)).sort(byPlace);
  return {
    at: new Date().toISOString(),
    agentAway,
    pods: {
      looked: subjects.length,
      wanted: subjects.filter(({ wanted }) => wanted.redirect !== "outside").length,
      sidecars: subjects.filter(({ wanted }) => wanted.sidecar !== undefined).length,
    },
    faults: found.filter(isKnownWrong),
    unverified: found.filter((each) => !isKnownWrong(each)),
    unseen,
  };
}

/** Where ambient mode is off the host has nothing of ours. */
async function hostFaults(
  { hostRoot, hostNetnsPath }: AgentConfig,
  { settings, eyes, members }: Pick<Subjects, "settings" | "eyes" | "members">,
): Promise<Fault[]> {
  if (settings.ambient)
    return await checkHost({
      ...settings,
      backend: eyes.backend,
      hostNetnsPath,
      procRoot: join(hostRoot, "proc"),
      members,
    });
  const left = await lookAtHostRules({ hostRoot, hostNetnsPath });
  return left.length === 0 ? [] : [fault("host-leftover", null, `the host has ${left.join(", ")}`)];
}

async function gather(options: VerifyOptions): Promise<Subjects> {
  const { config, agent } = options;
  let list: PodListReport | undefined;
  let node: NodeReport | undefined;
  let agentAway: string | null = null;
  try {
    [list, node] = await Promise.all([agent.pods(), agent.node()]);
  } catch (error) {
    agentAway = (error as Error).message;
  }
  const settings = settingsOf(config, node);
  const variant = knownVariant(node?.backend.variant) ?? config.iptablesVariant;
  const eyes = await openEyes({ ...config, ...settings, variant });
  const { oldest: running } = await scanProc(list?.pods.map(wantedPod) ?? "all", {
    procRoot: join(config.hostRoot, "proc"),
    ignoreNetns: eyes.hostNetns,
  });
  const subjects = list
    ? list.pods
        .filter(({ desired: { wanted, sidecar = null } }) => wanted !== null || sidecar !== null)
        .map((pod) => subjectOf(pod, running.get(pod.uid)))
        .filter(({ name }) => isMeant(name, options))
    : await unknownSubjects(eyes, { running, settings });
  return { agentAway, subjects, members: list && membersOf(list.pods), eyes, settings };
}

function isMeant(pod: string, { only = pod }: VerifyOptions): boolean {
  return only === pod;
}

function membersOf(pods: readonly PodReport[]): HostMember[] {
  return pods
    .filter(
      ({ desired, state }) => desired.wanted !== false || state === "enrolled" || state === "unverified",
    )
    .map(({ ns, name, uid, ips, state, observed }) => ({
      name: `${ns}/${name}`,
      uid,
      addresses:
        observed === null || observed.probes.addresses.length === 0 ? ips : observed.probes.addresses,
      required: state === "enrolled",
    }));
}

/** What the agent follows wins over this process' own environment. */
function settingsOf(config: AgentConfig, node: NodeReport | undefined): Settings {
  const told = node?.settings ?? {};
  return {
    ambient: told.AMBIENT_ENABLED === undefined ? config.ambient : told.AMBIENT_ENABLED === "true",
    ipv6: told.AMBIENT_IPV6 === undefined ? config.ipv6 : told.AMBIENT_IPV6 === "true",
    probeSnatV4: told.HOST_PROBE_SNAT_IP ?? config.probeSnatV4,
    probeSnatV6: told.HOST_PROBE_SNAT_IPV6 ?? config.probeSnatV6,
    branchEniProbes: (told.AMBIENT_ENABLE_AWS_BRANCH_ENI_PROBE ?? String(config.branchEniProbes)) === "true",
    probeMatch: (told.PROBE_MATCH ?? config.probeMatch) === "kubelet" ? "kubelet" : "any",
    establishedConnections:
      (told.ESTABLISHED_CONNECTIONS ?? config.establishedConnections) === "reset" ? "reset" : "keep",
  };
}

/** Without an agent: every pod that has something of ours should have all of it, with the options that come nearest. */
async function unknownSubjects(
  eyes: KernelEyes,
  { running, settings }: { running: ReadonlyMap<string, PodProcess>; settings: Settings },
): Promise<PodSubject[]> {
  const subjects: PodSubject[] = [];
  for (const [uid, pod] of running) {
    const redirect = await nearestOptions(eyes, { pod, settings }).catch(() => undefined);
    if (redirect === undefined) continue;
    subjects.push({ name: `pod ${uid}`, wanted: { redirect }, shouldRun: true, running: pod });
  }
  return subjects;
}

async function nearestOptions(
  { redirection }: KernelEyes,
  { pod, settings }: { pod: PodProcess; settings: Settings },
): Promise<RedirectOptions | undefined> {
  using netns = Netns.open(pod.netnsPath);
  if (!(await isTouched(netns))) return undefined;
  const { probeSnatV4, probeSnatV6, establishedConnections } = settings;
  let best: { options: RedirectOptions; drift: number } | undefined;
  for (const [dnsCapture, ingressMode] of VARIANTS) {
    const options = {
      dnsCapture,
      ingressMode,
      virtualInterfaces: [],
      probeSnatV4,
      probeSnatV6,
      establishedConnections,
    };
    const { drift } = await redirection.verify(netns, options);
    if (best === undefined || drift.length < best.drift) best = { options, drift: drift.length };
    if (drift.length === 0) break;
  }
  return best?.options;
}

const VARIANTS = [
  [true, false],
  [false, false],
  [true, true],
  [false, true],
] as const;

function byPlace(a: Fault, b: Fault): number {
  const [left, right] = [`${a.pod ?? ""} ${a.kind}`, `${b.pod ?? ""} ${b.kind}`];
  return left < right ? -1 : left > right ? 1 : 0;
}
