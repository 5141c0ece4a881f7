// SPDX-License-Identifier: Apache-2.0
// The program that writes the host's sets, entered into the host's namespace when we are not in it.
import { netnsKeyAt } from "../linux/host-netns.ts";
import type { Netns } from "../linux/netns.ts";
import { ToolError, type ToolRunner } from "../linux/run-tool.ts";
import { ProbesError } from "./probes-error.ts";

/** Runs ipset in the host's namespace; counts runs that write. */
export class HostTools {
  readonly #runner: ToolRunner;
  #setWrites = 0;

  constructor(runner: ToolRunner) {
    this.#runner = runner;
  }

  /** Runs of `ipset restore`. */
  get setWrites(): number {
    return this.#setWrites;
  }

  /** @throws {ToolError} */
  async restoreSets(netns: Netns, lines: readonly string[]): Promise<void> {
    this.#setWrites++;
    await this.#run(netns, { argv: ["ipset", "restore", "-exist"], stdin: `${lines.join("\n")}\n` });
  }

  async #run(netns: Netns, call: { argv: readonly [string, ...string[]]; stdin?: string }): Promise<string> {
    const isOurs = netnsKeyAt("/proc/self/ns/net") === netns.key;
    try {
      const { stdout } = await this.#runner.run(isOurs ? call : { ...call, netnsFd: netns.fd });
      return stdout;
    } catch (error) {
      const isMissing = error instanceof ToolError && error.code === "TOOL_MISSING";
      if (!isMissing || call.argv[0] !== "ipset") throw error;
      const why = "the program is not in PATH; the agent's image must hold ipset";
      throw new ProbesError("FAILED", `Cannot let kubelet probes past ztunnel without ipset: ${why}`, {
        cause: error,
      });
    }
  }
}
