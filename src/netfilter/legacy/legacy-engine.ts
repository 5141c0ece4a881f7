// SPDX-License-Identifier: Apache-2.0
// Rules of iptables-legacy: the kernel's own bytes are compared with known ones, and its restore program writes what differs.
import { ToolError } from "../../linux/run-tool.ts";
import { Limit } from "../../loop/limit.ts";
import type { Family } from "../family.ts";
import { KnownBytes } from "../known-bytes.ts";
import { type NetfilterFault, notAsToldFault } from "../netfilter-fault.ts";
import type { Applied, ChainState, NetnsCall, RuleEngine, RuleState, WantedRules } from "../rule-engine.ts";
import { checkInstalled, type TablesProgram } from "../tables-program.ts";
import type { OwnTable } from "../told-rules.ts";
import { planXtables, planXtablesOpening, type RestoreText } from "./legacy-plan.ts";
import {
  type SeenXtables,
  verifyXtables,
  type WantedXtables,
  type XtablesTableVerdict,
  xtablesState,
} from "./legacy-verify.ts";
import { type KnownXtables, recordXtables } from "./xtables-known.ts";
import { readOwnXtables } from "./xtables-read.ts";

export interface LegacyEngineOptions {
  /** All that can be ours, in both families. */
  readonly own: readonly OwnTable[];
  /** Undefined where it is not installed: then nothing can be written, and nothing that is there be taken away. */
  readonly program: TablesProgram | undefined;
  /** Throws where a namespace must not be looked at or written, or its handle is no longer its own. */
  readonly assertUsable: (call: NetnsCall) => void;
  /** For how long a call waits for bytes to be recorded, in ms. */
  readonly timeoutMs: number;
  /**
   * Others write the same tables all the time, as on a host: their rules, which the program can only take away by a position that may be
   * another rule's by then, stay until {@link remove}. Default false.
   */
  readonly leavesStrays?: boolean;
}

const ALL_FAMILIES: readonly Family[] = [4, 6];
const NOTHING_SEEN: SeenXtables = new Map();
/** The first round writes; the second exists for whoever wrote at the same moment. */
const MAX_ROUNDS = 2;

/** Rules by iptables-legacy. What the namespace holds is never printed or read as text. */
export class LegacyEngine implements RuleEngine {
  readonly variant = "legacy";
  readonly #options: LegacyEngineOptions;
  readonly #known: KnownBytes<KnownXtables>;
  readonly #nothing: WantedXtables;
  /** One for each engine, so that pods keep the host's waiting no longer than one table takes. */
  readonly #large = new Limit(1);

  constructor(options: LegacyEngineOptions) {
    this.#options = options;
    this.#known = new KnownBytes({ record: (told) => recordXtables(checkInstalled(options.program), told) });
    this.#nothing = { known: { own: options.own, tables: [] }, families: ALL_FAMILIES };
  }

  async prepare(wanted: WantedRules): Promise<void> {
    this.#known.keep(wanted.key);
    await this.#recorded(wanted);
  }

