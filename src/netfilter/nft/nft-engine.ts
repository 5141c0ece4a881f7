// SPDX-License-Identifier: Apache-2.0
// Rules of iptables-nft without its programs: known bytes are replayed and compared. What the kernel does not take from us, the
// program writes, and the bytes prove it all the same.
import { allDone } from "../../loop/all-done.ts";
import type { Family } from "../family.ts";
import { isWithoutNft } from "../find-chains.ts";
import { FirstWrites } from "../first-writes.ts";
import { KnownBytes } from "../known-bytes.ts";
import { NetfilterFault } from "../netfilter-fault.ts";
import { renderRewriteText } from "../restore-text.ts";
import type {
  Applied,
  ChainState,
  NetnsCall,
  RuleEngine,
  RuleState,
  SeenRules,
  WantedRules,
} from "../rule-engine.ts";
import { statesOf, sumOf } from "../rule-match.ts";
import { checkInstalled, type TablesProgram } from "../tables-program.ts";
import type { OwnTable } from "../told-rules.ts";
import { Unchanged } from "./change-count.ts";
import { type KnownRules, recordKnownRules } from "./nft-known.ts";
import { type Ask, askBy, type Tell, tell } from "./nft-wire.ts";
import { NOTHING_SEEN, readOwnObjects, type SeenObjects } from "./own-objects.ts";
import { planOpening, type ReplayOptions, type ReplayReport, replay } from "./replay.ts";
import { printableName, type TableVerdict, type Verdict, verifyOwnObjects, type Wanted } from "./verify.ts";

export interface NftEngineOptions {
  /** All that can be ours, in both families. The same list for each call. */
  readonly own: readonly OwnTable[];
  /** Families that are written at all. */
  readonly families: readonly Family[];
  /** Undefined where it is not installed: what is there can be taken away, and nothing written. */
  readonly program: TablesProgram | undefined;
  /** Throws where a namespace must not be looked at or written, or its handle is no longer its own. */
  readonly assertUsable: (call: NetnsCall) => void;
  /** For how long a call waits for bytes to be recorded, in ms. */
  readonly timeoutMs: number;
}

const ALL_FAMILIES: readonly Family[] = [4, 6];

/** Rules byte by byte. */
export class NftEngine implements RuleEngine {
  readonly variant = "nft";
  readonly #options: NftEngineOptions;
  readonly #known: KnownBytes<KnownRules>;
  readonly #nothing: Wanted;
  readonly #unchanged = new Unchanged();
  readonly #firstWrites = new FirstWrites<Applied>();

