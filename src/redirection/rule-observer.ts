// SPDX-License-Identifier: Apache-2.0
// Finds out how a namespace's rules differ from what they should be by what the programs print.
import { allDone } from "../loop/all-done.ts";
import type { Family } from "../netfilter/family.ts";
import { compareStates, desiredState, inWordsOf, type RedirectState } from "./fingerprint.ts";
import type { NetnsCall, NetnsRules } from "./netns-rules.ts";
import type { Observation, WantedRules } from "./rule-engine.ts";
import { type RedirectOptions, redirectRules } from "./rules.ts";

const NOTHING: RedirectState = new Map();

/** Compares rules with what they should be. */
export class RuleObserver {
  readonly #rules: NetnsRules;

  constructor(rules: NetnsRules) {
    this.#rules = rules;
  }

  /** @throws as {@link NetnsRules.read} */
  async observe(call: NetnsCall, { options, families }: WantedRules): Promise<Observation[]> {
    return await allDone(
      families.map(async (family) =>
        observation({ options, family, state: await this.#rules.read(call, family) }),
      ),
    );
  }

  /** The observation of a namespace in which nothing of ours is. */
  observeNothing({ options, families }: WantedRules): Observation[] {
    return families.map((family) => observation({ options, family, state: NOTHING }));
  }

  /** What is there of ours in each family. @throws as {@link observe} */
  async present(
    call: NetnsCall,
    families: readonly Family[],
  ): Promise<{ family: Family; state: RedirectState }[]> {
    return await allDone(
      families.map(async (family) => ({ family, state: await this.#rules.read(call, family) })),
    );
  }
}

function observation(found: { options: RedirectOptions; family: Family; state: RedirectState }): Observation {
  const { options, family } = found;
  const state = inWordsOf(redirectRules(options, family), found.state);
  const drift = compareStates(state, desiredState(options, family), family);
  return drift.length === 0 ? { family, drift } : { family, drift, state };
}
