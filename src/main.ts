#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// The command line: `ambient-cni agent | rules | version`. The only file that ends the process.
import { setFlagsFromString } from "node:v8";
import type { Agent } from "./agent.ts";
import { RulesUsageError, renderRulesCommand, rulesHelp } from "./cli/rules-command.ts";
import { runUninstall, UninstallUsageError, uninstallHelp } from "./cli/uninstall-command.ts";
import { loadConfig, processConfigSource, widenThreadPool } from "./config.ts";
import { createLoggers } from "./observe/logger.ts";
import { version } from "./version.ts";

const help = `ambient-cni ${version}: puts the pods of a node into Istio's ambient mesh

usage: ambient-cni COMMAND [OPTION...]

commands:
  agent     run the node agent; settings come from the environment (NODE_NAME is required)
  uninstall take everything of the agent off this node
  rules     print the rules of a pod exactly as they are given to iptables-restore
  version   print the version

"ambient-cni COMMAND --help" shows the options of a command.
`;

const agentHelp = `usage: ambient-cni agent [--log_output_level=[SCOPE:]LEVEL,...] [--log_as_json]

Runs the node agent until SIGTERM or SIGINT. Settings come from the environment, with istio-cni's names:
NODE_NAME, CNI_AGENT_RUN_DIR, ZTUNNEL_UDS_ADDRESS, AMBIENT_ENABLEMENT_SELECTOR, EXCLUDE_NAMESPACES, ...
Levels: debug, info, warn, error, none. Scopes: agent, cni, enrolment, kube, netns, probes, redirect, ztunnel.
`;

/** A command line that cannot be used: one sentence on stderr, exit code 2. */
class UsageError extends Error {
  override readonly name = "UsageError";
}

async function runAgent(args: readonly string[]): Promise<void> {
  if (args.includes("--help")) {
    print(agentHelp);
    return;
  }
  const config = loadConfig(processConfigSource(args));
  if (process.getuid?.() !== 0) {
    throw new UsageError("the agent enters network namespaces and writes rules there: run it as root");
  }
  widenThreadPool();
  // the young generation would grow with the first burst of pods and never shrink: 25 MB that nothing needs
  setFlagsFromString("--semi-space-growth-factor=1");
  const loggers = createLoggers(config.log);
  const log = loggers.scope("agent");
  const { startAgent } = await import("./agent.ts");
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

/** Shorter than the 5 s that istio-cni's DaemonSet grants between SIGTERM and SIGKILL. */
const stopLimitMs = 4000;
/** To leave the node for good; who deletes the DaemonSet of our own chart grants 30 s. */
const leaveLimitMs = 25_000;

async function runUninstallCommand(args: readonly string[]): Promise<number> {
  if (args.includes("--help")) {
    print(uninstallHelp);
    return 0;
  }
  const config = loadConfig(processConfigSource([]), { needsNode: false });
  return await runUninstall(args, { config, print });
}

function runRules(args: readonly string[]): void {
  print(args.includes("--help") ? rulesHelp : renderRulesCommand(args));
}

function print(text: string): void {
  process.stdout.write(text);
}

/** What an operator can act on is one sentence; only a mistake of ours needs its stack. */
function describeFailure(error: unknown): string {
  const isOurs = !(error instanceof Error) || error instanceof TypeError || error instanceof ReferenceError;
  return isOurs ? ((error as Error)?.stack ?? String(error)) : error.message;
}

function isUsageError(error: unknown): error is Error {
  return [UsageError, RulesUsageError, UninstallUsageError].some((type) => error instanceof type);
}

async function main([command, ...args]: readonly string[]): Promise<number> {
  try {
    switch (command) {
      case "agent":
        await runAgent(args);
        return 0;
      case "rules":
        runRules(args);
        return 0;
      case "uninstall":
        return await runUninstallCommand(args);
      case "version":
      case "--version":
        print(`ambient-cni ${version}\n`);
        return 0;
      case "help":
      case "--help":
        print(help);
        return 0;
      default:
        throw new UsageError(
          command === undefined
            ? `a command is missing: agent, uninstall, rules or version\n\n${help}`
            : `unknown command "${command}": expected agent, uninstall, rules or version; see ambient-cni --help`,
        );
    }
  } catch (error) {
    if (isUsageError(error)) {
      process.stderr.write(`ambient-cni: ${error.message}\n`);
      return 2;
    }
    process.stderr.write(`ambient-cni: ${describeFailure(error)}\n`);
    return 1;
  }
}

process.exit(await main(process.argv.slice(2)));
