// SPDX-License-Identifier: Apache-2.0
// The programs of one iptables variant in a namespace: restore writes where a call says; save is only asked of our own namespaces.

import type { LockFiles } from "../linux/lock-files.ts";
import { Netns } from "../linux/netns.ts";
import { type ToolCall, ToolError, type ToolRunner } from "../linux/run-tool.ts";
import { allDone } from "../loop/all-done.ts";
import type { Family } from "./family.ts";
import { NetfilterFault } from "./netfilter-fault.ts";
import { renderRestoreText, renderRewriteText } from "./restore-text.ts";
import type { ChainState, NetnsCall, WantedRules } from "./rule-engine.ts";
import { parseSave } from "./save-parser.ts";
import {
  type HookedChain,
  isHooked,
  type OwnTable,
  rulesOf,
  type ToldRules,
  wantedTables,
} from "./told-rules.ts";
import type { VariantTools } from "./variant-tools.ts";

export interface TablesProgramOptions {
  readonly runner: ToolRunner;
  /** For each run, waiting for its turn included. */
  readonly timeoutMs: number;
  /** Throws where a namespace must not be written, or its handle is no longer its own. */
  readonly assertUsable: (netns: Netns) => void;
  /** Program and arguments that start the restore program; default: nothing does. */
  readonly startedBy?: readonly string[];
  /** Locks that iptables-legacy takes in place of the machine's. */
  readonly locks?: LockFiles | undefined;
}

/** Of an engine that knows rules by what a program makes of them. */
export interface ProgramEngineOptions {
  /** All that can be ours, in both families. The same list for each call. */
  readonly own: readonly OwnTable[];
  /** Undefined where it is not installed: nothing can be written then, and nothing be taken away from x_tables. */
  readonly program: TablesProgram | undefined;
  /** Throws where a namespace must not be looked at or written, or its handle is no longer its own. */
  readonly assertUsable: (call: NetnsCall) => void;
  /** For how long a call waits for bytes to be recorded, in ms. */
  readonly timeoutMs: number;
}

/** How long iptables-legacy waits for another writer. */
const LOCK_WAIT_SECONDS = 5;

/** Runs the programs of one variant. */
export class TablesProgram {
  readonly tools: VariantTools;
  readonly #options: TablesProgramOptions;

  constructor(tools: VariantTools, options: TablesProgramOptions) {
    this.tools = tools;
    this.#options = options;
  }

  /**
   * Feeds a text to iptables-restore, which leaves everything that the text does not name.
   * @throws {ToolError}: each table of the text stands whole or is as it was @throws what `assertUsable` throws: nothing was written
   */
  async restore(call: NetnsCall, { family, text }: { family: Family; text: string }): Promise<void> {
    const tools = this.tools[family];
    if (tools === undefined) return;
    const { startedBy = [], locks } = this.#options;
    const isLegacy = this.tools.variant === "legacy";
    const wait = isLegacy ? [`--wait=${LOCK_WAIT_SECONDS}`] : [];
    const [first = tools.restore, ...rest] = [...startedBy, tools.restore, "--noflush", ...wait];
    const restore = { argv: [first, ...rest] as const, stdin: text };
    if (!isLegacy || locks === undefined) await this.#run(call, restore);
    // a family's tables are its own
    else
      await locks.hold(`${call.netns.key}-${family}`, (lockFile) =>
        this.#run(call, { ...restore, lockFile }),
      );
  }

  /** Writes rules where some of ours may be, each table in one step, so that a pod is at no moment without what it has. @throws as {@link restore} */
  async rewrite(
    call: NetnsCall,
    { told, families }: Pick<WantedRules, "told" | "families">,
    present: readonly ChainState[],
  ): Promise<void> {
    const rules = told();
    const textOf = (family: Family) => renderRewriteText(rules, family, present);
    await allDone(families.map((family) => this.restore(call, { family, text: textOf(family) })));
  }

