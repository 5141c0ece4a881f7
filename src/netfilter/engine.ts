// SPDX-License-Identifier: Apache-2.0
// One engine for every way to speak to the kernel: it looks, writes what differs, and has the kernel's own answer prove it.
import type { Family } from "./family.ts";
import { NetfilterFault, notAsToldFault } from "./netfilter-fault.ts";
import { Unchanged } from "./nft/change-count.ts";
import { isWithoutNft } from "./nft/nft-answers.ts";
import type {
  Applied,
  ChainState,
  Finding,
  NetnsCall,
  RuleEngine,
  RuleState,
  SeenRules,
  WantedRules,
} from "./rule-engine.ts";

/** What should be there, as the kernel keeps it. */
export interface Wanted<Known> {
  readonly known: Known;
  /** Families that are not looked at are neither right nor wrong. */
  readonly families: readonly Family[];
  /** Each rule may also be the one that stands in the same place of these. */
  readonly accepted?: Known | undefined;
}

/** What a namespace has of what it should have. */
export interface Verdict<Table = unknown> {
  readonly tables: readonly Table[];
  /** Of all tables; none: everything is as it should be. */
  readonly findings: readonly Finding[];
}

/** What became of changes, and what is there now. */
export interface Outcome<Seen> {
  readonly seen: Seen;
  /** Batches that were taken, or programs that did their work. */
  readonly taken: number;
  /** What the kernel or a program said against them. */
  readonly refusal?: Error | undefined;
}

/** One call's conversation with the kernel. */
export interface Talk<Seen, Change> {
  read(): Promise<Seen>;
  /** @throws what is no refusal */
  write(changes: readonly Change[], found: Seen): Promise<Outcome<Seen>>;
}

/** How nf_tables say more than what stands there. */
export interface Counted<Known, Seen, Change> {
  /** The kernel's count of changes, undefined where it does not say. */
  now(call: NetnsCall): Promise<number | undefined>;
  /** That of a look; undefined where something that is not counted may change what was seen. */
  of(seen: Seen): Pick<RuleState, "generation"> & { readonly changeCount?: number | undefined };
  /** Writes where nothing of ours is, with `write`, or as it did the last time. */
  first(
    call: NetnsCall,
    wanted: Wanted<Known>,
    write: (talk: Talk<Seen, Change>) => Promise<Applied>,
  ): Promise<Applied>;
}

/** A way to speak to the kernel: what is known, seen, found and changed by it. */
export interface Dialect<Known, Seen, V extends Verdict, Change> {
  readonly variant: RuleEngine["variant"];
  /** That nothing of ours shall be there. */
  readonly nothing: Wanted<Known>;
  /** Of a namespace that was made just now. */
  readonly nothingSeen: Seen;
  /** What rules look like in the kernel. @throws {NetfilterFault} NO_KNOWN_BYTES; RangeError for what cannot be said so */
  known(
    rules: Pick<WantedRules, "key" | "told">,
    limits: { readonly families: readonly Family[]; readonly signal?: AbortSignal | undefined },
  ): Known | Promise<Known>;
  /** What most pods have stays known, however many others are asked for. */
  keep?(key: string): void;
  talk(call: NetnsCall, wanted: Wanted<Known>): Talk<Seen, Change>;
  /** @throws {NetfilterFault} for what cannot be judged */
  judge(seen: Seen, wanted: Wanted<Known>): V;
  chainsOf(verdict: V): ChainState[];
  /** The changes that bring about what is wanted. @throws {NetfilterFault} TABLE_OWNED */
  plan(verdict: V): readonly Change[];
  /** The changes that take away what leads into our chains of one table. @throws as {@link Dialect.plan} */
  planOpening(verdict: V, table: string): readonly Change[];
  /** Why a table is not open where no change is left to be made; undefined: it is. */
  stillLeads(verdict: V, table: string): NetfilterFault | undefined;
  /** What of a namespace is ours as a whole. */
  readonly holds: "chains" | "tables";
  /** Whether what was refused would be refused again. Default: it may have been for another state. */
  isSame?(refused: readonly Change[], planned: readonly Change[]): boolean;
  readonly counted?: Counted<Known, Seen, Change>;
  /** Has a program write what the kernel did not take. */
  rewrite?(call: NetnsCall, rules: WantedRules, chains: readonly ChainState[]): Promise<void>;
}

/** What is there, what should be, and how it differs where that was asked. */
interface Look<Known, Seen, V> {
  readonly seen: Seen;
  readonly wanted: Wanted<Known>;
  readonly verdict?: V;
}

/** The first round writes; the second exists for whoever wrote at the same moment. */
const MAX_ROUNDS = 2;

/** Rules by one way of speaking to the kernel. */
export class Engine<Known, Seen, V extends Verdict, Change> implements RuleEngine {
  readonly #dialect: Dialect<Known, Seen, V, Change>;
  readonly #unchanged = new Unchanged();

  constructor(dialect: Dialect<Known, Seen, V, Change>) {
    this.#dialect = dialect;
  }

  get variant(): RuleEngine["variant"] {
    return this.#dialect.variant;
  }

  async prepare(rules: WantedRules): Promise<void> {
    this.#dialect.keep?.(rules.key);
    await this.#dialect.known(rules, { families: rules.families });
  }

  async present(call: NetnsCall): Promise<readonly ChainState[]> {
    const { nothing } = this.#dialect;
    try {
      const seen = await this.#dialect.talk(call, nothing).read();
      return this.#dialect.chainsOf(this.#dialect.judge(seen, nothing));
    } catch (error) {
      if (isWithoutNft(error)) return [];
      throw error;
    }
  }

