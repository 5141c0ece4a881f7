// SPDX-License-Identifier: Apache-2.0
// One pass over /proc: which namespace each pod, or each of the wanted ones, runs in.
import { bareUid } from "./cgroup-path.ts";
import { nodeCgroupOf, processesIn } from "./proc.ts";

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
  /** Id of its container: the sandbox's; empty when its cgroup path has none. */
  readonly containerId: string;
}

/** What a pass over /proc tells. */
export interface ProcScan {
  /** Pods that have processes: the wanted ones by their UID, "all" of them by the UID as `bareUid` has it. */
  readonly oldest: ReadonlyMap<string, PodProcess>;
  /**
   * Pods that have processes in a namespace, wanted or not, by `Netns.key`; UIDs as `bareUid` has them, ids of containers where the
   * runtime keeps the UID out of the path.
   */
  readonly occupants: ReadonlyMap<string, ReadonlySet<string>>;
}

export interface ProcScanOptions {
  readonly procRoot: string;
  /** Namespaces that belong to no pod; their processes cost one stat each. */
  readonly ignoreNetns: ReadonlySet<string>;
}

/** Finds pods among the node's processes; "all": every pod whose UID is in a cgroup path. */
export async function scanProc(
  pods: readonly WantedPod[] | "all",
  { procRoot, ignoreNetns }: ProcScanOptions,
): Promise<ProcScan> {
  const wanted = pods === "all" ? [] : pods;
  const byUid = new Map(wanted.map(({ uid }) => [bareUid(uid), uid]));
  const byContainer = new Map(
    wanted.flatMap(({ uid, containerIds }) => containerIds.map((id) => [id, uid] as const)),
  );
  const oldest = new Map<string, PodProcess>();
  const occupants = new Map<string, Set<string>>();
  const node = nodeCgroupOf(procRoot);
  for await (const process of processesIn(procRoot)) {
    const netnsKey = process.netnsKey();
    if (netnsKey === undefined || ignoreNetns.has(netnsKey)) continue;
    const { podUid, containerId = "" } = process.owner(node) ?? {};
    const named = podUid === undefined ? byContainer.get(containerId) : byUid.get(podUid);
    const uid = pods === "all" ? podUid : named;
    const occupant = podUid ?? (named === undefined ? containerId : bareUid(named));
    if (occupant !== "") occupants.set(netnsKey, (occupants.get(netnsKey) ?? new Set()).add(occupant));
    const startTime = uid === undefined ? undefined : process.startTime();
    if (uid === undefined || startTime === undefined) continue;
    const older = oldest.get(uid);
    if (older !== undefined && older.startTime <= startTime) continue;
    oldest.set(uid, { netnsPath: process.netnsPath, netnsKey, startTime, containerId });
  }
  return { oldest, occupants };
}
