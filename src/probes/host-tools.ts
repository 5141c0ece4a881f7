// SPDX-License-Identifier: Apache-2.0
// The program that writes the host's sets, entered into the host's namespace when we are not in it.
import { setTimeout as delay } from "node:timers/promises";
import { netnsKeyAt } from "../linux/host-netns.ts";
import type { Netns } from "../linux/netns.ts";
import { ToolError, type ToolRunner } from "../linux/run-tool.ts";
import { ProbesError } from "./probes-error.ts";

/** The kernel lets go of a set some moments after the rule that named it. Source: linux nf_tables_api.c, nf_tables_trans_destroy_work. */
const DESTROY_DEADLINE_MS = 2_000;
const DESTROY_PAUSE_MS = 50;

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

  /** Destroys sets that are there. @throws {ToolError} when something names one of them for longer than 2 s */
  async destroySets(netns: Netns, names: readonly string[]): Promise<void> {
    const deadlineMs = performance.now() + DESTROY_DEADLINE_MS;
    for (const name of names) {
      for (;;) {
        const failure = await this.#run(netns, { argv: ["ipset", "destroy", name] }).catch((error) => error);
        if (!(failure instanceof Error)) break;
        if (!(failure instanceof ToolError) || performance.now() > deadlineMs) throw failure;
        await delay(DESTROY_PAUSE_MS);
      }
    }
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
