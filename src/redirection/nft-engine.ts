// SPDX-License-Identifier: Apache-2.0
// Rules of iptables-nft without its programs: known bytes are replayed and compared; where that cannot be, the programs do it.

import { ToolError } from "../linux/run-tool.ts";
import { DeadlineError, within } from "../loop/deadline.ts";
import type { Family } from "../netfilter/family.ts";
import type { KnownBytes, KnownRules } from "../netfilter/known-bytes.ts";
import { NetfilterFault } from "../netfilter/netfilter-fault.ts";
import { ask } from "../netfilter/nft-wire.ts";
import { type Ask, readOwnObjects, type SeenObjects } from "../netfilter/own-objects.ts";
import {
  NOTHING_SEEN,
  planOpening,
  type ReplayOptions,
  type ReplayReport,
  replay,
} from "../netfilter/replay.ts";
import { type TableVerdict, type Verdict, verifyOwnObjects, type Wanted } from "../netfilter/verify.ts";
import type { RedirectState, TableState } from "./fingerprint.ts";
import { ownTables, type ToldRedirection, toldRedirection } from "./known-rules.ts";
import { assertPodNetns, type NetnsCall } from "./netns-rules.ts";
import { RedirectionError } from "./redirection-error.ts";
import type { Converged, Observation, RuleEngine, RulesetLook, WantedRules } from "./rule-engine.ts";
import {
  CHAIN_NAMES,
  type ChainName,
  keepsEstablished,
  type RedirectOptions,
  redirectVariantKey,
  TABLE_NAMES,
} from "./rules.ts";

const ALL_FAMILIES: readonly Family[] = [4, 6];
const ALL_TABLES = ownTables(ALL_FAMILIES);
const NOTHING: Wanted = { known: { own: ALL_TABLES, tables: [] }, families: ALL_FAMILIES };

export interface NftEngineOptions {
  readonly known: KnownBytes<ToldRedirection>;
  /** Families that pods get rules in. */
  readonly families: readonly Family[];
  readonly hostNetns: ReadonlySet<string>;
  /** For how long a call waits for bytes to be recorded. */
  readonly timeoutMs: number;
  /** Does what cannot be done here. */
  readonly programs: RuleEngine;
}

/** Rules byte by byte. */
export class NftEngine implements RuleEngine {
  readonly #options: NftEngineOptions;

  constructor(options: NftEngineOptions) {
    this.#options = options;
  }

  /** Records what rules of these options look like. @throws {NetfilterFault} NO_KNOWN_BYTES */
  async prepare(options: RedirectOptions): Promise<void> {
    await this.#known(options);
  }

  /** @throws {RedirectionError} UNSTEADY, NETNS_CLOSED @throws NetlinkError, NativeError */
  async look(call: NetnsCall): Promise<SeenObjects> {
    return await named(() => readOwnObjects(call.netns, ALL_TABLES, { ask: this.#ask(call) }));
  }

  async observe(call: NetnsCall, wanted: WantedRules, look: RulesetLook): Promise<Observation[]> {
    const { outcome } = await this.#orPrograms(
      async () => {
        const seen = look ?? (await this.look(call));
        const verdict = verifyOwnObjects(seen, await this.#wanted(call, wanted, seen));
        return wanted.families.map((family) => observation(verdict, family));
      },
      () => this.#options.programs.observe(call, wanted, undefined),
    );
    return outcome;
  }

  async converge(
    call: NetnsCall,
    wanted: WantedRules,
    first: { readonly look: RulesetLook; readonly isNew: boolean },
  ): Promise<Converged> {
    const { outcome, fault } = await this.#orPrograms(
      async (): Promise<Converged> => {
        const found = first.look ?? (first.isNew ? NOTHING_SEEN : await this.look(call));
        const { before, writes } = await this.#replay(call, await this.#wanted(call, wanted, found), {
          found,
        });
        return { writes, repaired: before.findings };
      },
      ({ code }) => {
        // nothing was written before bytes were known
        const isEmpty = first.look === undefined ? first.isNew : !hasOurs(first.look);
        const isNew = isEmpty && code === "NO_KNOWN_BYTES";
        return this.#options.programs.converge(call, wanted, { look: undefined, isNew });
      },
    );
    return fault === undefined ? outcome : { ...outcome, fallback: fault };
  }

