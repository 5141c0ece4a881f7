// SPDX-License-Identifier: Apache-2.0
// The stand-in ztunnel as a process: node test/support/ztunnel/main.ts --socket PATH [switches of stand-in-options.ts]
import { flushCompileCache } from "node:module";
import { serveCommands } from "./control.ts";
import { EventLog, fileSink, stdoutSink } from "./event-log.ts";
import { parseOptions } from "./stand-in-options.ts";
import { ZtunnelProcess } from "./ztunnel-process.ts";

const options = parseOptions(process.argv.slice(2));
const log = new EventLog(stdoutSink(), ...(options.log === undefined ? [] : [fileSink(options.log)]));
// whoever reads the log may die first
process.stdout.on("error", () => {});

function exit(status: number): void {
  log.write("exit", { status });
  process.exit(status);
}

const ztunnel = new ZtunnelProcess(options, { log, onfatal: () => exit(1) });

let terminating = false;

async function terminate(): Promise<void> {
  if (terminating) return;
  terminating = true;
  log.write("sigterm");
  await ztunnel.drain();
  exit(0);
}

// a second one changes nothing
process.on("SIGTERM", terminate);
process.on("SIGINT", terminate);
process.on("uncaughtException", (error) => {
  log.write("fatal", { error: error.stack });
  exit(70);
});
if (options.control) serveCommands(ztunnel, { log, onend: () => exit(0) });
log.write("started", { pid: process.pid, depth: options.depth });
ztunnel.start();
// most stand-ins are killed, and Node would write its cache only at an orderly end
flushCompileCache();
