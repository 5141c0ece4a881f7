// SPDX-License-Identifier: Apache-2.0
// A process that does nothing but keep the chain, to be killed: node keeper-process.ts DIR JSON-OPTIONS
import { ChainKeeper } from "../../src/install/chain-keeper.ts";
import { silentLogger } from "../../src/log/logger.ts";

const [netDir = "", options = "{}"] = process.argv.slice(2);
const keeper = new ChainKeeper({
  netDir,
  entry: { type: "ambient-cni", cni_agent_run_dir: "/run/x", agent_wait_seconds: 10, exempt: [] },
  log: silentLogger,
  onstate(fault) {
    process.stdout.write(`${JSON.stringify({ fault: fault ?? "" })}\n`);
  },
  onrepaired() {},
  onfight() {},
  ...(JSON.parse(options) as object),
});
process.stdout.write("{}\n");
await keeper.start();
// events alone do not keep a process alive
setInterval(() => {}, 60_000);