  /**
   * Has the program write told rules in a namespace made for it, where nothing else is, proves by its own list that they stand there, and
   * has them read.
   * @throws {NetfilterFault} NOT_AS_TOLD @throws {ToolError} @throws NativeError when no namespace can be made; what `read` throws
   */
  async record<Known>(told: ToldRules, read: (netns: Netns) => Promise<Known>): Promise<Known> {
    using netns = await Netns.makeTemporary();
    await this.furnish(netns);
    const families = new Set(told.wanted.map(({ family }) => family));
    await allDone([...families].map((family) => this.#writeAndProve(netns, told, family)));
    return await read(netns);
  }

  /** Makes what rules name in a namespace where nothing is. */
  protected async furnish(_netns: Netns): Promise<void> {}

  async #writeAndProve(netns: Netns, told: ToldRules, family: Family): Promise<void> {
    const tools = this.tools[family];
    if (tools === undefined) return;
    // somebody may wait for it in ADD
    await this.restore({ netns, isUrgent: true }, { family, text: renderRestoreText(told, family) });
    const { stdout } = await this.#run({ netns }, { argv: [tools.save] });
    const difference = findDifference(stdout, told, family);
    if (difference === undefined) return;
    throw new NetfilterFault(
      "NOT_AS_TOLD",
      `${tools.save} shows other rules of IPv${family} than ${tools.restore} was told: ${difference}`,
    );
  }

  async #run(
    { netns, signal, isUrgent = false }: NetnsCall,
    call: Pick<ToolCall, "argv" | "stdin" | "lockFile">,
  ): Promise<{ stdout: string }> {
    const { runner, timeoutMs, assertUsable } = this.#options;
    return await runner.run({
      ...call,
      netnsFd: netns.fd,
      timeoutMs,
      isUrgent,
      ...(signal === undefined ? {} : { signal }),
      // after the wait for a free place: the descriptor may be closed, and its number another file's, by then
      beforeStart: () => assertUsable(netns),
    });
  }
}

/** The first difference between what iptables-save printed in a namespace of our own and what was told. Pure. */
function findDifference(saved: string, told: ToldRules, family: Family): string | undefined {
  const tables = parseSave(saved);
  for (const { table, chains } of wantedTables(told).filter((each) => each.family === family)) {
    const seen = tables.get(table);
    if (seen === undefined) return `table ${table} is not there`;
    const wanted = chains.flatMap((chain) => [
      ...(isHooked(chain) ? [jumpLine(chain)] : []),
      ...rulesOf(told, { family, table, chain: chain.chain }).map(({ words }) => `${chain.chain} ${words}`),
    ]);
    const found = seen.rules.map(({ chain, tokens }) => `${chain} ${tokens.join(" ")}`);
    const lost = chains.find(({ chain }) => !seen.chains.has(chain));
    if (lost !== undefined) return `chain ${lost.chain} is not there`;
    const surplus = found.find((line) => !wanted.includes(line));
    if (surplus !== undefined) return `-A ${surplus} was not told`;
    const order = (chain: string, lines: readonly string[]) =>
      lines.filter((line) => line.startsWith(`${chain} `)).join("\n");
    for (const { chain } of chains)
      if (order(chain, found) !== order(chain, wanted)) return `${chain} holds other rules`;
    for (const chain of chains.filter(isHooked))
      if (found.filter((line) => line === jumpLine(chain)).length !== 1)
        return `not one jump leads to ${chain.chain}`;
  }
  return undefined;
}

function jumpLine({ chain, hook }: HookedChain): string {
  return `${hook} -j ${chain}`;
}

/** @throws {ToolError} TOOL_MISSING */
export function checkInstalled(program: TablesProgram | undefined): TablesProgram {
  if (program !== undefined) return program;
  throw new ToolError(
    "TOOL_MISSING",
    "Cannot write rules: the programs of this iptables variant are not in PATH; use an agent image that holds them",
  );
}
