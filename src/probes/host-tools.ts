// SPDX-License-Identifier: Apache-2.0
// The programs that read and write the host's sets and nat table, entered into the host's namespace when we are not in it.
import { setTimeout as delay } from "node:timers/promises";
import { netnsKeyAt } from "../linux/host-netns.ts";
import type { Netns } from "../linux/netns.ts";
import { ToolError, type ToolRunner } from "../linux/run-tool.ts";
import type { Family } from "../netfilter/family.ts";
import { parseSave } from "../netfilter/save-parser.ts";
import type { VariantTools } from "../netfilter/variant-tools.ts";
import { observeProbeRules, PROBE_TABLE, type ProbeRuleState } from "./probe-rules.ts";
import { ProbesError, ruleRefusedError } from "./probes-error.ts";

/** How long iptables-legacy waits for another writer on the host. */
const LOCK_WAIT_SECONDS = 5;
/** The kernel lets go of a set some moments after the rule that named it. Source: linux nf_tables_api.c, nf_tables_trans_destroy_work. */
const DESTROY_DEADLINE_MS = 2_000;
const DESTROY_PAUSE_MS = 50;

/** Runs programs in the host's namespace; counts those that write. */
export class HostTools {
  readonly #runner: ToolRunner;
  #setWrites = 0;
  #ruleWrites = 0;

  constructor(runner: ToolRunner) {
    this.#runner = runner;
  }

  /** Runs of `ipset restore`. */
  get setWrites(): number {
    return this.#setWrites;
  }

  /** Runs of iptables-restore. */
  get ruleWrites(): number {
    return this.#ruleWrites;
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

  /** @throws {ToolError} @throws {SaveParseError} @throws {ProbesError} UNREADABLE_TABLE */
  async readRules(netns: Netns, { tools, family }: HostFamily): Promise<ProbeRuleState> {
    const save = tools[family]?.save;
    if (save === undefined) return { chain: undefined, jumps: [], strays: [] };
    const dump = parseSave(await this.#run(netns, { argv: [save, "-t", PROBE_TABLE] }));
    if (dump.unreadable.includes(PROBE_TABLE)) {
      throw new ProbesError(
        "UNREADABLE_TABLE",
        `Cannot read the host's table "${PROBE_TABLE}" of IPv${family}: it holds rules that only nft understands; ` +
          "whoever adds rules with nft should use a table of its own",
      );
    }
    return observeProbeRules(dump);
  }

  /**
   * Feeds a text to iptables-restore, which leaves everything that the text does not name.
   * @param change.cgroupNsPath cgroup namespace in which paths in the rules are meant, if it is not ours
   * @throws {ProbesError} RULE_REFUSED @throws {ToolError}
   */
  async restoreRules(
    netns: Netns,
    { tools, family, text, cgroupNsPath }: HostFamily & { text: string; cgroupNsPath?: string | undefined },
  ): Promise<void> {
    const restore = tools[family]?.restore;
    if (restore === undefined) return;
    // The lock file is the machine's (/run/xtables.lock): other programs write the host's rules at any time.
    const wait = tools.variant === "legacy" ? [`--wait=${LOCK_WAIT_SECONDS}`] : [];
    const enter = cgroupNsPath === undefined ? [] : ["nsenter", `--cgroup=${cgroupNsPath}`, "--"];
    const [first = restore, ...rest] = [...enter, restore, "--noflush", ...wait];
    this.#ruleWrites++;
    try {
      await this.#run(netns, { argv: [first, ...rest], stdin: text });
    } catch (error) {
      throw isRuleRefused(error) ? ruleRefusedError(error) : error;
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

/** True for a refusal that lies in the rule itself; a lock that was not free comes with status 4. Source: iptables(8), exit status. */
function isRuleRefused(error: unknown): error is ToolError {
  return error instanceof ToolError && error.code === "TOOL_FAILED" && error.exitCode !== 4;
}

/** One family in one variant. */
export interface HostFamily {
  readonly tools: VariantTools;
  readonly family: Family;
}
