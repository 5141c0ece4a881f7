// SPDX-License-Identifier: Apache-2.0
// What the rules of a namespace are asked for and changed through, whichever way that is done.

import type { Family } from "../netfilter/family.ts";
import type { NetfilterFault } from "../netfilter/netfilter-fault.ts";
import type { SeenObjects } from "../netfilter/own-objects.ts";
import type { Drift, RedirectState } from "./fingerprint.ts";
import type { NetnsCall } from "./netns-rules.ts";
import type { RedirectOptions } from "./rules.ts";

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

/** What is ours in the kernel at one moment; undefined where that is not known without a program. */
export type RulesetLook = SeenObjects | undefined;

/** What bringing rules about took. */
export interface Converged {
  readonly writes: number;
  /** What differed before. */
  readonly repaired: readonly Drift[];
  /** Why programs wrote the rules. */
  readonly fallback?: NetfilterFault;
}

/** Reads and writes our rules in whichever namespace a call names. */
export interface RuleEngine {
  /** Does beforehand what the first pod with these options would wait for. */
  prepare(options: RedirectOptions): Promise<void>;
  /** What can be known without a process. */
  look(call: NetnsCall): Promise<RulesetLook>;
  /** Compares; writes nothing. */
  observe(call: NetnsCall, wanted: WantedRules, look: RulesetLook): Promise<Observation[]>;
  /**
   * Writes until the rules are the wanted ones.
   * @param first.isNew with a look that is absent: nothing is there yet
   */
  converge(
    call: NetnsCall,
    wanted: WantedRules,
    first: { readonly look: RulesetLook; readonly isNew: boolean },
  ): Promise<Converged>;
  /** Takes away what leads into our chains of table nat, in both families. @returns how many writes it took */
  open(call: NetnsCall): Promise<number>;
  /** Takes away all that is ours, in both families. @returns how many writes it took */
  remove(call: NetnsCall): Promise<number>;
}
