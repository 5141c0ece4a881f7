// SPDX-License-Identifier: Apache-2.0
// Everything that pods may leave behind on a node, asked from the kernel, the runtime and the stand-in ztunnel.
import { readdir, stat } from "node:fs/promises";
import { linkNames } from "../../support/node/kernel.ts";
import { run } from "../../support/node/run.ts";
import { waitFor } from "../../support/node/wait-for.ts";
import type { CriNode } from "./cri-node.ts";

/** What the node holds for its pods; all of it is empty when there are none. */
export interface Holdings {
  /** Files in /run/netns, mounted or not. */
  readonly netnsFiles: readonly string[];
  /** Addresses that host-local has given away. */
  readonly leases: readonly string[];
  /** Host ends of the pods' links. */
  readonly links: readonly string[];
  /** Results of ADD that libcni keeps for DEL. */
  readonly results: readonly string[];
  /** Sandboxes of the runtime, ended ones too. */
  readonly sandboxes: readonly string[];
  /** `NAME PID INODE` of each process that is in, or holds, a namespace of a pod. */
  readonly namespaceHolders: readonly string[];
  /** Pods of the stand-in ztunnel. */
  readonly ztunnelPods: readonly string[];
  /** Members of the sets that let probes pass. */
  readonly probeEntries: readonly string[];
}

/** Takes stock. Parts that do not run hold nothing. */
export async function holdingsOf(node: CriNode): Promise<Holdings> {
  const ztunnelPods = async (): Promise<string[]> => {
    const { workloads, pending } = await node.ztunnel.stats();
    return [...Object.keys(workloads), ...pending];
  };
  return {
    netnsFiles: await readdir("/run/netns"),
    leases: (await readdir(node.chains.leaseDir).catch((): string[] => [])).filter(isAddress),
    links: (await linkNames("/proc/self/ns/net")).filter((name) => name.startsWith("veth")),
    results: await readdir("/var/lib/cni/results").catch((): string[] => []),
    sandboxes: await node.cri.listPodSandbox(),
    namespaceHolders: await namespaceHolders(),
    ztunnelPods: await ztunnelPods().catch((): string[] => []),
    probeEntries: await probeEntries(),
  };
}

/** Waits until nothing is held any more. @throws Error that lists what still is */
export async function waitForNothing(node: CriNode, timeoutMs = 10_000): Promise<void> {
  let last: Holdings | undefined;
  const isEmpty = async (): Promise<boolean> => {
    last = await holdingsOf(node);
    return Object.values(last).every((list) => list.length === 0);
  };
  await waitFor("nothing to be held", isEmpty, { timeoutMs, intervalMs: 50 }).catch((error: Error) => {
    const held = Object.entries(last ?? {}).filter(([, list]) => list.length > 0);
    throw new Error(`${error.message}; still there: ${JSON.stringify(Object.fromEntries(held))}`);
  });
}

/** host-local has a lock and the last address beside its leases. */
function isAddress(name: string): boolean {
  return name !== "lock" && !name.startsWith("last_reserved_ip");
}

/** Namespaces have an inode each on one file system; those of the node itself do not count. */
async function namespaceHolders(): Promise<string[]> {
  const kinds = ["net", "mnt", "pid", "uts", "ipc", "user", "cgroup"];
  const files = await Promise.all(kinds.map((kind) => stat(`/proc/1/ns/${kind}`)));
  const { dev } = files[0] as { dev: number };
  const own = new Set(files.map(({ ino }) => ino));
  const found: string[] = [];
  for (const pid of (await readdir("/proc")).filter((name) => /^\d+$/.test(name))) {
    const fds = await readdir(`/proc/${pid}/fd`).catch((): string[] => []);
    const paths = [`/proc/${pid}/ns/net`, ...fds.map((fd) => `/proc/${pid}/fd/${fd}`)];
    // a process may end while we look
    const seen = await Promise.all(paths.map((path) => stat(path).catch(() => undefined)));
    for (const file of seen) {
      if (file === undefined || file.dev !== dev || own.has(file.ino)) continue;
      const { stdout } = await run(["cat", `/proc/${pid}/comm`], { mayFail: true });
      found.push(`${stdout.trim()} ${pid} ${file.ino}`);
    }
  }
  return found;
}

async function probeEntries(): Promise<string[]> {
  const { stdout } = await run(["ipset", "list", "-output", "save"], { mayFail: true });
  return stdout.split("\n").filter((line) => line.startsWith("add "));
}
