// SPDX-License-Identifier: Apache-2.0
// Looks from outside for anything a test node may have left on the machine.
import { readdir, readFile, readlink } from "node:fs/promises";
import { basename, join } from "node:path";
import { CGROUP_PREFIX, cgroupMountPoints, cgroupProcesses } from "./cgroup.ts";

/** What identifies a node from outside; take it while the node lives. */
export interface NodeTraces {
  /** As in the name of the cgroup folder after the prefix. */
  readonly cgroupName: string;
  /** Links such as `net:[4026532248]`: the namespaces of its processes and of its pods. */
  readonly namespaces: readonly string[];
}

/**
 * Lists everything that still belongs to a node, one line each; empty when nothing was left behind.
 *
 * Looked at: processes in its namespaces or its cgroups or naming it (dead ones that only wait for their parent do not count), mounts,
 * cgroup folders in every hierarchy.
 */
export async function leftovers(traces: NodeTraces): Promise<string[]> {
  const found: string[] = [];
  for (const entry of await readdir("/proc")) {
    if (!/^\d+$/.test(entry) || Number(entry) === process.pid) continue;
    const why = await traceOfProcess(Number(entry), traces);
    if (why !== undefined) found.push(`process ${entry}: ${why}`);
  }
  const mountinfo = await readFile("/proc/self/mountinfo", "utf8");
  const id = traces.cgroupName.replace(/^ambient-cni-/, "");
  for (const line of mountinfo.split("\n")) {
    if (
      line.includes(`ambient-cni-node-${id}`) ||
      traces.namespaces.some((link) => line.includes(` ${link} `))
    ) {
      found.push(`mount: ${line}`);
    }
  }
  for (const mountPoint of cgroupMountPoints(mountinfo)) {
    const names = await readdir(mountPoint).catch((): string[] => []);
    if (names.includes(traces.cgroupName))
      found.push(`cgroup folder: ${join(mountPoint, traces.cgroupName)}`);
  }
  return found;
}

/** The namespaces a process is in, of the kinds a node has for itself. */
export async function namespacesOf(pid: number): Promise<string[]> {
  return Promise.all(["net", "mnt", "pid"].map((kind) => readlink(`/proc/${pid}/ns/${kind}`)));
}

/** The traces of a running node. */
export async function tracesOf(node: { readonly cgroupFolder: string }): Promise<NodeTraces> {
  const own = await namespacesOf(process.pid);
  const pids = await cgroupProcesses(node.cgroupFolder);
  // one may end while we look; the first process of the node does not
  const theirs = await Promise.all(pids.map((pid) => namespacesOf(pid).catch((): string[] => [])));
  return {
    cgroupName: basename(node.cgroupFolder),
    namespaces: [...new Set(theirs.flat())].filter((link) => !own.includes(link)),
  };
}

async function traceOfProcess(pid: number, traces: NodeTraces): Promise<string | undefined> {
  try {
    const stat = await readFile(`/proc/${pid}/stat`, "utf8");
    if (stat.slice(stat.lastIndexOf(")") + 2).startsWith("Z")) return undefined;
    const commandLine = (await readFile(`/proc/${pid}/cmdline`, "utf8")).replaceAll("\0", " ");
    const cgroup = await readFile(`/proc/${pid}/cgroup`, "utf8");
    if (commandLine.includes(traces.cgroupName) || cgroup.includes(traces.cgroupName)) return commandLine;
    // numbers of namespaces are given out again: what runs in another node is no trace of this one
    if (cgroup.includes(CGROUP_PREFIX)) return undefined;
    const isOfNode = (await namespacesOf(pid)).map((link) => traces.namespaces.includes(link));
    return belongs(isOfNode) ? commandLine : undefined;
  } catch {
    // it ended while we looked
    return undefined;
  }
}

/** Of a test beside this one, one namespace may have the number that was the node's a moment ago. */
function belongs([net, mnt, pid]: readonly (boolean | undefined)[]): boolean {
  return pid === true || (net === true && mnt === true);
}
