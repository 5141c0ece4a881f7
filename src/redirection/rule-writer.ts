// SPDX-License-Identifier: Apache-2.0
// Writes one variant's rules of a namespace with its programs until they are right, or gone, and proves it by looking again.
import type { Netns } from "../linux/netns.ts";
import { allDone } from "../loop/all-done.ts";
import type { Family } from "../netfilter/family.ts";
import type { Drift, RedirectState } from "./fingerprint.ts";
import type { NetnsCall, NetnsRules } from "./netns-rules.ts";
import { planChange, planOpening, planRemoval } from "./plan.ts";
import { RedirectionError } from "./redirection-error.ts";
import type { Converged, Observation, RuleEngine, RulesetLook, WantedRules } from "./rule-engine.ts";
import { RuleObserver } from "./rule-observer.ts";

/** The first round writes; the second exists for whoever wrote at the same moment. */
export const MAX_ROUNDS = 2;
export const ALL_FAMILIES: readonly Family[] = [4, 6];

/** Rules by the programs, which have to be asked each time. */
export class RuleWriter implements RuleEngine {
  readonly #rules: NetnsRules;
  readonly #observer: RuleObserver;

  constructor(rules: NetnsRules) {
    this.#rules = rules;
    this.#observer = new RuleObserver(rules);
  }

  /** Nothing: a program needs none. */
  async prepare(): Promise<void> {}

  /** Nothing: every look is a process. */
  async look(): Promise<RulesetLook> {
    return undefined;
  }

  /** @throws as {@link NetnsRules.read} */
  async observe(call: NetnsCall, wanted: WantedRules): Promise<Observation[]> {
    return await this.#observer.observe(call, wanted);
  }

  /**
   * Writes until the rules are the wanted ones.
   * @throws {RedirectionError} NOT_CONVERGED, and as {@link NetnsRules.read} and {@link NetnsRules.restore}
   */
  async converge(
    call: NetnsCall,
    wanted: WantedRules,
    { isNew }: { readonly isNew: boolean },
  ): Promise<Converged> {
    let writes = 0;
    let repaired: readonly Drift[] | undefined;
    for (let round = 0; ; round++) {
      // nobody can have written to a new namespace; if so, the next round sees it
      const observations =
        round === 0 && isNew
          ? this.#observer.observeNothing(wanted)
          : await this.#observer.observe(call, wanted);
      const drift = observations.flatMap((observation) => observation.drift);
      repaired ??= drift;
      if (drift.length === 0) return { writes, repaired };
      if (round === MAX_ROUNDS) {
        const list = drift.map(({ family, table, detail }) => `IPv${family} ${table}: ${detail}`).join("; ");
        throw new RedirectionError(
          "NOT_CONVERGED",
          `Cannot redirect network namespace ${call.netns.key}: the rules differ right after they were written ` +
            `(${list}); look for another program that writes ISTIO_PRERT or ISTIO_OUTPUT in this pod`,
        );
      }
      const texts = observations.flatMap(({ family, state }) => {
        const text = state && planChange(state, { options: wanted.options, family });
        return text === undefined ? [] : [{ family, text }];
      });
      await allDone(texts.map((each) => this.#rules.restore(call, each)));
      writes += texts.length;
    }
  }

  /** @throws as {@link converge} */
  open(call: NetnsCall): Promise<number> {
    return this.#takeAway(call, { plan: planOpening, doing: "open" });
  }

  /** @throws as {@link converge} */
  remove(call: NetnsCall): Promise<number> {
    return this.#takeAway(call, { plan: planRemoval, doing: "remove" });
  }

  /** Takes away what `plan` finds to be taken away, in both families, until it finds nothing more. */
  async #takeAway(
    call: NetnsCall,
    { plan, doing }: { plan: (state: RedirectState) => string | undefined; doing: "open" | "remove" },
  ): Promise<number> {
    let writeCount = 0;
    for (let round = 0; ; round++) {
      const states = await this.#observer.present(call, ALL_FAMILIES);
      const texts = states.flatMap(({ family, state }) => {
        const text = plan(state);
        return text === undefined ? [] : [{ family, text }];
      });
      if (texts.length === 0) return writeCount;
      if (round === MAX_ROUNDS) throw notConverged(call.netns, doing);
      await allDone(texts.map((each) => this.#rules.restore(call, each)));
      writeCount += texts.length;
    }
  }
}

/** What to say when somebody else uses our chains again as soon as they are taken away. */
export function notConverged({ key }: Netns, doing: "open" | "remove"): RedirectionError {
  return new RedirectionError(
    "NOT_CONVERGED",
    `Cannot ${doing} the redirection of network namespace ${key}: our chains are ${doing === "open" ? "used" : "there"} ` +
      "again right after that; look for another program that writes ISTIO_PRERT or ISTIO_OUTPUT in this pod",
  );
}
