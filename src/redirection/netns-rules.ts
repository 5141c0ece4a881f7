// SPDX-License-Identifier: Apache-2.0
// Reads and writes our share of one namespace's rules with the programs of one iptables variant.
import { fstatSync } from "node:fs";
import type { Netns } from "../linux/netns.ts";
import type { ToolRunner } from "../linux/run-tool.ts";
import type { Family } from "../netfilter/family.ts";
import { parseSave } from "../netfilter/save-parser.ts";
import type { VariantTools } from "../netfilter/variant-tools.ts";
import { observedState, type RedirectState } from "./fingerprint.ts";
import { RedirectionError } from "./redirection-error.ts";
import { TABLE_NAMES } from "./rules.ts";

/** How long iptables-legacy waits for another writer of the same namespace. */
const LOCK_WAIT_SECONDS = 5;

/** What a call on one namespace works with. */
export interface NetnsCall {
  readonly netns: Netns;
  readonly signal?: AbortSignal | undefined;
}

/** One variant's rules, in whichever namespace a call names. */
export class NetnsRules {
  readonly tools: VariantTools;
  readonly #runner: ToolRunner;
  readonly #hostNetns: ReadonlySet<string>;
  readonly #timeoutMs: number;

  constructor(
    tools: VariantTools,
    options: { runner: ToolRunner; hostNetns: ReadonlySet<string>; timeoutMs: number },
  ) {
    this.tools = tools;
    this.#runner = options.runner;
    this.#hostNetns = options.hostNetns;
    this.#timeoutMs = options.timeoutMs;
  }

  /**
   * Our share of the rules of one family; nothing for a family whose programs are not installed.
   * @throws {ToolError} @throws {SaveParseError} @throws {RedirectionError} UNREADABLE_TABLE, NETNS_CLOSED, HOST_NETNS
   */
  async read(call: NetnsCall, family: Family): Promise<RedirectState> {
    const tools = this.tools[family];
    if (tools === undefined) return new Map();
    const { stdout } = await this.#run(call, { argv: [tools.save] });
    const dump = parseSave(stdout);
    const table = TABLE_NAMES.find((name) => dump.unreadable.includes(name));
    if (table !== undefined) {
      throw new RedirectionError(
        "UNREADABLE_TABLE",
        `Cannot read table "${table}" of IPv${family}: it holds rules that only nft understands; ` +
          "whoever adds rules with nft should use a table of its own",
      );
    }
    return observedState(dump);
  }

  /**
   * Feeds a text to iptables-restore, which leaves everything that the text does not name.
   * @throws {ToolError} @throws {RedirectionError} NETNS_CLOSED, HOST_NETNS; nothing was written then
   */
  async restore(call: NetnsCall, { family, text }: { family: Family; text: string }): Promise<void> {
    const tools = this.tools[family];
    if (tools === undefined) return;
    const wait = this.tools.variant === "legacy" ? [`--wait=${LOCK_WAIT_SECONDS}`] : [];
    await this.#run(call, { argv: [tools.restore, "--noflush", ...wait], stdin: text });
  }

  async #run(
    { netns, signal }: NetnsCall,
    { argv, stdin }: { argv: readonly [string, ...string[]]; stdin?: string },
  ): Promise<{ stdout: string }> {
    const call = {
      argv,
      netnsFd: netns.fd,
      timeoutMs: this.#timeoutMs,
      lockNetns: this.tools.variant === "legacy",
    };
    return await this.#runner.run({
      ...call,
      ...(stdin === undefined ? {} : { stdin }),
      ...(signal === undefined ? {} : { signal }),
      // After the wait for a free place: the descriptor may be closed, and its number another file's, by then.
      beforeStart: () => assertPodNetns(netns, this.#hostNetns),
    });
  }
}

/**
 * Checks that a handle is open, that its descriptor still is the namespace it was opened for, and that this is not one
 * of the host's.
 * @throws {RedirectionError} NETNS_CLOSED, HOST_NETNS
 */
export function assertPodNetns(netns: Netns, hostNetns: ReadonlySet<string>): void {
  if (netns.closed) {
    throw new RedirectionError(
      "NETNS_CLOSED",
      `Cannot redirect network namespace ${netns.key}: its handle is closed`,
    );
  }
  const { dev, ino } = fstatSync(netns.fd, { bigint: true });
  const key = `${dev}:${ino}`;
  if (hostNetns.has(key) || hostNetns.has(netns.key)) {
    throw new RedirectionError(
      "HOST_NETNS",
      `Cannot redirect network namespace ${key}: it is the host's or the agent's own; ` +
        "pods with host networking are never part of the mesh",
    );
  }
  if (key !== netns.key) {
    throw new RedirectionError(
      "NETNS_CLOSED",
      `Cannot redirect network namespace ${netns.key}: its descriptor is that of ${key}`,
    );
  }
}
