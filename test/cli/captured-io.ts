// SPDX-License-Identifier: Apache-2.0
// A terminal for tests: what a command prints is kept.

import type { CommandIo } from "../../src/cli/command.ts";
import { loadCliConfig } from "../../src/cli/process-io.ts";

/** What was printed. */
export interface CapturedIo extends CommandIo {
  readonly out: () => string;
  readonly err: () => string;
}

/** Collects both streams; settings are `env` and nothing else. */
export function capturedIo(
  env: Readonly<Record<string, string>>,
  options: Partial<CommandIo> = {},
): CapturedIo {
  const printed: string[] = [];
  const warned: string[] = [];
  return {
    print: (text) => void printed.push(text),
    warn: (text) => void warned.push(text),
    isTerminal: false,
    showsProgress: false,
    colours: false,
    columns: undefined,
    signal: new AbortController().signal,
    config: () => loadCliConfig(env, () => false),
    ...options,
    out: () => printed.join(""),
    err: () => warned.join(""),
  };
}
