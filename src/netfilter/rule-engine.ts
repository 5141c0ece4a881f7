// SPDX-License-Identifier: Apache-2.0
// What rules in a namespace are asked for and changed through, whichever way the kernel is spoken to.
import type { Netns } from "../linux/netns.ts";
import type { NetnsVisit } from "../linux/netns-visit.ts";
import type { Family } from "./family.ts";
import type { ToldRules } from "./told-rules.ts";

/** Where a call works, and for how long. */
export interface NetnsCall {
  readonly netns: Netns;
  readonly signal?: AbortSignal | undefined;
  /** A pod waits in CNI ADD: background work does not keep it waiting. Default false. */
  readonly isUrgent?: boolean;
  /** Through which the namespace is asked over netlink, so that questions of others go with those of the engine. */
  readonly visit?: NetnsVisit;
}

/** What should stand in a namespace. */
export interface WantedRules {
  /** Equal for two sets of rules exactly when they are. */
  readonly key: string;
  /** Called when the key is not known yet. */
  readonly told: () => ToldRules;
  /** Families that are looked at and written; the others are neither right nor wrong. */
  readonly families: readonly Family[];
  /** Another form that counts as this one, rule by rule, and is left as it is. */
  readonly accepted?: Pick<WantedRules, "key" | "told">;
}

/** One way in which what is there differs from what should be there. */
export interface Finding {
  readonly kind:
    | "missing-chain"
    | "missing-rule"
    | "extra-rule"
    | "reordered"
    | "missing-jump"
    | "duplicate-jump"
    | "jump-not-first"
    | "unexpected-table";
  readonly family: Family;
  readonly table: string;
  /** Empty where the finding concerns a whole table. */
  readonly chain: string;
  readonly detail: string;
}

/** What the kernel has counted on a rule; in a table nat that is the first packet of each connection. */
export interface RuleCount {
  readonly packets: number;
  readonly bytes: number;
}

/** Of a rule on which nothing was counted. */
export const NOTHING_COUNTED: RuleCount = { packets: 0, bytes: 0 };

/** Which form of a rule stands: as it is told, as another form counts as it, or neither. */
export type RuleForm = "told" | "accepted" | "other";

/** A chain of ours as it is. */
export interface ChainState {
  readonly family: Family;
  readonly table: string;
  readonly chain: string;
  /** The table that it really stands in, where that is called otherwise than it is told. */
  readonly standsIn?: string;
  /** Its rules in words: those told for rules that are as told, a note for others. Never text of the namespace. */
  readonly words: readonly string[];
  /** In the order of `words`; none for a note on several rules. */
  readonly counts?: readonly RuleCount[];
  /** In the order of `words`, which tell an accepted rule as that which it counts as. */
  readonly forms?: readonly RuleForm[];
  /** Rules that lead into it as one should. */
  readonly jumpCount: number;
  /** Counted on these rules together. */
  readonly jumped?: RuleCount;
  /** Rules that lead into it in another way, by the chain they stand in. */
  readonly strays: readonly string[];
}

/** What a namespace has of what it should have. */
export interface RuleState {
  /** None: everything is as it should be. */
  readonly findings: readonly Finding[];
  /** Those of our chains that are there. */
  readonly chains: readonly ChainState[];
  /**
   * The low 16 bits of the kernel's count of changes, where nothing else than what it counts can change what was seen: equal for two looks
   * between which nobody changed nf_tables in this namespace. Absent where that is not known.
   */
  readonly generation?: number | undefined;
}

/** The state in short. */
export interface SeenRules extends Pick<RuleState, "findings" | "generation"> {
  /** Some of our chains are there. */
  readonly hasChains: boolean;
}

/** What bringing rules about took. */
export interface Applied {
  readonly before: RuleState;
  /** Batches, or runs of a program. */
  readonly writes: number;
  /** Why a program wrote what the kernel did not take from us. */
  readonly fallback?: string;
}

/**
 * Our own objects in whichever namespace a call names: known bytes are brought about, compared with and taken away. What others have
 * there is neither listed nor touched.
 *
 * All throw {@link NetfilterFault} for what concerns this namespace or set of rules alone, NetlinkError and NativeError when the
 * kernel cannot be asked, ToolError when a program that is needed fails.
 */
export interface RuleEngine {
  readonly variant: "nft" | "legacy" | "native";
  /** Does beforehand what the first call with these rules would wait for. */
  prepare(wanted: WantedRules): Promise<void>;
  /** Those of our chains that are there; writes and creates nothing. */
  present(call: NetnsCall): Promise<readonly ChainState[]>;
  /** Compares; writes nothing. */
  verify(call: NetnsCall, wanted: WantedRules): Promise<RuleState>;
  /**
   * What the last {@link verify} of these rules through this handle saw, if the kernel says that nothing was changed in the namespace
   * since: a fraction of a look. Undefined at once where the kernel is not asked. Engines without such a count are never asked.
   */
  unchanged(call: NetnsCall, wanted: WantedRules): Promise<SeenRules | undefined> | undefined;
  /**
   * Writes what differs, and proves it by the kernel's own answer; writes nothing where everything is right.
   * @param options.isNew the namespace was made just now: nothing of ours can be in it, so it is not looked at first. Wrongly true, it
   *   costs a round more
   */
  apply(call: NetnsCall, wanted: WantedRules, options: { readonly isNew: boolean }): Promise<Applied>;
  /** Takes away what leads into our chains of one table, and nothing else, in both families. @returns the number of writes */
  open(call: NetnsCall, table: string): Promise<number>;
  /** Takes away all that is ours, in both families. @returns the number of writes */
  remove(call: NetnsCall): Promise<number>;
}