  async present(call: NetnsCall): Promise<readonly ChainState[]> {
    return xtablesState(verifyXtables(await this.#read(call), this.#nothing)).chains;
  }

  async verify(call: NetnsCall, wanted: WantedRules): Promise<RuleState> {
    const seen = await this.#read(call, wanted.families);
    return xtablesState(verifyXtables(seen, await this.#wanted(call, wanted, seen)));
  }

  async apply(call: NetnsCall, wanted: WantedRules, { isNew }: { isNew: boolean }): Promise<Applied> {
    const seen = isNew ? NOTHING_SEEN : await this.#read(call, wanted.families);
    const known = await this.#wanted(call, wanted, seen);
    const before = verifyXtables(seen, known);
    const look = async () => verifyXtables(await this.#read(call, wanted.families), known);
    const writes = await this.#converge(call, before, { plan: planXtables, look });
    return { before: xtablesState(before), writes };
  }

  async open(call: NetnsCall, table: string): Promise<number> {
    const look = async () => verifyXtables(await this.#read(call), this.#nothing);
    const isLedInto = (verdict: XtablesTableVerdict) =>
      verdict.table === table && verdict.chains.some(({ jumps, strays }) => jumps.length + strays.length > 0);
    return await this.#converge(call, await look(), {
      plan: (tables) => planXtablesOpening(tables, { table }),
      look,
      isDone: (tables) => !tables.some(isLedInto),
    });
  }

  async remove(call: NetnsCall): Promise<number> {
    const look = async () => verifyXtables(await this.#read(call), this.#nothing);
    return await this.#converge(call, await look(), { plan: planXtables, look });
  }

  /** Writes and looks again until it is done. @returns the number of writes @throws {NetfilterFault} NOT_AS_TOLD @throws {ToolError} */
  async #converge(
    call: NetnsCall,
    found: readonly XtablesTableVerdict[],
    { plan, look, isDone = hasNoFindings }: Convergence,
  ): Promise<number> {
    let [tables, writes] = [found, 0];
    for (let round = 0; !isDone(tables); round++) {
      const texts = plan(tables);
      if (round === MAX_ROUNDS || texts.length === 0) throw notAsTold(tables);
      const outcomes = await Promise.allSettled(texts.map((each) => this.#restore(call, each)));
      writes += outcomes.filter(({ status }) => status === "fulfilled").length;
      const failure = outcomes.find((outcome) => outcome.status === "rejected")?.reason;
      if (failure !== undefined && !isRefusal(failure)) throw failure;
      tables = await look();
      // somebody else may have been faster; what is there now says whether it was that
      if (failure !== undefined && !isDone(tables) && (round > 0 || isSame(texts, plan(tables))))
        throw failure;
    }
    return writes;
  }

  async #restore(call: NetnsCall, { family, text }: RestoreText): Promise<void> {
    const program = checkInstalled(this.#options.program);
    if (program.tools[family] === undefined)
      throw new ToolError(
        "TOOL_MISSING",
        `Cannot write rules of IPv${family}: its programs of iptables-legacy are not installed; use an image that holds them`,
      );
    await program.restore(call, { family, text });
  }

  /** The other form counts only where others than ours stand, so it is recorded only then. */
  async #wanted(call: NetnsCall, rules: WantedRules, seen: SeenXtables): Promise<WantedXtables> {
    const { families, accepted } = rules;
    const { leavesStrays } = this.#options;
    const wanted = { known: await this.#recorded(rules, call.signal), families, leavesStrays };
    if (accepted === undefined || ![...seen.values()].some(({ chains }) => chains.size > 0)) return wanted;
    if (hasNoFindings(verifyXtables(seen, wanted))) return wanted;
    return { ...wanted, accepted: await this.#recorded(accepted, call.signal) };
  }

  #recorded(wanted: Pick<WantedRules, "key" | "told">, signal?: AbortSignal): Promise<KnownXtables> {
    return this.#known.within(wanted, { ms: this.#options.timeoutMs, signal });
  }

  #read(call: NetnsCall, families = ALL_FAMILIES): Promise<SeenXtables> {
    const own = this.#options.own.filter(({ family }) => families.includes(family));
    return readOwnXtables(call, own, { assertUsable: this.#options.assertUsable, large: this.#large });
  }
}

/** How something is brought about. */
interface Convergence {
  readonly plan: (tables: readonly XtablesTableVerdict[]) => RestoreText[];
  readonly look: () => Promise<readonly XtablesTableVerdict[]>;
  /** Default: when nothing differs. */
  readonly isDone?: (tables: readonly XtablesTableVerdict[]) => boolean;
}

function hasNoFindings(tables: readonly XtablesTableVerdict[]): boolean {
  return tables.every(({ findings }) => findings.length === 0);
}

/** The program ended by itself: what it was told to delete may have gone, or the table changed under its hands. */
function isRefusal(error: unknown): boolean {
  return error instanceof ToolError && error.code === "TOOL_FAILED";
}

function isSame(texts: readonly RestoreText[], others: readonly RestoreText[]): boolean {
  return texts.every(({ family, text }) =>
    others.some((each) => each.family === family && each.text === text),
  );
}

function notAsTold(tables: readonly XtablesTableVerdict[]): NetfilterFault {
  const list = tables
    .flatMap(({ findings }) => findings)
    .map(({ family, table, detail }) => `IPv${family} ${table}: ${detail}`);
  return notAsToldFault(list.length > 0 ? list : ["something leads into our chains again"], "chains");
}
