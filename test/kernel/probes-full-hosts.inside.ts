// SPDX-License-Identifier: Apache-2.0
// What probes-full-hosts.test.ts runs where files of the image are hidden: chooses the variant and brings the host's rules about.
import { silentLogger } from "../../src/log/logger.ts";
import { chooseBackend } from "../../src/netfilter/variant.ts";
import { HostProbes } from "../../src/probes/host-probes.ts";

const [pid = "", , runDir = ""] = process.argv.slice(2);
const backend = await chooseBackend({ variant: "auto", runDir, hostProcess: `/proc/${pid}` });
const states: (string | null)[] = [];
const probes = new HostProbes({
  hostNetnsPath: `/proc/${pid}/ns/net`,
  backend,
  probeSnatV4: "169.254.7.127",
  probeSnatV6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff",
  ipv6: true,
  log: silentLogger,
  onstate: (fault) => void states.push(fault ?? null),
});
await probes.start();
const isIntact = (await probes.verify()).length === 0;
await probes.stop();
process.stdout.write(JSON.stringify({ variant: backend.variant, states, isIntact }));
