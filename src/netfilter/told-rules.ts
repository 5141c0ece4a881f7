// SPDX-License-Identifier: Apache-2.0
// What an engine is told: tables, chains of ours in them, hooks, rules. It knows nothing of what they are for.
import type { Family } from "./family.ts";

/** What can be ours of one table. */
export interface OwnTable {
  readonly family: Family;
  readonly table: string;
  /** Our chains in the order in which they are made. */
  readonly chains: readonly OwnChain[];
}

/** A chain of ours, and the base chain of everybody's in which one rule jumps to it. */
export interface OwnChain {
  readonly chain: string;
  readonly hook: string;
  /** That rule is the first of the base chain. Default: it stands anywhere, and is appended. */
  readonly isFirst?: boolean;
}

/** The protocol of a rule's `-p`. */
export interface RuleProtocol {
  /** As in an IP header. */
  readonly protocol: number;
  readonly inverted: boolean;
}

/** A rule that shall stand in a chain of ours, behind those told before it. */
export interface ToldRule {
  readonly family: Family;
  readonly table: string;
  readonly chain: string;
  /** Everything that follows `-A CHAIN` in iptables' language. */
  readonly args: readonly string[];
  /** The rule in words, for people: `args` in normal form. */
  readonly words: string;
  readonly protocol?: RuleProtocol | undefined;
}

/** What shall stand in a namespace. */
export interface ToldRules {
  /** All that can be ours; a table without a rule told shall hold nothing of ours. In the order in which tables are made. */
  readonly own: readonly OwnTable[];
  /** Tables that shall hold our chains, with rules in them or not. */
  readonly wanted: readonly Pick<OwnTable, "family" | "table">[];
  readonly rules: readonly ToldRule[];
}