  async verify(call: NetnsCall, rules: WantedRules): Promise<RuleState> {
    const { seen, verdict } = await this.#look(call, rules);
    const { generation, changeCount } = this.#dialect.counted?.of(seen) ?? {};
    const state = this.#stateOf(verdict, generation);
    this.#unchanged.note(call.netns, rules, { state, changeCount });
    return state;
  }

  unchanged(call: NetnsCall, rules: WantedRules): Promise<SeenRules | undefined> | undefined {
    const { counted } = this.#dialect;
    return counted && this.#unchanged.ask(call.netns, rules, () => counted.now(call));
  }

  async apply(call: NetnsCall, rules: WantedRules, { isNew }: { isNew: boolean }): Promise<Applied> {
    const { counted, talk } = this.#dialect;
    const found = isNew ? await this.#asNew(call, rules) : await this.#look(call, rules);
    const write = async (by: Talk<Seen, Change>): Promise<Applied> => {
      const { before, writes } = await this.#converge(by, found);
      return { before: this.#stateOf(before, counted?.of(found.seen).generation), writes };
    };
    try {
      if (isNew && counted !== undefined) return await counted.first(call, found.wanted, write);
      return await write(talk(call, found.wanted));
    } catch (error) {
      if (!(error instanceof NetfilterFault) || !error.isLeftToPrograms) throw error;
      const before = this.#stateOf(this.#dialect.judge(found.seen, found.wanted));
      return { before, ...(await this.#rewrite(call, rules, error)) };
    }
  }

  async open(call: NetnsCall, table: string): Promise<number> {
    const { planOpening, stillLeads } = this.#dialect;
    const { after, writes } = await this.#bringToNothing(call, (verdict) => planOpening(verdict, table));
    const fault = stillLeads(after, table);
    if (fault !== undefined) throw fault;
    return writes;
  }

  async remove(call: NetnsCall): Promise<number> {
    return (await this.#bringToNothing(call)).writes;
  }

  async #asNew(call: NetnsCall, rules: WantedRules): Promise<Look<Known, Seen, V>> {
    const { families } = rules;
    const known = await this.#dialect.known(rules, { families, signal: call.signal });
    return { seen: this.#dialect.nothingSeen, wanted: { known, families } };
  }

  /** The other form counts only where others than ours stand, so that it is recorded only then. */
  async #look(call: NetnsCall, rules: WantedRules): Promise<Required<Look<Known, Seen, V>>> {
    const { judge, chainsOf, known, talk } = this.#dialect;
    const { wanted: own } = await this.#asNew(call, rules);
    const seen = await talk(call, own).read();
    const verdict = judge(seen, own);
    if (rules.accepted === undefined || verdict.findings.length === 0 || chainsOf(verdict).length === 0)
      return { seen, wanted: own, verdict };
    const accepted = await known(rules.accepted, { families: rules.families, signal: call.signal });
    const wanted = { ...own, accepted };
    return { seen, wanted, verdict: judge(seen, wanted) };
  }

  #stateOf(verdict: V, generation?: number): RuleState {
    return { findings: verdict.findings, chains: this.#dialect.chainsOf(verdict), generation };
  }

  /** Without a plan all that is ours goes. */
  async #bringToNothing(call: NetnsCall, plan?: (verdict: V) => readonly Change[]) {
    const { nothing: wanted } = this.#dialect;
    const talk = this.#dialect.talk(call, wanted);
    return await this.#converge(talk, { seen: await talk.read(), wanted }, plan);
  }

  /**
   * Writes and looks again until nothing differs; with a plan of its own until that has nothing to change.
   * @throws {NetfilterFault} BATCH_REFUSED: nothing of the last batch stayed; NOT_AS_TOLD, and for what cannot be judged or planned
   */
  async #converge(
    talk: Talk<Seen, Change>,
    found: Look<Known, Seen, V>,
    plan?: (verdict: V) => readonly Change[],
  ): Promise<{ before: V; after: V; writes: number }> {
    const { judge, holds, isSame } = this.#dialect;
    const { wanted } = found;
    const changesFor = (verdict: V) =>
      plan?.(verdict) ?? (verdict.findings.length === 0 ? [] : this.#dialect.plan(verdict));
    const before = found.verdict ?? judge(found.seen, wanted);
    let [seen, after, changes] = [found.seen, before, changesFor(before)];
    const isDone = () => changes.length === 0 && (plan !== undefined || after.findings.length === 0);
    for (let round = 0, writes = 0; ; round++) {
      if (isDone()) return { before, after, writes };
      if (round === MAX_ROUNDS || changes.length === 0) throw notAsToldFault(after.findings, holds);
      const asked = changes;
      const written = await talk.write(asked, seen);
      ({ seen } = written);
      writes += written.taken;
      after = judge(seen, wanted);
      changes = changesFor(after);
      // somebody else may have been faster; what is there now says whether it was that
      const isFinal = round > 0 || isSame?.(asked, changes) === true;
      if (written.refusal !== undefined && isFinal && !isDone()) throw written.refusal;
    }
  }

  /** What the program writes is proved by the known bytes all the same. */
  async #rewrite(
    call: NetnsCall,
    rules: WantedRules,
    fault: NetfilterFault,
  ): Promise<Omit<Applied, "before">> {
    const { rewrite } = this.#dialect;
    if (rewrite === undefined) throw fault;
    await rewrite(call, rules, (await this.verify(call, rules)).chains);
    const { findings } = await this.verify(call, rules);
    if (findings.length > 0) throw fault;
    return { writes: rules.families.length, fallback: fault.message };
  }
}
