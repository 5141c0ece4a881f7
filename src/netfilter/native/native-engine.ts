// SPDX-License-Identifier: Apache-2.0
// Rules in pure nf_tables: tables that are wholly ours, written and compared over netlink; no program, nothing of xtables.

import type { NetlinkRequest } from "../../linux/netlink/message.ts";
import type { Netns } from "../../linux/netns.ts";
import type { Family } from "../family.ts";
import { isWithoutNft } from "../find-chains.ts";
import { FirstWrites } from "../first-writes.ts";
import { NetfilterFault, notAsToldFault } from "../netfilter-fault.ts";
import { Unchanged } from "../nft/change-count.ts";
import { type Ask, askBy, deleteRule, deleteTable, type Tell, tell } from "../nft/nft-wire.ts";
import { NOTHING_SEEN, readOwnObjects, type SeenObjects } from "../nft/own-objects.ts";
import type { AskedTable } from "../nft/own-tables.ts";
import type {
  Applied,
  ChainState,
  NetnsCall,
  RuleEngine,
  RuleState,
  SeenRules,
  WantedRules,
} from "../rule-engine.ts";
import { writeBefore } from "../write-batch.ts";
import { createTable } from "./native-batch.ts";
import { askedTables, hookedChains, type NativeLayout } from "./native-layout.ts";
import { type NativeTable, nativeTables } from "./native-rules.ts";
import { type NativeVerdict, type NativeWanted, stateOf, verifyNative } from "./native-verify.ts";

export interface NativeEngineOptions {
  readonly layout: NativeLayout;
  /** Called before each conversation: a descriptor may be another namespace's by now. What it throws, the call throws. */
  readonly assertUsable?: (call: NetnsCall) => void;
}

/** Sets of rules whose bytes are kept. */
const MAX_KNOWN = 128;
/** The first round writes; the second exists for whoever wrote at the same moment. */
const MAX_ROUNDS = 2;
/** Of a rule's place in a list. */
const MAX_PLACE_BYTES = 256;

type Plan = (verdict: NativeVerdict) => readonly NetlinkRequest[];

/** How something is brought about. */
interface Convergence {
  readonly plan: Plan;
  readonly ask: Ask;
  readonly found?: SeenObjects | undefined;
}

/**
 * The pod's rules without iptables. A table that differs is made anew as a whole, in one batch with all others that differ; where
 * nothing differs nothing is written. Findings carry the names of the native tables and chains, and what concerns no family alone is
 * told under the first that was asked for; states are told for each family in the words and names that it was told.
 */
export class NativeEngine implements RuleEngine {
  readonly variant = "native";
  readonly #options: NativeEngineOptions;
  readonly #own: readonly AskedTable[];
  readonly #known = new Map<string, readonly NativeTable[]>();
  readonly #unchanged = new Unchanged();
  readonly #firstWrites = new FirstWrites<Applied>();

  constructor(options: NativeEngineOptions) {
    this.#options = options;
    this.#own = askedTables(options.layout);
  }

