// SPDX-License-Identifier: Apache-2.0
// Cgroup folders of a test node: pods are found by their path in /proc/PID/cgroup, so pods in tests need real ones.
import { mkdir, readdir, readFile, rmdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { waitFor } from "./wait-for.ts";

/** Folders of all test nodes begin with this; the creator's pid and a random part follow. */
export const CGROUP_PREFIX = "ambient-cni-";

/**
 * Lists mount points of cgroup hierarchies in which a folder with processes needs no further set-up, best first:
 * cgroup v2 (pure or hybrid), then the named v1 hierarchy of systemd, then v1 controllers that limit nothing by default.
 *
 * @param mountinfo text of /proc/self/mountinfo. Source: proc_pid_mountinfo(5), cgroups(7).
 */
export function cgroupMountPoints(mountinfo: string): string[] {
  const ranked: { rank: number; path: string }[] = [];
  for (const line of mountinfo.split("\n")) {
    const [mount, filesystem] = line.split(" - ");
    const [, , , , path, mountOptions] = mount?.split(" ") ?? [];
    const [type, , superOptions] = filesystem?.split(" ") ?? [];
    if (path === undefined || type === undefined) continue;
    if (mountOptions?.split(",").includes("ro")) continue;
    const rank = hierarchyRank(type, superOptions?.split(",") ?? []);
    if (rank >= 0) ranked.push({ rank, path: unescapeMountPath(path) });
  }
  return ranked.sort((a, b) => a.rank - b.rank).map((entry) => entry.path);
}

function hierarchyRank(type: string, superOptions: readonly string[]): number {
  if (type === "cgroup2") return 0;
  if (type !== "cgroup") return -1;
  return (
    ["name=systemd", "pids", "freezer", "devices"].findIndex((name) => superOptions.includes(name)) + 1 || -1
  );
}

function unescapeMountPath(path: string): string {
  return path.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

/**
 * Makes an empty cgroup folder for a node in the first hierarchy that lets us.
 *
 * @returns its absolute path.
 * @throws Error with each reason when no hierarchy can be written.
 */
export async function createCgroupFolder(name: string): Promise<string> {
  const reasons: string[] = [];
  for (const mountPoint of cgroupMountPoints(await readFile("/proc/self/mountinfo", "utf8"))) {
    const folder = join(mountPoint, name);
    try {
      await mkdir(folder);
      return folder;
    } catch (error) {
      reasons.push((error as Error).message);
    }
  }
  const why = reasons.length > 0 ? reasons.join("; ") : "no writable cgroup file system is mounted";
  throw new Error(`Cannot make a cgroup folder "${name}": ${why}`);
}

/**
 * Removes folders of earlier nodes whose creator is gone and which hold no process, in every hierarchy.
 *
 * Needed only when a node's cleaner was killed as well.
 * @returns the folders that were removed.
 */
export async function sweepStaleCgroupFolders(): Promise<string[]> {
  const removed: string[] = [];
  for (const mountPoint of cgroupMountPoints(await readFile("/proc/self/mountinfo", "utf8"))) {
    for (const name of await readdir(mountPoint).catch(() => [])) {
      const creator = name.startsWith(CGROUP_PREFIX)
        ? name.slice(CGROUP_PREFIX.length).split("-")[0]
        : undefined;
      if (creator === undefined || !/^\d+$/.test(creator) || (await exists(`/proc/${creator}`))) continue;
      const folder = join(mountPoint, name);
      if ((await cgroupProcesses(folder)).length > 0) continue;
      if (await removeEmptyFolders(folder)) removed.push(folder);
    }
  }
  return removed;
}

/** Lists the processes in a cgroup folder and everything below it; empty when it does not exist. */
export async function cgroupProcesses(folder: string): Promise<number[]> {
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => []);
  const below = await Promise.all(
    entries.filter((entry) => entry.isDirectory()).map((entry) => cgroupProcesses(join(folder, entry.name))),
  );
  const own = await readFile(join(folder, "cgroup.procs"), "utf8").catch(() => "");
  return [...own.split("\n").filter(Boolean).map(Number), ...below.flat()];
}

/** Moves a process into a cgroup folder, which is made when it does not exist. */
export async function joinCgroup(folder: string, pid: number): Promise<void> {
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, "cgroup.procs"), String(pid));
}

/** Removes a cgroup folder and those below it once the last process in them has been reaped. */
export async function removeCgroup(folder: string): Promise<void> {
  await waitFor(`cgroup "${folder}" to be empty`, () => removeEmptyFolders(folder));
}

async function removeEmptyFolders(folder: string): Promise<boolean> {
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => []);
  for (const entry of entries) if (entry.isDirectory()) await removeEmptyFolders(join(folder, entry.name));
  return rmdir(folder).then(
    () => true,
    (error: NodeJS.ErrnoException) => error.code === "ENOENT",
  );
}

async function exists(path: string): Promise<boolean> {
  return readdir(path).then(
    () => true,
    () => false,
  );
}
