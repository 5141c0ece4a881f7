// SPDX-License-Identifier: Apache-2.0
// The chains of the runtime as they are before an agent installs itself into one of them.
import { mkdir, readdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { chainVersionVariable } from "../../cluster/support/real-node.ts";
import { bridgeConflist } from "../../support/node/conflist.ts";

/** Where the runtime looks, and what the chains keep. */
export interface ChainPlaces {
  /** Plugins; the runtime's `bin_dir`. */
  readonly binDir: string;
  /** Network configuration that the node's pods use. */
  readonly confDir: string;
  /** The same network without our plugin, for the runtime handler {@link bareHandler}. */
  readonly bareConfDir: string;
  /** Address leases of host-local, one file for each address. */
  readonly leaseDir: string;
  /** One line for each call of portmap, which comes after bridge in ADD and after our plugin in DEL. */
  readonly callLog: string;
  /** Seconds that the loopback plugin takes; the runtime runs it beside the chain, not before it. */
  readonly loopbackDelay: string;
}

/** Version of the chains on this node; Debian 12's and 13's plugins speak 1.0.0 at most. */
export const chainVersion: string = process.env[chainVersionVariable] ?? "1.0.0";

/** Runtime handler whose sandboxes go without our plugin. */
export const bareHandler = "bare";
const networkName = "podnet";

/** Places below a test node's scratch folder. */
export function chainPlaces(scratch: string): ChainPlaces {
  return {
    binDir: join(scratch, "cni-bin"),
    confDir: join(scratch, "net.d"),
    bareConfDir: join(scratch, "bare-net.d"),
    leaseDir: join(scratch, "ipam", networkName),
    callLog: join(scratch, "cni-calls"),
    loopbackDelay: join(scratch, "loopback-delay"),
  };
}

/** Plugin types of the chain that an agent finds, and of the one it makes of it. */
export const primaryChain: readonly string[] = ["bridge", "portmap"];
export const ourChain: readonly string[] = [...primaryChain, "ambient-cni"];

/** Debian's plugins, and the same network for both kinds of sandbox: the agent adds its launcher and its entry. */
export async function makeChains(places: ChainPlaces): Promise<void> {
  for (const folder of [places.binDir, places.confDir, places.bareConfDir]) await mkdir(folder);
  for (const name of await readdir("/usr/lib/cni")) {
    if (name !== "portmap" && name !== "loopback")
      await symlink(join("/usr/lib/cni", name), join(places.binDir, name));
  }
  await writeFile(join(places.binDir, "portmap"), callLogger(places.callLog), { mode: 0o755 });
  await writeFile(join(places.binDir, "loopback"), slowLoopback(places.loopbackDelay), { mode: 0o755 });
  await writeFile(places.callLog, "");
  await writeFile(places.loopbackDelay, "0");
  const leaseDir = join(places.leaseDir, "..");
  const portmap = { type: "portmap", capabilities: { portMappings: true } };
  const conflist = bridgeConflist({
    name: networkName,
    cniVersion: chainVersion,
    leaseDir,
    chained: [portmap],
  });
  const text = `${JSON.stringify(conflist, undefined, 2)}\n`;
  for (const folder of [places.bareConfDir, places.confDir]) await writeFile(conflistPath(folder), text);
}

/** The one file of a chain's folder. */
export function conflistPath(confDir: string): string {
  return join(confDir, `10-${networkName}.conflist`);
}

function callLogger(log: string): string {
  return `#!/bin/sh
echo "$CNI_COMMAND \${CNI_CONTAINERID:--} \${CNI_NETNS:-none}" >>${log}
exec /usr/lib/cni/portmap
`;
}

function slowLoopback(delay: string): string {
  return `#!/bin/sh
sleep "$(cat ${delay})"
exec /usr/lib/cni/loopback
`;
}
