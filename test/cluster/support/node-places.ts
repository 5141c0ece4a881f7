// SPDX-License-Identifier: Apache-2.0
// What a kubelet takes for granted on a machine, made private to a test node: folders, kernel settings, an address.
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { run } from "../../support/node/run.ts";

/** The node's own address; the default route leads nowhere, but node software wants one. */
export const nodeAddress = "10.89.0.1";

/**
 * Values that a kubelet insists on and would write, for the whole machine. It is shown files that hold them already.
 * Source: kubernetes pkg/kubelet/cm/container_manager_linux.go, setupKernelTunables.
 */
const kernelSettings: Readonly<Record<string, string>> = {
  "vm/overcommit_memory": "1",
  "vm/panic_on_oom": "0",
  "kernel/panic": "10",
  "kernel/panic_on_oops": "1",
  "kernel/keys/root_maxkeys": "1000000",
  "kernel/keys/root_maxbytes": "25000000",
};

/** Makes them; to be called once inside a test node. */
export async function makeNodePlaces(scratch: string): Promise<void> {
  for (const folder of ["/var/lib", "/var/log"])
    await makeCopyOnWrite(folder, join(scratch, "private", folder));
  const settings = join(scratch, "sysctl");
  await mkdir(settings, { recursive: true });
  for (const [name, value] of Object.entries(kernelSettings)) {
    const path = join("/proc/sys", name);
    const exists = await readFile(path).then(
      () => true,
      () => false,
    );
    if (!exists) continue;
    const shown = join(settings, name.replaceAll("/", "."));
    await writeFile(shown, `${value}\n`);
    await run(["mount", "--bind", shown, path]);
  }
  // volumes and namespaces that the runtime mounts have to reach the pods
  await run(["mount", "--make-rshared", "/"]);
  await run(["ip", "link", "add", "node0", "type", "veth", "peer", "name", "node0-peer"]);
  await run(["ip", "link", "set", "node0-peer", "up"]);
  await run(["ip", "address", "add", `${nodeAddress}/24`, "dev", "node0"]);
  await run(["ip", "link", "set", "node0", "up"]);
  await run(["ip", "route", "add", "default", "via", "10.89.0.254", "dev", "node0", "onlink"]);
}

/** Makes the folders private in which a node's owner keeps network configurations and plugins. */
export async function makeCommonFolders(scratch: string): Promise<void> {
  for (const folder of ["/etc", "/opt"]) await makeCopyOnWrite(folder, join(scratch, "private", folder));
}

/** Lets the node write to a folder of the machine without the machine seeing it. */
async function makeCopyOnWrite(folder: string, layers: string): Promise<void> {
  const [upper, work] = [join(layers, "upper"), join(layers, "work")];
  await mkdir(upper, { recursive: true });
  await mkdir(work);
  const options = `lowerdir=${folder},upperdir=${upper},workdir=${work}`;
  await run(["mount", "-t", "overlay", "overlay", "-o", options, folder]);
}
