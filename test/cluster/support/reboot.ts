// SPDX-License-Identifier: Apache-2.0
// What a node loses with its power: processes, mounts, links, rules, and all that is below /run. Its disk stays.
import { readdir, readFile, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { requireNode } from "../../support/node/inside.ts";
import { run } from "../../support/node/run.ts";
import { waitFor } from "../../support/node/wait-for.ts";
import type { KubeNode } from "./kube-node.ts";
import { legacyMounts } from "./node-cgroups.ts";

const { scratch, cgroupFolder } = requireNode();

/** Ends kubelet, runtime and all containers, and clears away what was in memory. The control plane is another machine. */
export async function losePower(kube: KubeNode): Promise<void> {
  for (const name of ["kubelet", "containerd"] as const) await kube.killDaemon(name);
  await waitFor("the containers to end", async () => (await killContainers()) === 0, { timeoutMs: 20_000 });
  for (const folder of ["/run/netns/", "/run/containerd/", join(scratch, "kubelet/")])
    await unmountBelow(folder);
  await removeCgroups();
  await run(["ip", "link", "delete", "cni0"]);
  for (const name of ["netns", "containerd", "istio-cni", "ztunnel", "xtables.lock"]) {
    await rm(join("/run", name), { recursive: true, force: true });
  }
  for (const tool of ["iptables-restore", "ip6tables-restore"]) {
    const tables = ["nat", "mangle", "raw", "filter"].map((table) => `*${table}\nCOMMIT\n`);
    await run([tool], { stdin: tables.join("") });
  }
  await run(["ipset", "destroy"]);
}

/** @returns how many there were */
async function killContainers(): Promise<number> {
  let count = 0;
  // the pid namespace is the node's: nothing but its own processes can be named here
  for (const name of await readdir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const text = (file: string) => readFile(join("/proc", name, file), "utf8").catch(() => "");
    const isDead = /^State:\s+Z/m.test(await text("status"));
    const isContainer = (await text("cgroup")).includes("/kubepods");
    if (isDead || !(isContainer || (await text("comm")).startsWith("containerd-shim"))) continue;
    count++;
    try {
      process.kill(Number(name), "SIGKILL");
    } catch {
      // it ended meanwhile
    }
  }
  return count;
}

async function unmountBelow(folder: string): Promise<void> {
  const mounts = (await readFile("/proc/self/mountinfo", "utf8"))
    .split("\n")
    .map((line) => line.split(" ")[4] ?? "")
    .filter((path) => path.startsWith(folder));
  for (const path of mounts.reverse()) await run(["umount", "--lazy", path], { mayFail: true });
}

/** A kubelet that starts spends a second and a half on each container that it finds in there. */
async function removeCgroups(): Promise<void> {
  const mounts = [dirname(cgroupFolder), ...legacyMounts(await readFile("/proc/self/mountinfo", "utf8"))];
  for (const mount of new Set(mounts)) {
    const pods = join(mount, basename(cgroupFolder), "kubepods");
    await run(["find", pods, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"], { mayFail: true });
  }
}