  /** Encodes; asks nobody. @throws RangeError for rules that cannot be said natively */
  async prepare(wanted: WantedRules): Promise<void> {
    for (const table of this.#wanted(wanted).tables) createTable(table);
  }

  async present(call: NetnsCall): Promise<readonly ChainState[]> {
    try {
      const seen = await this.#read(call.netns, this.#ask(call), nothing());
      return stateOf(this.#verdicts(seen, nothing())).chains;
    } catch (error) {
      if (isWithoutNft(error)) return [];
      throw error;
    }
  }

  async verify(call: NetnsCall, wanted: WantedRules): Promise<RuleState> {
    const known = this.#wanted(wanted);
    const seen = await this.#read(call.netns, this.#ask(call), known);
    const state = stateOf(this.#verdicts(seen, known));
    // what a process owns goes with it, which is no change that the kernel counts
    const isOwned = seen.tables.some((table) => table.isOwned);
    const proven = isOwned ? state : { ...state, generation: seen.generation };
    this.#unchanged.note(call.netns, wanted, { state: proven, changeCount: seen.changeCount });
    return proven;
  }

  unchanged(call: NetnsCall, wanted: WantedRules): Promise<SeenRules | undefined> | undefined {
    return this.#unchanged.ask(call.netns, wanted, this.#ask(call));
  }

  /** @throws {NetfilterFault} BATCH_REFUSED: nothing of the last batch stayed; NOT_AS_TOLD, TABLE_OWNED, TABLE_DORMANT, UNSTEADY */
  async apply(
    call: NetnsCall,
    wanted: WantedRules,
    { isNew }: { readonly isNew: boolean },
  ): Promise<Applied> {
    const native = this.#wanted(wanted);
    const write = async (ask: Ask): Promise<Applied> => {
      const found = isNew ? NOTHING_SEEN : undefined;
      const { before, writes } = await this.#converge(call, native, { ask, plan: planTable, found });
      return { before, writes };
    };
    if (!isNew) return await write(this.#ask(call));
    const { families } = wanted;
    return await this.#firstWrites.run({ rules: native.tables, families }, this.#tell(call), write);
  }

  /**
   * Empties the base chains of a table: no new connection is led anywhere, and as long as they are hooked, open ones stay translated.
   * @param table as it is told @throws as {@link apply}
   */
  async open(call: NetnsCall, table: string): Promise<number> {
    const layout = this.#options.layout.find(({ told }) => told === table);
    if (layout === undefined) return 0;
    const plan: Plan = ({ table: name, seen }) => {
      if (name !== layout.table || seen === undefined) return [];
      const bases = hookedChains(layout).map(({ base }) => base.chain);
      const full = bases.filter((base) => (seen.chains.get(base)?.use ?? 0) > 0);
      if (full.length > 0) checkNotOwned(name, seen);
      return full.map((chain) => deleteRule({ family: "inet", table: name, chain }));
    };
    const { writes, verdicts } = await this.#converge(call, nothing(), { ask: this.#ask(call), plan });
    const seen = verdicts.find((each) => each.table === layout.table)?.seen;
    for (const { chain } of hookedChains(layout)) {
      const each = seen?.chains.get(chain);
      if (each === undefined || each.use <= each.rules.length) continue;
      throw new NetfilterFault("NOT_AS_TOLD", `Cannot open: a chain of others leads into ${chain}`);
    }
    return writes;
  }

  /** @throws as {@link apply} */
  async remove(call: NetnsCall): Promise<number> {
    return (await this.#converge(call, nothing(), { ask: this.#ask(call), plan: planTable })).writes;
  }

  /** Reads, writes what differs, and reads again until nothing does: until there is nothing to plan. */
  async #converge(
    { netns }: Pick<NetnsCall, "netns">,
    wanted: NativeWanted,
    { plan, ask: askKernel, found }: Convergence,
  ): Promise<{ before: RuleState; writes: number; verdicts: readonly NativeVerdict[] }> {
    let verdicts = this.#verdicts(found ?? (await this.#read(netns, askKernel, wanted)), wanted);
    const before = stateOf(verdicts);
    for (let round = 0, writes = 0; ; round++) {
      const changes = verdicts.flatMap(plan);
      if (changes.length === 0) return { before, writes, verdicts };
      if (round === MAX_ROUNDS) throw notAsTold(verdicts);
      const writing = writeBefore(askKernel, changes);
      const seen = await this.#read(netns, writing.ask, wanted);
      const refusal = writing.refusal();
      // somebody else may have been faster; what is there now says whether it was that
      if (refusal !== undefined && round > 0) throw refusal;
      if (refusal === undefined) writes++;
      verdicts = this.#verdicts(seen, wanted);
    }
  }

  #read(netns: Netns, ask: Ask, wanted: NativeWanted): Promise<SeenObjects> {
    return readOwnObjects(netns, this.#own, { ask, wantedBytes: listBytes(wanted) });
  }

  #verdicts(seen: SeenObjects, wanted: NativeWanted): NativeVerdict[] {
    return verifyNative(this.#options.layout, seen, wanted);
  }

  #wanted({ key, told, families, accepted }: WantedRules): NativeWanted {
    const tablesOf = (rules: Pick<WantedRules, "key" | "told">) => this.#tables(rules, families);
    return {
      tables: tablesOf({ key, told }),
      accepted: accepted === undefined ? undefined : tablesOf(accepted),
      families,
    };
  }

  /** Names in annotations of pods make sets of rules without end, so not all are kept. */
  #tables(
    { key, told }: Pick<WantedRules, "key" | "told">,
    families: readonly Family[],
  ): readonly NativeTable[] {
    const place = `${families.join()} ${key}`;
    const known = this.#known.get(place);
    if (known !== undefined) return known;
    const tables = nativeTables(told(), { layout: this.#options.layout, families });
    const [oldest] = this.#known.keys();
    if (this.#known.size >= MAX_KNOWN && oldest !== undefined) this.#known.delete(oldest);
    this.#known.set(place, tables);
    return tables;
  }

  #ask(call: NetnsCall): Ask {
    return askBy(this.#tell(call));
  }

  #tell(call: NetnsCall): Tell {
    return async (request, enoughBytes) => {
      call.signal?.throwIfAborted();
      this.#options.assertUsable?.(call);
      return await tell(call.visit ?? call.netns.fd, request, { enoughBytes });
    };
  }
}

/** What a list of the rules takes at most: what stands beside a rule's expressions are names and numbers. */
function listBytes({ tables }: NativeWanted): number {
  const rules = tables.flatMap(({ chains }) => chains.flatMap((chain) => chain.rules));
  return rules.reduce((sum, { expressions }) => sum + expressions.length + MAX_PLACE_BYTES, 0);
}

function nothing(): NativeWanted {
  return { tables: [], families: [4] };
}

/** A delete makes whoever closes the socket wait for an RCU grace period, so what is not there is not deleted. */
function planTable({ table, wanted, seen, findings }: NativeVerdict): NetlinkRequest[] {
  if (findings.length === 0) return [];
  if (seen !== undefined) checkNotOwned(table, seen);
  return [
    ...(seen === undefined ? [] : [deleteTable({ family: "inet", table })]),
    ...(wanted === undefined ? [] : createTable(wanted)),
  ];
}

function checkNotOwned(table: string, { isOwned }: { readonly isOwned: boolean }): void {
  if (!isOwned) return;
  throw new NetfilterFault(
    "TABLE_OWNED",
    `Cannot write table inet ${table}: a process owns it (nft "flags owner"), and only that one may change it; ` +
      "end that process",
  );
}

function notAsTold(verdicts: readonly NativeVerdict[]): NetfilterFault {
  return notAsToldFault(
    stateOf(verdicts).findings.map(({ table, detail }) => `${table}: ${detail}`),
    "tables",
  );
}
