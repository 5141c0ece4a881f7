// SPDX-License-Identifier: Apache-2.0
// The agent's installer as a process of its own: node chain-installer.ts keep|loop NET_DIR. `keep` installs and watches until
// SIGTERM; `loop` installs and leaves in turns until it is killed.

import { ChainKeeper, type ChainKeeperOptions } from "../../../src/install/chain-keeper.ts";
import { chainExemptions } from "../../../src/install/exempt-namespaces.ts";
import { silentLogger } from "../../../src/observe/logger.ts";

const [action = "", netDir = ""] = process.argv.slice(2);
const identity = { excludeNamespaces: new Set<string>(), podNamespace: "", podName: "" };
const options: ChainKeeperOptions = {
  netDir,
  entry: {
    type: "ambient-cni",
    cni_agent_run_dir: "/var/run/istio-cni",
    agent_wait_seconds: 10,
    exempt: chainExemptions(identity),
  },
  log: silentLogger,
  onstate: (fault) => process.stdout.write(`${JSON.stringify({ fault: fault ?? "" })}\n`),
  onrepaired: () => process.stdout.write(`${JSON.stringify({ repaired: true })}\n`),
  onfight: ({ remedy }) => process.stdout.write(`${JSON.stringify({ fight: remedy })}\n`),
};

if (action === "keep") {
  const keeper = new ChainKeeper(options);
  process.once("SIGTERM", () => void keeper.stop().then(() => process.exit(0)));
  await keeper.start();
  process.stdout.write('{"begun":true}\n');
} else {
  process.stdout.write('{"begun":true}\n');
  for (;;) {
    const keeper = new ChainKeeper(options);
    await keeper.start();
    await keeper.remove();
  }
}
