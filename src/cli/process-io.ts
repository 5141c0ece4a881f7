// SPDX-License-Identifier: Apache-2.0
// The real terminal, streams and settings of this process.

import { existsSync } from "node:fs";
import { type AgentConfig, loadConfig, processConfigSource } from "../config.ts";
import type { Settings } from "../settings/settings-reader.ts";
import type { CommandIo } from "./command.ts";

/** What commands are given in the binary. */
export function processIo(): CommandIo {
  const { stdout, stderr } = process;
  const closed = new AbortController();
  // `ambient-cni status | head` ends quietly
  stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPIPE") throw error;
    closed.abort();
  });
  const isTerminal = stdout.isTTY === true;
  return {
    print: (text) => void stdout.write(text),
    warn: (text) => void stderr.write(text),
    isTerminal,
    showsProgress: stderr.isTTY === true,
    // knows NO_COLOR and TERM=dumb
    colours: isTerminal && stdout.hasColors(),
    get columns() {
      return isTerminal ? stdout.columns : undefined;
    },
    signal: closed.signal,
    config: () => loadCliConfig(),
  };
}

/** Below it the agent's container has the host's /proc. */
const CONTAINER_HOST_ROOT = "/host";

/** Reads the settings. Without HOST_ROOT a command on a node, where there is no /host, takes "/". */
export function loadCliConfig(
  env: Settings = processConfigSource([]).env,
  isContainer: () => boolean = () => existsSync(`${CONTAINER_HOST_ROOT}/proc/1`),
): AgentConfig {
  const hasRoot = (env.HOST_ROOT ?? "") !== "" || isContainer();
  return loadConfig({ env: hasRoot ? env : { ...env, HOST_ROOT: "/" }, args: [] });
}
