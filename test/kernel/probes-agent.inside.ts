// SPDX-License-Identifier: Apache-2.0
// The host's side of probes in a process of its own, for what depends on the process that writes the rules; forked by
// probes.inside.ts.
import { silentLogger } from "../../src/log/logger.ts";
import { chooseBackend } from "../../src/netfilter/variant.ts";
import { HostProbes } from "../../src/probes/host-probes.ts";

/** Brings sets and rules about, matching the kubelet. @returns whether they are right */
export async function assertOnce(): Promise<boolean> {
  const probes = new HostProbes({
    hostNetnsPath: "/proc/1/ns/net",
    backend: await chooseBackend({ variant: "nft", runDir: "/run/node", hostProcess: "/proc/1" }),
    probeSnatV4: "169.254.7.127",
    probeSnatV6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff",
    ipv6: true,
    match: "kubelet",
    log: silentLogger,
    onstate: () => {},
  });
  await probes.start();
  const drift = await probes.verify();
  await probes.stop();
  return drift.length === 0;
}
