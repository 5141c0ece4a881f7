// SPDX-License-Identifier: Apache-2.0
// Which pods of the mesh have processes that can send past ztunnel, by the capabilities that the kernel shows: not by the pod's spec.
import { bareUid, type NodeCgroup } from "../linux/cgroup-path.ts";
import { nodeCgroupOf, Process, processesIn } from "../linux/proc.ts";
import type { PodProcess } from "../linux/proc-scan.ts";
import { holds, type ProcessCapabilities, parseCapabilities } from "../linux/process-capabilities.ts";
import { userNamespacesOver } from "../linux/user-namespaces.ts";
import type { PodListReport } from "../status/state-report.ts";
import { type Finding, fine, warning } from "./finding.ts";
import { openAs } from "./pod-check.ts";

/** What a process can send past ztunnel by. `gained`: only by starting a program that has it, set-user-ID for example. */
export interface OutboundMeans {
  readonly names: readonly ("NET_ADMIN" | "NET_RAW")[];
  readonly gained: boolean;
  /** It has every capability of the node, as a privileged container's has. */
  readonly all: boolean;
}

/** What to look at. */
export interface OutboundCheckOptions {
  /** The node's, as its first pid namespace has it. */
  readonly procRoot: string;
  /** The agent's answer; `undefined`: nobody knows which pods are of the mesh. */
  readonly pods: PodListReport | undefined;
}

interface MeshPod {
  readonly name: string;
  readonly uid: string;
  /** Of what holds the namespace, as far as the agent can tell. */
  readonly sandboxId: string | null;
}

const ID = "outbound-bypass";
const MEANS = ["NET_ADMIN", "NET_RAW"] as const;
const NAMED = 3;
const FIX =
  "drop them where they are not needed: securityContext.capabilities.drop: [ALL] and allowPrivilegeEscalation: false (PodSecurity " +
  "restricted); what such a pod sends past ztunnel only the other side can refuse (PeerAuthentication STRICT)";

/**
 * One finding. Either capability lets a process set mark 0x539, by which rules know ztunnel's own packets: NET_RAW since Linux 5.17.
 * On every kernel NET_RAW opens packet sockets, whose frames meet no rule, and NET_ADMIN takes rules away.
 *
 * Each process is judged by its first thread. Source: Linux net/core/sock.c, sk_setsockopt, SO_MARK; packet(7).
 */
export async function checkOutboundBypass({ procRoot, pods }: OutboundCheckOptions): Promise<Finding> {
  if (pods === undefined)
    return warning(ID, "not looked at: the agent alone knows which pods are of the mesh", "start the agent");
  const wanted = podsByNetns(pods);
  const { found, seen } = await podsWithMeans(wanted, procRoot);
  if (seen.size === 0 && wanted.size > 0) {
    const what = `not looked at: of ${wanted.size} pods of the mesh no process is seen here`;
    return warning(ID, what, "mount the host's /proc below HOST_ROOT and grant the capability SYS_PTRACE");
  }
  if (found.size === 0) {
    const unseen = wanted.size === seen.size ? "" : `; of ${wanted.size - seen.size} more none is seen here`;
    return fine(ID, `no process of ${seen.size} pods of the mesh has NET_ADMIN or NET_RAW${unseen}`);
  }
  const sorted = [...found].sort(([a], [b]) => (a < b ? -1 : 1));
  const first = sorted.slice(0, NAMED).map(([name, means]) => `${name} (${textOf(means)})`);
  const rest = sorted.length > NAMED ? `, and ${sorted.length - NAMED} more` : "";
  const what = `${sorted.length} of ${wanted.size} pods of the mesh can send past ztunnel, by mark 0x539 or a packet socket: ${first.join(", ")}${rest}`;
  return warning(ID, what, FIX);
}

