// SPDX-License-Identifier: Apache-2.0
// One pass over /proc: every pod that has processes on this node, and the network namespace they are in.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { bareUid, parseCgroupOwner } from "../linux/cgroup-path.ts";
import { netnsKeyAt } from "../linux/host-netns.ts";

/** A pod with processes. */
export interface RunningPod {
  /** The oldest of its processes that is not in the host's namespace. */
  readonly pid: number;
  readonly startTime: number;
  readonly netnsPath: string;
  /** /proc/PID/net of the same process. */
  readonly procNetDir: string;
  readonly netnsKey: string;
}

/** Who is looked for besides pods whose UID is in the cgroup path. */
export interface PodNamespacesOptions {
  readonly procRoot: string;
  /** Namespaces that belong to no pod. */
  readonly ignoreNetns: ReadonlySet<string>;
  /** UID by container id, for runtimes that keep the UID out of the path. */
  readonly byContainer?: ReadonlyMap<string, string>;
}

/** Processes looked at between two turns of the event loop. */
const CHUNK = 50;

/** Running pods by UID without separators; see {@link bareUid}. */
export async function findPodNamespaces(options: PodNamespacesOptions): Promise<Map<string, RunningPod>> {
  const found = new Map<string, RunningPod>();
  const pids = readdirSync(options.procRoot).filter((name) => /^\d+$/.test(name));
  for (const [index, pid] of pids.entries()) {
    if (index % CHUNK === CHUNK - 1) await nextTurn();
    const seen = look(pid, options);
    if (seen === undefined) continue;
    const older = found.get(seen.uid);
    if (older === undefined || seen.pod.startTime < older.startTime) found.set(seen.uid, seen.pod);
  }
  return found;
}

function look(pid: string, options: PodNamespacesOptions): { uid: string; pod: RunningPod } | undefined {
  const folder = join(options.procRoot, pid);
  const netnsPath = join(folder, "ns/net");
  try {
    const netnsKey = netnsKeyAt(netnsPath);
    if (netnsKey === undefined || options.ignoreNetns.has(netnsKey)) return undefined;
    const { podUid, containerIds } = parseCgroupOwner(readFileSync(join(folder, "cgroup"), "latin1"));
    const named = containerIds.map((id) => options.byContainer?.get(id)).find((uid) => uid !== undefined);
    const uid = podUid ?? (named === undefined ? undefined : bareUid(named));
    if (uid === undefined) return undefined;
    // Source: proc_pid_stat(5), field 22; the second one may hold spaces and parentheses
    const stat = readFileSync(join(folder, "stat"), "latin1");
    const startTime = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19]);
    const procNetDir = join(folder, "net");
    return { uid, pod: { pid: Number(pid), startTime, netnsPath, procNetDir, netnsKey } };
  } catch {
    return undefined; // it ended between two reads
  }
}
