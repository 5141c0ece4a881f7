// SPDX-License-Identifier: Apache-2.0
// How much of the machine's processors others use, for judging whether a time measured on them means anything.
import { readdir, readFile } from "node:fs/promises";

/** Processor time in ticks since boot. */
export interface LoadCounters {
  /** Of all processors together. */
  readonly total: number;
  readonly busy: number;
  /** Of the node's processes, those included that have ended and been waited for. */
  readonly own: number;
}

/** Reads the counters; to be called inside a node, whose /proc shows its own processes alone. */
export async function loadNow(): Promise<LoadCounters> {
  return { ...(await machineTicks()), own: await ownTicks() };
}

/** Share of all processors, between 0 and 1, that others used between two readings. */
export function foreignLoad(from: LoadCounters, to: LoadCounters): number {
  const total = to.total - from.total;
  const foreign = to.busy - from.busy - (to.own - from.own);
  return total === 0 ? 0 : Math.max(0, foreign / total);
}

/** Source: proc_stat(5); time stolen by the hypervisor counts as busy, waiting for a disk does not. */
async function machineTicks(): Promise<{ total: number; busy: number }> {
  const line = (await readFile("/proc/stat", "utf8")).split("\n")[0] ?? "";
  const [user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0] = line
    .split(/\s+/)
    .slice(1)
    .map(Number);
  const busy = user + nice + system + irq + softirq + steal;
  return { busy, total: busy + idle + iowait };
}

/** Source: proc_pid_stat(5), utime, stime, cutime and cstime. */
async function ownTicks(): Promise<number> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  // a process may end while we look
  const stats = await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/stat`, "utf8").catch(() => "")));
  return stats.reduce((sum, stat) => {
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return sum + fields.slice(11, 15).reduce((all, field) => all + Number(field), 0);
  }, 0);
}
