// SPDX-License-Identifier: Apache-2.0
// Finds and removes what an earlier agent left: our chains in the iptables variant not in use, and istio-cni's nft tables.
import { access } from "node:fs/promises";
import { join } from "node:path";
import { ToolError, type ToolRunner } from "../linux/run-tool.ts";
import { allDone } from "../loop/all-done.ts";
import type { Family } from "../netfilter/family.ts";
import {
  emptyNativeEntries,
  findNativeEntries,
  findNativeTables,
  nativeTableName,
  removeNativeTables,
} from "../netfilter/native-tables.ts";
import { readOwnObjects, type SeenObjects } from "../netfilter/own-objects.ts";
import { NOTHING_SEEN } from "../netfilter/replay.ts";
import { LEGACY_TABLE_LISTS, readLegacyTableNames } from "../netfilter/variant.ts";
import type { Drift } from "./fingerprint.ts";
import { ownTables } from "./known-rules.ts";
import { assertPodNetns, type NetnsCall, type NetnsRules } from "./netns-rules.ts";
import { planOpening, planRemoval } from "./plan.ts";
import { CHAIN_NAMES } from "./rules.ts";

const FAMILIES: readonly Family[] = [4, 6];
const OWN_TABLES = ownTables(FAMILIES);

/** What was found and removed. */
export interface Leftovers {
  readonly drift: readonly Drift[];
  readonly writes: number;
}

/** What may be there. */
export interface Suspects {
  /** Families with something in the other iptables variant. */
  readonly families: readonly Family[];
  /** istio-cni's own tables. */
  readonly tables: readonly string[];
}

/** Nothing is suspected, or was looked for. */
export const NO_SUSPECTS: Suspects = { families: [], tables: [] };

/** Rules of agents that used something else than this one does. */
export class EarlierRules {
  readonly #other: OtherVariant | undefined;
  readonly #hostNetns: ReadonlySet<string>;

  /** @param other the iptables variant that is not in use, where it is installed */
  constructor(
    other: NetnsRules | undefined,
    { runner, hostNetns }: { runner: ToolRunner; hostNetns: ReadonlySet<string> },
  ) {
    this.#other = other && new OtherVariant(other, { runner });
    this.#hostNetns = hostNetns;
  }

  /** Looks; creates nothing. @throws as {@link OtherVariant.look} */
  async look(call: NetnsCall, place: { procNetDir?: string | undefined }): Promise<Suspects> {
    const [families, tables] = await allDone([
      this.#other?.look(call, place) ?? Promise.resolve([]),
      findNativeTables(call.netns.fd),
    ]);
    return { families, tables };
  }

