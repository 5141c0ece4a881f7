#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// The command line: `agent`, `version`, and the commands of cli/commands.ts. The only file that ends the process.
import { setFlagsFromString } from "node:v8";
import type { Agent } from "./agent/agent.ts";
import { UsageError } from "./cli/usage-error.ts";
import { loadConfig, processConfigSource } from "./config.ts";
import { logScopes } from "./log/log-levels.ts";
import { createLoggers } from "./log/logger.ts";
import { readCommandLine } from "./settings/command-line.ts";
import { version } from "./version.ts";

const agentHelp = `usage: ambient-cni agent [--log_output_level=[SCOPE:]LEVEL,...] [--log_as_json] [--SETTING=VALUE...]

Runs the node agent until SIGTERM or SIGINT. Settings come from the environment, with istio-cni's names:
NODE_NAME, CNI_AGENT_RUN_DIR, ZTUNNEL_UDS_ADDRESS, AMBIENT_ENABLEMENT_SELECTOR, EXCLUDE_NAMESPACES, ...
Each of them can be an option as well, which wins: --exclude-namespaces=a,b is EXCLUDE_NAMESPACES.
Levels: debug, info, warn, error, none. Scopes: ${logScopes.join(", ")};
default, all, and istio-cni's cni-agent (all but cni) and cni-plugin (cni).
`;

/** What V8 does for programs that compute all day costs memory in one that mostly waits. Set before there is much to collect or compile. */
const v8Flags = [
  // the young generation would grow with the first burst of pods and never shrink: 25 MB that nothing needs
  "--semi-space-growth-factor=1",
  // the old one would grow to four times what is in use, and stay there until V8 finds time: 150 MB after labels that come and go
  "--heap-growing-percent=50",
  // code that runs often is compiled by Maglev all the same; the compiler behind that has 6 MB of pages of its own
  "--no-turbofan",
];

async function runAgent(args: readonly string[]): Promise<void> {
  if (args.includes("--help") || args.includes("-h")) {
    print(agentHelp);
    return;
  }
  // install-cni is this command, and has one of its own
  if (readCommandLine(args).rest[0] === "version") {
    print(versionLine);
    return;
  }
  const config = loadConfig(processConfigSource(args));
  if (process.getuid?.() !== 0) {
    throw new UsageError("the agent enters network namespaces and writes rules there: run it as root");
  }
  for (const flag of v8Flags) setFlagsFromString(flag);
  const loggers = createLoggers(config.log);
  const log = loggers.scope("agent");
  const { startAgent } = await import("./agent/start-agent.ts");
  process.on("unhandledRejection", (error) =>
    log.error({ err: error }, "a failure nobody handled; the agent goes on"),
  );
  const stopped = Promise.withResolvers<void>();
  const starting = startAgent(config, loggers);
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.once(signal, () => {
      // a start that hangs (no API server yet) must not hold up the end
      let running: Agent | undefined;
      const stop = starting.then((agent) => {
        running = agent;
        return agent.stop();
      });
      const limit = () =>
        running?.isLeaving ? setTimeout(stopped.resolve, leaveLimitMs) : stopped.resolve();
      setTimeout(limit, stopLimitMs).unref();
      stop.then(stopped.resolve, (error: unknown) => {
        log.error({ err: error }, "could not stop in order");
        stopped.resolve();
      });
    });
  }
  await Promise.race([starting, stopped.promise]);
  await stopped.promise;
}

const versionLine = `ambient-cni ${version}\n`;

/** Shorter than the 5 s that istio-cni's DaemonSet grants between SIGTERM and SIGKILL. */
const stopLimitMs = 4000;
/** To leave the node for good, where the DaemonSet grants that much; what is cut off by SIGKILL `uninstall` finishes. */
const leaveLimitMs = 25_000;

/** Loaded only when asked for: the agent's memory is the node's. */
async function runCommand(name: string | undefined, args: readonly string[]): Promise<number> {
  const [{ commandNames, findCommand, listCommands }, { processIo }] = await Promise.all([
    import("./cli/commands.ts"),
    import("./cli/process-io.ts"),
  ]);
  const help = `ambient-cni ${version}: puts the pods of a node into Istio's ambient mesh

usage: ambient-cni COMMAND [OPTION...]

commands:
${listCommands()}
"ambient-cni COMMAND --help" shows the options of a command.
`;
  if (name === "help" || name === "--help") {
    print(help);
    return 0;
  }
  if (name === undefined) throw new UsageError(`a command is missing: ${commandNames()}\n\n${help}`);
  const command = findCommand(name);
  if (command === undefined) {
    throw new UsageError(
      `unknown command "${name}": expected one of ${commandNames()}; see ambient-cni --help`,
    );
  }
  if (args.includes("--help")) {
    print(command.help);
    return 0;
  }
  return await command.run(args, processIo());
}

function print(text: string): void {
  process.stdout.write(text);
}

/** What an operator can act on is one sentence; only a mistake of ours needs its stack. */
function describeFailure(error: unknown): string {
  const isOurs = !(error instanceof Error) || error instanceof TypeError || error instanceof ReferenceError;
  return isOurs ? ((error as Error)?.stack ?? String(error)) : error.message;
}

async function main([command, ...args]: readonly string[]): Promise<number> {
  try {
    switch (command) {
      case "agent":
        await runAgent(args);
        return 0;
      case "version":
      case "--version":
        print(versionLine);
        return 0;
      default:
        return await runCommand(command, args);
    }
  } catch (error) {
    if (error instanceof UsageError) {
      process.stderr.write(`ambient-cni: ${error.message}\n`);
      return 2;
    }
    process.stderr.write(`ambient-cni: ${describeFailure(error)}\n`);
    return 1;
  }
}

process.exit(await main(process.argv.slice(2)));
