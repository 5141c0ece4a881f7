// SPDX-License-Identifier: Apache-2.0
// A node with a container runtime leaves nothing on the machine, even when its owner is killed with sandboxes running.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { describe, expect, test } from "vitest";
import { legacyMounts } from "../cluster/support/node-cgroups.ts";
import { leftovers, tracesOf } from "../support/node/leftovers.ts";
import { patience } from "../support/node/patience.ts";
import { run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { whatCriLacks } from "./support/cri-means.ts";

const lacks = await whatCriLacks();

describe.skipIf(lacks !== undefined)("the end of a node with a container runtime", () => {
  test("leaves nothing when the owner gets SIGKILL", { timeout: 60_000 * patience() }, async () => {
    const owner = spawn(process.execPath, [join(import.meta.dirname, "support/owner.ts")], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const died = once(owner, "exit").then(() => Promise.reject(new Error("the owner has ended by itself")));
    const [line] = (await Promise.race([once(owner.stdout, "data"), died])) as [Buffer];
    const { cgroupFolder } = JSON.parse(line.toString()) as { cgroupFolder: string };
    const traces = await tracesOf({ cgroupFolder });
    const left = async (): Promise<string[]> => [
      ...(await leftovers(traces)),
      ...(await legacyFolders(basename(cgroupFolder))),
    ];
    const before = (await left()).join("\n");
    for (const part of ["containerd-shim", "httpd", "ambient-cni.js", "/memory/"])
      expect(before).toContain(part);
    owner.kill("SIGKILL");
    await died.catch(() => {});
    await waitFor("everything to be gone", async () => (await left()).length === 0, {
      timeoutMs: 15_000,
      intervalMs: 100,
    }).catch(() => {});
    expect(await left()).toEqual([]);
  });
});

/** Folders of a node in the hierarchies that only a container runtime uses. */
async function legacyFolders(name: string): Promise<string[]> {
  const mounts = legacyMounts((await run(["cat", "/proc/self/mountinfo"])).stdout);
  const found = await Promise.all(
    mounts.map(async (mount) => ((await readdir(mount)).includes(name) ? [join(mount, name)] : [])),
  );
  return found.flat();
}
