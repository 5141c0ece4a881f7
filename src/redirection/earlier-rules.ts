// SPDX-License-Identifier: Apache-2.0
// What an agent left that used another engine than this one does: the other iptables variant, istio-cni's own nft tables.
import { allDone } from "../loop/all-done.ts";
import type { Finding, NetnsCall, RuleEngine } from "../netfilter/rule-engine.ts";
import { BACKEND_NAMES } from "../netfilter/variant.ts";
import { RedirectionError } from "./redirection-error.ts";

/** What was found and removed. */
export interface Leftovers {
  readonly drift: readonly Finding[];
  readonly writes: number;
  /** Why something of it is still there beside ours, or may be. */
  readonly fault?: string;
}

/** Engines that have something of ours in a namespace, and what. */
export type Suspects = readonly { readonly engine: RuleEngine; readonly drift: readonly Finding[] }[];

/** What a look came to. */
export interface EarlierLook {
  readonly suspects: Suspects;
  /** Why it is not known of an engine. */
  readonly fault?: Error;
}

/** Nothing was looked for. */
export const NOT_LOOKED: EarlierLook = { suspects: [] };

/** Rules of the engines that are not in use. */
export class EarlierRules {
  readonly #engines: readonly RuleEngine[];

  constructor(engines: readonly RuleEngine[]) {
    this.#engines = engines;
  }

  /** Looks; creates nothing, and does not fail: what one engine cannot be asked is no reason to leave the other's work undone. */
  async look(call: NetnsCall): Promise<EarlierLook> {
    const looks = await Promise.allSettled(
      this.#engines.map(async (engine) => ({ engine, drift: await leftIn(engine, call) })),
    );
    const suspects = looks.flatMap((look) =>
      look.status === "fulfilled" && look.value.drift.length > 0 ? [look.value] : [],
    );
    const failure = looks.find(({ status }) => status === "rejected");
    return failure === undefined
      ? { suspects }
      : { suspects, fault: (failure as PromiseRejectedResult).reason };
  }

  /** Removes what was found. @throws as the engines do */
  async remove(call: NetnsCall, suspects: Suspects): Promise<Leftovers> {
    const writes = await allDone(suspects.map(({ engine }) => engine.remove(call)));
    return { drift: suspects.flatMap(({ drift }) => drift), writes: sum(writes) };
  }

  /**
   * Removes what was found where our own rules stand: as both lead to the same place, what cannot be removed is told and fails nothing.
   * @throws {RedirectionError}, and whatever it is once the caller gave up
   */
  async clear(call: NetnsCall, { suspects, fault }: EarlierLook): Promise<Leftovers> {
    try {
      const leftovers = await this.remove(call, suspects);
      return fault === undefined ? leftovers : { ...leftovers, fault: fault.message };
    } catch (error) {
      if (call.signal?.aborted === true || error instanceof RedirectionError) throw error;
      return { drift: [], writes: 0, fault: (error as Error).message };
    }
  }

  /** Takes away what leads new connections into the rules that were found; the rules stay. @throws as the engines do */
  async open(call: NetnsCall, suspects: Suspects): Promise<number> {
    return sum(await allDone(suspects.map(({ engine }) => engine.open(call, "nat"))));
  }
}

async function leftIn(engine: RuleEngine, call: NetnsCall): Promise<Finding[]> {
  const places = new Map(
    (await engine.present(call)).map(({ family, table, standsIn = table }) => [
      `${family} ${standsIn}`,
      { family, table: standsIn },
    ]),
  );
  return [...places.values()].map(({ family, table }) => {
    const detail = `table ${table} of ${BACKEND_NAMES[engine.variant]} held our chains, but this agent uses another engine`;
    return { kind: "unexpected-table", family, table, chain: "", detail };
  });
}

function sum(counts: readonly number[]): number {
  return counts.reduce((total, count) => total + count, 0);
}
