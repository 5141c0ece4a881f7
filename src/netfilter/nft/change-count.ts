// SPDX-License-Identifier: Apache-2.0
// The kernel's own count of changes to nf_tables in a namespace: what was seen of rules holds while it stands still.

import { decodeAttributes, type NetlinkAnswer, viewOf } from "../../linux/netlink/message.ts";
import type { Netns } from "../../linux/netns.ts";
import type { RuleState, SeenRules, WantedRules } from "../rule-engine.ts";
import { getGeneration, HEADER_BYTES } from "./nft-wire.ts";

/** NFTA_GEN_ID. Source: linux/netfilter/nf_tables.h. */
const GENERATION_ID = 1;
/** Full looks come in between all the same: nothing of ours is to rest on one number for long. */
const MAX_SPARED = 6;

/** Asked before anything else is read, so that a change meanwhile is one that the count does not have. */
export const CHANGE_COUNT = getGeneration();

/** All 32 bits of the count; undefined where the kernel did not say. */
export function changeCountIn(answer: NetlinkAnswer | undefined): number | undefined {
  const [message] = answer?.messages ?? [];
  if (message === undefined) return undefined;
  const id = decodeAttributes(message.body, HEADER_BYTES).get(GENERATION_ID);
  return id === undefined || id.length < 4 ? undefined : viewOf(id).getUint32(0);
}

interface Remembered {
  readonly changeCount: number;
  readonly wanted: string;
  readonly seen: SeenRules;
  spared: number;
}

/** Remembers, by handle, what rules were seen at which count. */
export class Unchanged {
  readonly #last = new WeakMap<Netns, Remembered>();

  /** @param at.changeCount undefined, as without a generation: something that is not counted may change what was seen */
  note(
    netns: Netns,
    wanted: WantedRules,
    { state, changeCount }: { readonly state: RuleState; readonly changeCount: number | undefined },
  ): void {
    const { findings, chains, generation } = state;
    if (generation === undefined || changeCount === undefined) {
      this.#last.delete(netns);
      return;
    }
    const seen = { findings, generation, hasChains: chains.length > 0 };
    this.#last.set(netns, { changeCount, seen, wanted: nameOf(wanted), spared: 0 });
  }

  /**
   * What was seen, if the kernel says that nothing was changed since; undefined at once where it is not asked: nothing is remembered
   * of these rules, or it is time for a full look.
   */
  ask(
    netns: Netns,
    wanted: WantedRules,
    countNow: () => Promise<number | undefined>,
  ): Promise<SeenRules | undefined> | undefined {
    const last = this.#last.get(netns);
    if (last === undefined || last.wanted !== nameOf(wanted) || last.spared === MAX_SPARED) return undefined;
    last.spared++;
    return countNow().then((count) => (count === last.changeCount ? last.seen : undefined));
  }
}

function nameOf({ key, families }: WantedRules): string {
  return `${families.join()} ${key}`;
}
