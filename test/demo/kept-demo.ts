// SPDX-License-Identifier: Apache-2.0
// A demo that stays up, and how the machine outside reaches into it: the file that it leaves in its node, found through /proc.
import { readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { CGROUP_PREFIX, cgroupMountPoints } from "../support/node/cgroup.ts";

/** In the node; it goes away with the node. */
const markFile = "/run/node/kept-demo.json";
/** Socket of the relay to the dashboard, in the node. */
export const dashboardSocket = "/run/node/dashboard.sock";

/** A demo as seen from outside. */
export interface KeptDemo {
  /** A process of the node, by the machine's number. */
  readonly pid: number;
  /** The settings of its agent. */
  readonly env: Readonly<Record<string, string>>;
}

/** Marks the node around us as one that stays up; `agentPid` is whose settings commands are to have. */
export async function markAsKept(agentPid: number): Promise<void> {
  const environ = await readFile(`/proc/${agentPid}/environ`, "utf8");
  const pairs = environ.split("\0").filter((pair) => pair.includes("="));
  const env = pairs.map((pair) => [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)]);
  await writeFile(markFile, JSON.stringify({ env: Object.fromEntries(env) }));
}

/** Path outside of a file in the node of a process. */
export function pathInNode(pid: number, path: string): string {
  return join(`/proc/${pid}/root`, path);
}

/**
 * Looks for demos that stay up and takes the newest.
 *
 * @param creator only the node that this process made.
 */
export async function findKeptDemo(creator?: number): Promise<KeptDemo | undefined> {
  const prefix = creator === undefined ? CGROUP_PREFIX : `${CGROUP_PREFIX}${creator}-`;
  const found: (KeptDemo & { readonly sinceMs: number })[] = [];
  for (const mountPoint of cgroupMountPoints(await readFile("/proc/self/mountinfo", "utf8"))) {
    const names = await readdir(mountPoint).catch((): string[] => []);
    for (const name of names.filter((each) => each.startsWith(prefix))) {
      const procs = await readFile(join(mountPoint, name, "node/cgroup.procs"), "utf8").catch(() => "");
      const pid = Number(procs.split("\n")[0]);
      if (!(pid > 0)) continue;
      const demo = await readMark(pid);
      if (demo !== undefined) found.push({ ...demo, pid });
    }
  }
  return found.sort((a, b) => b.sinceMs - a.sinceMs)[0];
}

async function readMark(
  pid: number,
): Promise<{ sinceMs: number; env: Readonly<Record<string, string>> } | undefined> {
  const path = pathInNode(pid, markFile);
  try {
    const { mtimeMs } = await stat(path);
    const { env } = JSON.parse(await readFile(path, "utf8")) as { env: Record<string, string> };
    return { env, sinceMs: mtimeMs };
  } catch {
    // a node that is no kept demo, or one that ends while we look
    return undefined;
  }
}
