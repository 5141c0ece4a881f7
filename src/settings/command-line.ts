// SPDX-License-Identifier: Apache-2.0
// The agent's command line: every setting can be an option too, as istio-cni has it.
import type { Settings } from "./settings-reader.ts";

/** What was read. */
export interface CommandLine {
  /** By the name that the environment has for them: `--ambient-ipv6` and `--ambient_ipv6` are `AMBIENT_IPV6`. The last one wins. */
  readonly options: Settings;
  /** Arguments that are no options. */
  readonly rest: readonly string[];
}

/**
 * Reads `--name=value`, `--name value`, and `--name` for true. What follows a name and does not begin with `--` is its value.
 * Source: github.com/spf13/pflag; istio/istio cni/pkg/cmd/root.go (viper, with "-" and "_" alike).
 */
export function readCommandLine(args: readonly string[]): CommandLine {
  const options: Record<string, string> = {};
  const rest: string[] = [];
  for (let at = 0; at < args.length; at++) {
    const [, name, value] = /^--([^=]+)(?:=(.*))?$/s.exec(args[at] ?? "") ?? [];
    if (name === undefined) {
      rest.push(args[at] ?? "");
      continue;
    }
    const setting = name.toUpperCase().replaceAll("-", "_");
    const next = args[at + 1];
    const hasNext =
      value === undefined && next !== undefined && !next.startsWith("--") && setting !== aSwitch;
    if (hasNext) at++;
    options[setting] = value ?? (hasNext ? next : "true");
  }
  return { options, rest };
}

/** Stands before `version` in command lines. */
const aSwitch = "LOG_AS_JSON";

/** An option as people write it. */
export function optionOf(name: string): string {
  return `--${name.toLowerCase()}`;
}
