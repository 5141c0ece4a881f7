// SPDX-License-Identifier: Apache-2.0
// How busy the machine's processors are, for judging whether a time measured on them means anything.
import { readFile } from "node:fs/promises";
import { setTimeout as delay } from "node:timers/promises";

/** Counters of all processors together, in ticks since boot. */
export interface LoadCounters {
  readonly busy: number;
  readonly total: number;
}

/** A share between 0 and 1 of all processors. */
export interface LoadSample {
  readonly busy: number;
}

/** Reads the counters. Source: proc_stat(5); time stolen by the hypervisor counts as busy, waiting for a disk does not. */
export async function loadNow(options: { readonly afterMs?: number } = {}): Promise<LoadCounters> {
  if (options.afterMs !== undefined) await delay(options.afterMs);
  const line = (await readFile("/proc/stat", "utf8")).split("\n")[0] ?? "";
  const [user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0] = line
    .split(/\s+/)
    .slice(1)
    .map(Number);
  const busy = user + nice + system + irq + softirq + steal;
  return { busy, total: busy + idle + iowait };
}

/** The load between two readings. */
export function loadBetween(from: LoadCounters, to: LoadCounters): LoadSample {
  const total = to.total - from.total;
  return { busy: total === 0 ? 0 : (to.busy - from.busy) / total };
}