  async open(call: NetnsCall): Promise<number> {
    const { outcome } = await this.#orPrograms(
      async () => {
        const plan = (verdict: Verdict) => planOpening(verdict, { table: "nat" });
        const { after, writes } = await this.#replay(call, NOTHING, { plan });
        if (after.tables.some((table) => table.table === "nat" && isLedInto(table)))
          throw new NetfilterFault("NOT_AS_TOLD", "Cannot open: a chain of others leads into ours");
        return writes;
      },
      () => this.#options.programs.open(call),
    );
    return outcome;
  }

  async remove(call: NetnsCall): Promise<number> {
    const { outcome } = await this.#orPrograms(
      async () => (await this.#replay(call, NOTHING, {})).writes,
      () => this.#options.programs.remove(call),
    );
    return outcome;
  }

  #replay(call: NetnsCall, wanted: Wanted, options: ReplayOptions): Promise<ReplayReport> {
    return replay(call.netns, wanted, { ...options, beforeEach: () => this.#assertUsable(call) });
  }

  /** Istio's own words count only where others than ours stand, so they are recorded only then. */
  async #wanted(call: NetnsCall, { options, families }: WantedRules, seen: SeenObjects): Promise<Wanted> {
    const wanted = { known: await this.#known(options, call.signal), families };
    if (!keepsEstablished(options) || !hasOurs(seen)) return wanted;
    if (verifyOwnObjects(seen, wanted).findings.length === 0) return wanted;
    const istios = { ...options, establishedConnections: "reset" } as const;
    return { ...wanted, accepted: await this.#known(istios, call.signal) };
  }

  async #known(options: RedirectOptions, signal?: AbortSignal): Promise<KnownRules> {
    const { families, known, timeoutMs } = this.#options;
    const key = families.map((family) => redirectVariantKey(options, family)).join("\n");
    try {
      const rules = known.get(key, () => toldRedirection(options, families));
      return await within(rules, { ms: timeoutMs, signal });
    } catch (error) {
      if (signal?.aborted === true) throw givenUp();
      if (!(error instanceof DeadlineError)) throw error;
      throw new NetfilterFault("NO_KNOWN_BYTES", `Cannot wait for known bytes: ${error.message}`, {
        cause: error,
      });
    }
  }

  #ask(call: NetnsCall): Ask {
    return (requests, enoughBytes) => {
      this.#assertUsable(call);
      return ask(call.netns.fd, requests, { enoughBytes });
    };
  }

  #assertUsable({ netns, signal }: NetnsCall): void {
    if (signal?.aborted === true) throw givenUp();
    assertPodNetns(netns, this.#options.hostNetns);
  }

  async #orPrograms<T>(
    bytes: () => Promise<T>,
    programs: (fault: NetfilterFault) => Promise<T>,
  ): Promise<{ outcome: T; fault?: NetfilterFault }> {
    try {
      return { outcome: await named(bytes) };
    } catch (error) {
      if (!(error instanceof NetfilterFault)) throw error;
      return { outcome: await programs(error), fault: error };
    }
  }
}

/** A fault that programs cannot mend, either, is one of the pod's redirection. */
async function named<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof NetfilterFault) || error.isLeftToPrograms) throw error;
    throw new RedirectionError(error.code, error.message, { cause: error });
  }
}

function givenUp(): ToolError {
  return new ToolError("TOOL_ABORTED", "Cannot finish with a pod's rules: the caller gave up");
}

function observation({ tables, findings }: Verdict, family: Family): Observation {
  const drift = findings.filter((finding) => finding.family === family);
  if (drift.length === 0) return { family, drift };
  return { family, drift, state: stateOf(tables.filter((table) => table.family === family)) };
}

/** What is there in words, those of rules that are not known being nobody's. */
function stateOf(tables: readonly TableVerdict[]): RedirectState {
  return new Map(
    TABLE_NAMES.flatMap((name) => {
      const chains = tables.find(({ table }) => table === name)?.chains ?? [];
      const present = chains.filter(({ seen }) => seen !== undefined);
      if (present.length === 0) return [];
      const state: TableState = {
        chains: new Map(present.map(({ chain, words }) => [chain as ChainName, words])),
        jumps: new Map(present.map(({ chain, jumps }) => [chain as ChainName, jumps.length])),
        strays: present.flatMap(({ chain, strays }) => strays.map(({ hook }) => `${hook} leads to ${chain}`)),
      };
      return [[name, state] as const];
    }),
  );
}

function hasOurs({ tables }: SeenObjects): boolean {
  return tables.some(({ chains }) => CHAIN_NAMES.some((chain) => chains.has(chain)));
}

function isLedInto({ chains }: TableVerdict): boolean {
  return chains.some(({ seen }) => seen !== undefined && seen.use > seen.rules.length);
}