  constructor(options: NftEngineOptions) {
    this.#options = options;
    const { program, families, own } = options;
    this.#known = new KnownBytes({
      record: (told) => recordKnownRules(checkInstalled(program), told, families),
    });
    this.#nothing = { known: { own, tables: [] }, families: ALL_FAMILIES };
  }

  async prepare(wanted: WantedRules): Promise<void> {
    this.#known.keep(wanted.key);
    await this.#recorded(wanted);
  }

  async present(call: NetnsCall): Promise<readonly ChainState[]> {
    try {
      const seen = await readOwnObjects(call.netns, this.#options.own, { ask: this.#ask(call) });
      return stateOf(verifyOwnObjects(seen, this.#nothing)).chains;
    } catch (error) {
      if (isWithoutNft(error)) return [];
      throw error;
    }
  }

  async verify(call: NetnsCall, wanted: WantedRules): Promise<RuleState> {
    const seen = await readOwnObjects(call.netns, this.#options.own, { ask: this.#ask(call) });
    const state = stateOf(verifyOwnObjects(seen, await this.#wanted(call, wanted, seen)));
    const proven = { ...state, generation: provenBy(seen) };
    this.#unchanged.note(call.netns, wanted, { state: proven, changeCount: seen.changeCount });
    return proven;
  }

  unchanged(call: NetnsCall, wanted: WantedRules): Promise<SeenRules | undefined> | undefined {
    return this.#unchanged.ask(call.netns, wanted, this.#ask(call));
  }

  async apply(call: NetnsCall, wanted: WantedRules, { isNew }: { isNew: boolean }): Promise<Applied> {
    const found = isNew
      ? NOTHING_SEEN
      : await readOwnObjects(call.netns, this.#options.own, { ask: this.#ask(call) });
    const known = await this.#wanted(call, wanted, found);
    const write = async (ask: Ask): Promise<Applied> => {
      const { before, writes } = await replay(call.netns, known, { found, ask });
      return { before: { ...stateOf(before), generation: provenBy(found) }, writes };
    };
    try {
      const { families } = wanted;
      return isNew
        ? await this.#firstWrites.run({ rules: known.known, families }, this.#tell(call), write)
        : await write(this.#ask(call));
    } catch (error) {
      if (!(error instanceof NetfilterFault) || !error.isLeftToPrograms) throw error;
      const before = stateOf(verifyOwnObjects(found, known));
      return await this.#writeByProgram(call, { wanted, before }, error);
    }
  }

  async open(call: NetnsCall, table: string): Promise<number> {
    const plan = (verdict: Verdict) => planOpening(verdict, { table });
    const { after, writes } = await this.#replay(call, this.#nothing, { plan });
    if (after.tables.some((each) => each.table === table && isLedInto(each)))
      throw new NetfilterFault(
        "NOT_AS_TOLD",
        `Cannot open table ${table}: a chain of somebody else leads into ours; look for who writes rules in this namespace`,
      );
    return writes;
  }

  async remove(call: NetnsCall): Promise<number> {
    return (await this.#replay(call, this.#nothing, {})).writes;
  }

  /** Each table in one step, so that the pod is at no moment without what it has. Known bytes say what came of it. */
  async #writeByProgram(
    call: NetnsCall,
    { wanted, before }: { wanted: WantedRules; before: RuleState },
    fault: NetfilterFault,
  ): Promise<Applied> {
    const program = checkInstalled(this.#options.program);
    const told = wanted.told();
    const { chains } = await this.verify(call, wanted);
    await allDone(
      wanted.families.map(async (family) => {
        const jumpCount = (place: { table: string; chain: string }) =>
          chains.find(
            (each) => each.family === family && each.table === place.table && each.chain === place.chain,
          )?.jumpCount ?? 0;
        await program.restore(call, { family, text: renderRewriteText(told, family, jumpCount) });
      }),
    );
    const { findings } = await this.verify(call, wanted);
    if (findings.length > 0) throw fault;
    return { before, writes: wanted.families.length, fallback: fault.message };
  }

  #replay(call: NetnsCall, wanted: Wanted, options: ReplayOptions): Promise<ReplayReport> {
    return replay(call.netns, wanted, { ...options, ask: this.#ask(call) });
  }

  /** The other form counts only where others than ours stand, so it is recorded only then. */
  async #wanted(call: NetnsCall, rules: WantedRules, seen: SeenObjects): Promise<Wanted> {
    const { families, accepted } = rules;
    const wanted = { known: await this.#recorded(rules, call.signal), families };
    if (accepted === undefined || !hasOurs(seen)) return wanted;
    if (verifyOwnObjects(seen, wanted).findings.length === 0) return wanted;
    return { ...wanted, accepted: await this.#recorded(accepted, call.signal) };
  }

  #recorded(wanted: Pick<WantedRules, "key" | "told">, signal?: AbortSignal): Promise<KnownRules> {
    return this.#known.within(wanted, { ms: this.#options.timeoutMs, signal });
  }

  #ask(call: NetnsCall): Ask {
    return askBy(this.#tell(call));
  }

  #tell(call: NetnsCall): Tell {
    return async (request, enoughBytes) => {
      this.#options.assertUsable(call);
      return await tell(call.visit ?? call.netns.fd, request, { enoughBytes });
    };
  }
}

function stateOf({ findings, tables }: Verdict): RuleState {
  const chains = tables.flatMap(({ family, table, chains: all }) =>
    all
      .filter(({ seen }) => seen !== undefined)
      .map(({ chain, rules, jumps, strays }) => ({
        family,
        table,
        chain,
        ...statesOf(rules),
        jumpCount: jumps.length,
        jumped: sumOf(jumps.map(({ count }) => count)),
        strays: strays.map(({ hook }) => printableName(hook)),
      })),
  );
  return { findings, chains };
}

/** What a process owns goes with it, which is no change that the kernel counts. */
function provenBy({ tables, generation }: SeenObjects): number | undefined {
  return tables.some(({ isOwned }) => isOwned) ? undefined : generation;
}

function hasOurs({ tables }: SeenObjects): boolean {
  return tables.some(({ chains }) => [...chains.values()].some(({ base }) => base === undefined));
}

function isLedInto({ chains }: TableVerdict): boolean {
  return chains.some(({ seen }) => seen !== undefined && seen.use > seen.rules.length);
}
