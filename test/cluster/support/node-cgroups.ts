// SPDX-License-Identifier: Apache-2.0
// Cgroup folders for a kubelet: one in every hierarchy of cgroup v1, removed however this process ends.
import { spawn } from "node:child_process";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { CGROUP_PREFIX } from "../../support/node/cgroup.ts";
import { cleanEnv, run } from "../../support/node/run.ts";

/** Ends the claim on the folders and waits until they are gone. */
export interface KubeletCgroups {
  remove(): Promise<void>;
}

/**
 * Makes folders of the same name as the test node's own one, in the hierarchies where there is none yet.
 * On a machine with cgroup v2 alone there is nothing to do: the node's own folder serves.
 */
export async function makeKubeletCgroups(nodeFolder: string): Promise<KubeletCgroups> {
  const mounts = legacyMounts(await readFile("/proc/self/mountinfo", "utf8"));
  await sweep(mounts);
  const folders = mounts.map((mount) => join(mount, basename(nodeFolder)));
  const child = spawn("/bin/sh", [join(import.meta.dirname, "cgroup-cleaner.sh"), ...folders], {
    stdio: ["pipe", "ignore", "ignore"],
    env: cleanEnv(),
    cwd: "/",
    detached: true,
  });
  child.stdin.on("error", () => {});
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  for (const [index, folder] of folders.entries()) {
    await mkdir(folder, { recursive: true });
    // a new folder of this controller holds no processes before it has both. Source: cpuset(7)
    for (const file of ["cpuset.cpus", "cpuset.mems"]) {
      const inherited = await readFile(join(mounts[index] ?? "", file), "utf8").catch(() => undefined);
      if (inherited !== undefined) await writeFile(join(folder, file), inherited.trim());
    }
  }
  return {
    remove: async () => {
      child.stdin.end();
      await ended;
    },
  };
}

/** Mount points of cgroup v1. Source: proc_pid_mountinfo(5). */
export function legacyMounts(mountinfo: string): string[] {
  return mountinfo.split("\n").flatMap((line) => {
    const [mount = "", filesystem = ""] = line.split(" - ");
    const path = mount.split(" ")[4];
    return filesystem.startsWith("cgroup ") && path !== undefined ? [path] : [];
  });
}

/** Removes empty folders whose maker and whose cleaner were both killed. */
async function sweep(mounts: readonly string[]): Promise<void> {
  for (const mount of mounts) {
    for (const name of await readdir(mount).catch(() => [])) {
      const maker = new RegExp(`^${CGROUP_PREFIX}(\\d+)-`).exec(name)?.[1];
      if (maker === undefined) continue;
      const lives = await readFile(`/proc/${maker}/stat`).then(
        () => true,
        () => false,
      );
      // rmdir refuses folders that are in use
      const removal = ["find", join(mount, name), "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"];
      if (!lives) await run(removal, { mayFail: true });
    }
  }
}
