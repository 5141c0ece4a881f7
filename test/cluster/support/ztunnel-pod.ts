// SPDX-License-Identifier: Apache-2.0
// The stand-in ztunnel as the program of a container: its options are arguments, its readiness and its statistics are served
// over HTTP as ztunnel's are, and SIGTERM drains it.
import { createServer } from "node:http";
import { EventLog, stdoutSink } from "../../support/ztunnel/event-log.ts";
import { parseOptions } from "../../support/ztunnel/stand-in-options.ts";
import { ZtunnelProcess } from "../../support/ztunnel/ztunnel-process.ts";

/** Source: istio/ztunnel src/config.rs, readiness_addr; the statistics are ours. */
const port = 15021;

const log = new EventLog(stdoutSink());
const ztunnel = new ZtunnelProcess(parseOptions(process.argv.slice(2)), {
  log,
  onfatal: () => process.exit(1),
});
const health = createServer((request, response) => {
  const stats = ztunnel.stats();
  if (request.url === "/stats") response.end(JSON.stringify(stats));
  else response.writeHead(stats.ready && !draining ? 200 : 503).end();
});
let draining = false;

/** No new connections from now on: those go to the other ztunnel that listens on the same ports. The open ones may end. */
async function drain(): Promise<void> {
  if (draining) return;
  draining = true;
  log.write("draining");
  await ztunnel.drain();
  log.write("drained");
  process.exit(0);
}

process.on("SIGTERM", drain);
health.listen(port, "0.0.0.0", () => ztunnel.start());
