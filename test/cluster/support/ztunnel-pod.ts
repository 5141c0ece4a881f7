// SPDX-License-Identifier: Apache-2.0
// The stand-in ztunnel as the program of a container: its options are arguments, its readiness and its statistics are served
// over HTTP as ztunnel's are, and SIGTERM drains it.
import { channel } from "node:diagnostics_channel";
import { createServer } from "node:http";
import type { Server } from "node:net";
import { EventLog, stdoutSink } from "../../support/ztunnel/event-log.ts";
import { parseOptions } from "../../support/ztunnel/stand-in-options.ts";
import { ZtunnelProcess } from "../../support/ztunnel/ztunnel-process.ts";

/** Source: istio/ztunnel src/config.rs, readiness_addr; the statistics are ours. */
const port = 15021;
/** How long open connections may last. Source: istio/ztunnel src/config.rs, self_termination_deadline. */
const drainMs = 5_000;

const log = new EventLog(stdoutSink());
const ztunnel = new ZtunnelProcess(parseOptions(process.argv.slice(2)), {
  log,
  onfatal: () => process.exit(1),
});
const listening = new Set<Server>();
channel("tracing:net.server.listen:asyncEnd").subscribe((message) => {
  listening.add((message as { server: Server }).server);
});

const health = createServer((request, response) => {
  const stats = ztunnel.stats();
  if (request.url === "/stats") response.end(JSON.stringify(stats));
  else response.writeHead(stats.ready && !draining ? 200 : 503).end();
});
let draining = false;

/**
 * No new connections from now on: those go to the other ztunnel that listens on the same ports. The open ones may end.
 * Source: istio/ztunnel src/drain.rs, src/inpod/statemanager.rs.
 */
function drain(): void {
  if (draining) return;
  draining = true;
  log.write("draining", { listeners: listening.size });
  ztunnel.leave();
  for (const server of listening) if (server !== health) server.close();
  const deadline = performance.now() + drainMs;
  const look = setInterval(() => {
    const open = Object.values(ztunnel.stats().workloads).reduce(
      (sum, each) => sum + each.openConnections,
      0,
    );
    if (open > 0 && performance.now() < deadline) return;
    clearInterval(look);
    log.write("drained", { open });
    ztunnel.close();
    process.exit(0);
  }, 50);
}

process.on("SIGTERM", drain);
health.listen(port, "0.0.0.0", () => ztunnel.start());