/** What one process has; `undefined`: nothing. @param all every capability of the node. Pure. */
export function judgeMeans(has: ProcessCapabilities, all: bigint): OutboundMeans | undefined {
  const own = has.effective | has.permitted;
  const held = MEANS.filter((name) => holds(own, name));
  if (held.length > 0) return { names: held, gained: false, all: all !== 0n && (own & all) === all };
  const inReach = has.noNewPrivs ? [] : MEANS.filter((name) => holds(has.bounding, name));
  return inReach.length === 0 ? undefined : { names: inReach, gained: true, all: false };
}

function podsByNetns({ pods }: PodListReport): ReadonlyMap<string, MeshPod> {
  const wanted = new Map<string, MeshPod>();
  for (const { ns, name, uid, desired, observed } of pods) {
    if (desired.wanted !== true || observed?.netns == null) continue;
    wanted.set(observed.netns, { name: `${ns}/${name}`, uid: bareUid(uid), sandboxId: observed.containerId });
  }
  return wanted;
}

/** The strongest of each pod's processes, and the pods that have any. */
async function podsWithMeans(
  wanted: ReadonlyMap<string, MeshPod>,
  procRoot: string,
): Promise<{ found: Map<string, OutboundMeans>; seen: Set<string> }> {
  const node = nodeCgroupOf(procRoot);
  const all = everyCapability(procRoot);
  const rulers = new Map<string, ReadonlySet<string>>();
  const found = new Map<string, OutboundMeans>();
  const ofSandboxes = new Map<string, OutboundMeans>();
  const seen = new Set<string>();
  const withContainers = new Set<string>();
  for await (const process of processesIn(procRoot)) {
    const netnsKey = process.netnsKey();
    const pod = netnsKey === undefined ? undefined : wanted.get(netnsKey);
    if (netnsKey === undefined || pod === undefined) continue;
    seen.add(pod.name);
    const part = partOf(process, pod, node);
    if (part === "none") continue;
    if (part === "container") withContainers.add(pod.name);
    const kept = part === "container" ? found : ofSandboxes;
    const means = judgeMeans(parseCapabilities(process.read("status") ?? ""), all);
    const known = kept.get(pod.name);
    if (means === undefined || (known !== undefined && strength(known) >= strength(means))) continue;
    const over = rulers.get(netnsKey) ?? rulersOf({ netnsPath: process.netnsPath, netnsKey });
    if (over === undefined) continue;
    rulers.set(netnsKey, over);
    const userNamespace = process.userNamespaceKey();
    if (userNamespace !== undefined && over.has(userNamespace)) kept.set(pod.name, means);
  }
  for (const [name, means] of ofSandboxes) if (!withContainers.has(name)) found.set(name, means);
  return { found, seen };
}

/**
 * Whose a process in the pod's namespace is; `none`: a program of the node's that entered it. What holds the namespace runs no code of a
 * tenant, so it counts only where nothing else runs: of a pod that was found running, the agent takes the oldest container for it,
 * which with a runtime that keeps no such process is the pod's own.
 */
function partOf(process: Process, pod: MeshPod, node: NodeCgroup): "container" | "sandbox" | "none" {
  const { podUid, containerId } = process.owner(node) ?? {};
  // some runtimes keep the UID out of the path
  if (podUid === undefined ? containerId === undefined : podUid !== pod.uid) return "none";
  return pod.sandboxId !== null && containerId === pod.sandboxId ? "sandbox" : "container";
}

/** @returns undefined once the process has ended */
function rulersOf(process: Pick<PodProcess, "netnsPath" | "netnsKey">): ReadonlySet<string> | undefined {
  using netns = openAs(process);
  return netns && userNamespacesOver(netns.fd);
}

/** What the node's first process may have: a node that is a container itself gives no more to its privileged ones. */
function everyCapability(procRoot: string): bigint {
  return parseCapabilities(new Process(procRoot, 1).read("status") ?? "").bounding;
}

function strength({ names, gained, all }: OutboundMeans): number {
  return (all ? 8 : 0) + (gained ? 0 : 4) + names.length;
}

function textOf({ names, gained, all }: OutboundMeans): string {
  if (all) return "privileged";
  return gained ? `${names.join(", ")} through a program that has it` : names.join(", ");
}
