// SPDX-License-Identifier: Apache-2.0
// Finds out how a namespace's rules differ from what they should be, without a process where that is known already.

import { dumpNftRuleset, type NftTable } from "../linux/netlink/nftables.ts";
import { allDone } from "../loop/all-done.ts";
import { compareStates, type Drift, desiredState, inWordsOf, type RedirectState } from "./fingerprint.ts";
import type { NetnsCall, NetnsRules } from "./netns-rules.ts";
import { hashOwnRules } from "./nft-state.ts";
import { type Family, type RedirectOptions, redirectRules, redirectVariantKey } from "./rules.ts";

/** How one family's rules differ from what they should be. */
export interface Observation {
  readonly family: Family;
  readonly drift: readonly Drift[];
  /** What is there, in the words of what should be; absent when nothing differs. */
  readonly state?: RedirectState;
}

/** What should be there. */
export interface WantedRules {
  readonly options: RedirectOptions;
  readonly families: readonly Family[];
}

/** The kernel's rules as they are at one moment; undefined with iptables-legacy, which has to be asked each time. */
export type RulesetLook = readonly NftTable[] | undefined;

/** Bounds on what is remembered; interface names from annotations can make any number of variants. */
const MAX_VARIANTS = 256;
const MAX_HASHES_PER_VARIANT = 16;
const NOTHING: RedirectState = new Map();

/**
 * Compares rules with what they should be.
 *
 * With nf_tables the kernel's rules are read through netlink (well under a millisecond) and hashed. A hash counts as
 * good only after iptables-save has shown the very rules it was made of to be the wanted ones; from then on every
 * namespace with the same hash is right. A hash that is not known means one run of iptables-save, never a guess.
 */
export class RuleObserver {
  readonly #rules: NetnsRules;
  readonly #good = new Map<string, Set<string>>();

  constructor(rules: NetnsRules) {
    this.#rules = rules;
  }

  /** @throws NetlinkError or NativeError when the kernel's rules cannot be read */
  async look({ netns }: NetnsCall): Promise<RulesetLook> {
    return this.#rules.tools.variant === "nft" ? await dumpNftRuleset(netns.fd) : undefined;
  }

  /** @throws as {@link NetnsRules.read} and {@link look} */
  async observe(call: NetnsCall, wanted: WantedRules, look: RulesetLook): Promise<Observation[]> {
    const { options, families } = wanted;
    return await allDone(
      families.map(async (family) => {
        if (look === undefined) return await this.#read(call, { options, family });
        const hash = hashOwnRules(look, family);
        if (hash === undefined) return observation({ options, family, state: NOTHING });
        const variant = redirectVariantKey(options, family);
        if (this.#good.get(variant)?.has(hash) === true) return { family, drift: [] };
        const result = await this.#read(call, { options, family });
        if (result.drift.length === 0) await this.#learn(call, { family, variant, hash });
        return result;
      }),
    );
  }

  /** The observation of a namespace in which nothing of ours is. */
  observeNothing({ options, families }: WantedRules): Observation[] {
    return families.map((family) => observation({ options, family, state: NOTHING }));
  }

  /** What is there of ours in each family; a family without anything is left out or empty. @throws as {@link observe} */
  async present(
    call: NetnsCall,
    families: readonly Family[],
  ): Promise<{ family: Family; state: RedirectState }[]> {
    const look = await this.look(call);
    const used = families.filter((family) => look === undefined || hashOwnRules(look, family) !== undefined);
    return await allDone(
      used.map(async (family) => ({ family, state: await this.#rules.read(call, family) })),
    );
  }

  async #read(
    call: NetnsCall,
    { options, family }: { options: RedirectOptions; family: Family },
  ): Promise<Observation> {
    return observation({ options, family, state: await this.#rules.read(call, family) });
  }

  /** The hash must be the same before and after iptables-save, or it may be of other rules than those shown. */
  async #learn(
    call: NetnsCall,
    { family, variant, hash }: { family: Family; variant: string; hash: string },
  ): Promise<void> {
    if (hashOwnRules(await dumpNftRuleset(call.netns.fd), family) !== hash) return;
    const hashes = this.#good.get(variant) ?? new Set();
    if (hashes.size < MAX_HASHES_PER_VARIANT) hashes.add(hash);
    if (this.#good.size < MAX_VARIANTS) this.#good.set(variant, hashes);
  }
}

function observation(found: { options: RedirectOptions; family: Family; state: RedirectState }): Observation {
  const { options, family } = found;
  const state = inWordsOf(redirectRules(options, family), found.state);
  const drift = compareStates(state, desiredState(options, family), family);
  return drift.length === 0 ? { family, drift } : { family, drift, state };
}
