// SPDX-License-Identifier: Apache-2.0
// The real terminal, streams and settings of this process.
import { loadCliConfig } from "./cli-config.ts";
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