  /** Removes what was found. @throws NetlinkError, {RedirectionError} and as {@link OtherVariant.remove} */
  async remove(call: NetnsCall, { families, tables }: Suspects): Promise<Leftovers> {
    const { drift, writes } = (await this.#other?.remove(call, families)) ?? { drift: [], writes: 0 };
    if (tables.length === 0) return { drift, writes };
    assertPodNetns(call.netns, this.#hostNetns);
    await removeNativeTables(call.netns.fd, tables);
    const removed = tables.map((table): Drift => {
      const detail = `${nativeTableName(table)} held the rules of an istio-cni with NATIVE_NFTABLES`;
      return { kind: "unexpected-table", family: 4, table, chain: "", detail };
    });
    return { drift: [...drift, ...removed], writes: writes + 1 };
  }

  /**
   * Takes away what leads new connections into the rules that were found; the rules stay.
   * @returns how many writes it took; 0: nothing led there
   * @throws as {@link remove}
   */
  async open(call: NetnsCall, { families, tables }: Suspects): Promise<number> {
    const opened = (await this.#other?.open(call, families)) ?? 0;
    const entries = tables.length === 0 ? [] : await findNativeEntries(call.netns.fd);
    if (entries.length === 0) return opened;
    assertPodNetns(call.netns, this.#hostNetns);
    await emptyNativeEntries(call.netns.fd, entries);
    return opened + 1;
  }
}

/** The variant that is not in use. */
export class OtherVariant {
  readonly #rules: NetnsRules;
  readonly #runner: ToolRunner;

  constructor(rules: NetnsRules, { runner }: { runner: ToolRunner }) {
    this.#rules = rules;
    this.#runner = runner;
  }

  /**
   * The families in which something of ours may be in the other variant.
   *
   * Looking creates nothing: nf_tables are listed through netlink; x_tables are read only where the namespace's list of
   * them (ip_tables_names) says that they exist, because asking for one by name would create it. That list is a file
   * of the namespace of the process that reads it: it is read through `procNetDir` where the caller knows a process in
   * there, else by one short-lived `cat`; and not at all when this kernel has no x_tables.
   * @throws {ToolError}
   */
  async look(
    call: NetnsCall,
    { procNetDir }: { procNetDir?: string | undefined },
  ): Promise<readonly Family[]> {
    return this.#rules.tools.variant === "nft"
      ? await nftFamilies(call)
      : await this.#legacyFamilies(call, { procNetDir });
  }

  /** Removes what is ours from the other variant. @throws as {@link NetnsRules.read} and {@link NetnsRules.restore} */
  async remove(call: NetnsCall, families: readonly Family[]): Promise<Leftovers> {
    const removed = await allDone(families.map((family) => this.#removeFamily(call, family)));
    return { drift: removed.flat(), writes: removed.filter((drift) => drift.length > 0).length };
  }

  /** Takes away what leads into our chains of table nat. @returns the writes it took @throws as {@link remove} */
  async open(call: NetnsCall, families: readonly Family[]): Promise<number> {
    const opened = await allDone(
      families.map(async (family) => {
        const text = planOpening(await this.#rules.read(call, family));
        if (text === undefined) return 0;
        await this.#rules.restore(call, { family, text });
        return 1;
      }),
    );
    return opened.reduce<number>((sum, count) => sum + count, 0);
  }

  async #removeFamily(call: NetnsCall, family: Family): Promise<Drift[]> {
    const state = await this.#rules.read(call, family);
    const text = planRemoval(state);
    if (text === undefined) return [];
    await this.#rules.restore(call, { family, text });
    const { variant } = this.#rules.tools;
    return [...state.keys()].map((table) => {
      const detail = `table ${table} of iptables-${variant} held our chains, but this node uses the other variant`;
      return { kind: "unexpected-table", family, table, chain: "", detail };
    });
  }

  async #legacyFamilies(
    call: NetnsCall,
    { procNetDir }: { procNetDir: string | undefined },
  ): Promise<Family[]> {
    if (procNetDir !== undefined) {
      const names = await Promise.all(FAMILIES.map((family) => readLegacyTableNames(procNetDir, family)));
      return FAMILIES.filter((_, index) => names[index]?.length);
    }
    const lists = await existingLists();
    if (lists.length === 0) return [];
    const { netns, signal } = call;
    try {
      const run = {
        argv: ["cat", ...lists] as const,
        netnsFd: netns.fd,
        ...(signal === undefined ? {} : { signal }),
      };
      const { stdout } = await this.#runner.run(run);
      return stdout.trim() === "" ? [] : [...FAMILIES];
    } catch (error) {
      if (error instanceof ToolError && error.code === "TOOL_MISSING") return [...FAMILIES];
      throw error;
    }
  }
}

async function nftFamilies({ netns }: NetnsCall): Promise<Family[]> {
  // A kernel without nf_tables has no leftovers in them.
  const seen = await readOwnObjects(netns, OWN_TABLES).catch((): SeenObjects => NOTHING_SEEN);
  return FAMILIES.filter((family) =>
    seen.tables.some(
      (table) => table.family === family && CHAIN_NAMES.some((chain) => table.chains.has(chain)),
    ),
  );
}

/** The lists exist in every namespace as soon as the kernel has x_tables for the family. */
async function existingLists(): Promise<string[]> {
  const paths = FAMILIES.map((family) => join("/proc/self/net", LEGACY_TABLE_LISTS[family]));
  const exist = await Promise.all(
    paths.map((path) =>
      access(path).then(
        () => true,
        () => false,
      ),
    ),
  );
  return paths.filter((_, index) => exist[index]);
}
