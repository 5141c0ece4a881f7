// SPDX-License-Identifier: Apache-2.0
// The programs that write the host's rules. Where bytes of them are recorded our sets come first, with the numbers they have on the
// host: a rule names its set by number.
import type { Netns } from "../linux/netns.ts";
import type { ToolRunner } from "../linux/run-tool.ts";
import type { Family } from "../netfilter/family.ts";
import { TablesProgram } from "../netfilter/tables-program.ts";
import type { VariantTools } from "../netfilter/variant-tools.ts";
import { createLine, PROBE_SETS } from "./probe-set.ts";

export interface HostProgramOptions {
  readonly runner: ToolRunner;
  readonly timeoutMs: number;
  /** The kernel's numbers of our sets on the host. */
  readonly setNumbers: ReadonlyMap<Family, number>;
  /** Cgroup namespace in which paths in the rules are meant, if it is not ours. */
  readonly cgroupNsPath?: string | undefined;
}

/** Runs the programs of one variant. */
export class HostProgram extends TablesProgram {
  readonly #options: HostProgramOptions;

  constructor(tools: VariantTools, options: HostProgramOptions) {
    const { runner, timeoutMs, cgroupNsPath } = options;
    const startedBy = cgroupNsPath === undefined ? [] : ["nsenter", `--cgroup=${cgroupNsPath}`, "--"];
    // the lock file is the machine's (/run/xtables.lock): other programs write the host's rules at any time
    super(tools, { runner, timeoutMs, startedBy, assertUsable: () => {} });
    this.#options = options;
  }

  /** The kernel gives each new set the first free number. Source: linux net/netfilter/ipset/ip_set_core.c, find_free_id. */
  protected override async furnish(netns: Netns): Promise<void> {
    const { runner, timeoutMs, setNumbers } = this.#options;
    const names = new Map([...setNumbers].map(([family, number]) => [number, family]));
    const count = Math.max(-1, ...names.keys()) + 1;
    const lines = Array.from({ length: count }, (_, number) => {
      const family = names.get(number);
      return family === undefined
        ? `create other-${number} hash:ip hashsize 64 maxelem 1`
        : createLine(PROBE_SETS[family], family);
    });
    await runner.run({
      argv: ["ipset", "restore"],
      netnsFd: netns.fd,
      stdin: `${lines.join("\n")}\n`,
      timeoutMs,
    });
  }
}
