// SPDX-License-Identifier: Apache-2.0
// One pass over /proc: which namespace each of the wanted pods runs in.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { bareUid, parseCgroupOwner } from "./cgroup-path.ts";
import { netnsKeyAt } from "./host-netns.ts";

/** A pod to look for. */
export interface WantedPod {
  readonly uid: string;
  /** From pod status; finds pods of runtimes that keep the UID out of the cgroup path. */
  readonly containerIds: readonly string[];
}

/** The oldest process of a pod, which is the sandbox's own. */
export interface PodProcess {
  readonly netnsPath: string;
  readonly netnsKey: string;
  /** Clock ticks since boot at which the process started. */
  readonly startTime: number;
  /** Innermost container id of its cgroup path: the sandbox's; empty when the path has none. */
  readonly containerId: string;
}

/** What a pass over /proc tells. */
export interface ProcScan {
  /** By the UID of the wanted pods that have processes. */
  readonly oldest: ReadonlyMap<string, PodProcess>;
  /** Pods that have processes in a namespace, wanted or not, by `Netns.key`; UIDs as `bareUid` has them. */
  readonly occupants: ReadonlyMap<string, ReadonlySet<string>>;
}

export interface ProcScanOptions {
  readonly procRoot: string;
  /** Namespaces that belong to no pod; their processes cost one stat each. */
  readonly ignoreNetns: ReadonlySet<string>;
}

/** Processes looked at between two turns of the event loop: about 2.5 ms. */
const chunkSize = 25;

/**
 * Finds the wanted pods among the node's processes. Reads synchronously in short chunks: the files
 * are in memory, and asynchronous reads cost twenty times as much.
 */
export async function scanProc(pods: readonly WantedPod[], options: ProcScanOptions): Promise<ProcScan> {
  const byUid = new Map(pods.map((pod) => [bareUid(pod.uid), pod.uid]));
  const byContainer = new Map(pods.flatMap((pod) => pod.containerIds.map((id) => [id, pod.uid] as const)));
  const oldest = new Map<string, PodProcess>();
  const occupants = new Map<string, Set<string>>();
  const pids = readdirSync(options.procRoot).filter((name) => /^\d+$/.test(name));
  for (const [index, pid] of pids.entries()) {
    if (index % chunkSize === chunkSize - 1) await nextTurn();
    const folder = join(options.procRoot, pid);
    const netnsPath = join(folder, "ns/net");
    const netnsKey = readOrUndefined(() => netnsKeyAt(netnsPath));
    if (netnsKey === undefined || options.ignoreNetns.has(netnsKey)) continue;
    const cgroup = readOrUndefined(() => readFileSync(join(folder, "cgroup"), "latin1"));
    if (cgroup === undefined) continue;
    const owner = parseCgroupOwner(cgroup);
    if (owner.podUid !== undefined)
      occupants.set(netnsKey, (occupants.get(netnsKey) ?? new Set()).add(owner.podUid));
    const uid =
      (owner.podUid === undefined ? undefined : byUid.get(owner.podUid)) ??
      owner.containerIds.map((id) => byContainer.get(id)).find((match) => match !== undefined);
    if (uid === undefined) continue;
    const startTime = readOrUndefined(() => parseStartTime(readFileSync(join(folder, "stat"), "latin1")));
    const older = oldest.get(uid);
    if (startTime === undefined || (older !== undefined && older.startTime <= startTime)) continue;
    oldest.set(uid, { netnsPath, netnsKey, startTime, containerId: owner.containerIds.at(-1) ?? "" });
  }
  return { oldest, occupants };
}

/** Field 22 of /proc/PID/stat; the second field may hold spaces and parentheses. Source: proc_pid_stat(5). */
function parseStartTime(stat: string): number | undefined {
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const value = Number(fields[19]);
  return Number.isFinite(value) ? value : undefined;
}

/** A process may end between any two reads; that is no fault. */
function readOrUndefined<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
