// SPDX-License-Identifier: Apache-2.0
// What an engine is told: tables, chains of ours in them, hooks, rules. It knows nothing of what they are for.
import type { Family } from "./family.ts";
import { normaliseRule } from "./rule-tokens.ts";

/** What can be ours of one table. */
export interface OwnTable {
  readonly family: Family;
  readonly table: string;
  /** Our chains in the order in which they are made. */
  readonly chains: readonly OwnChain[];
  /** What shows that chains of these names are ours, for others may give them to theirs. Default: nobody else has such names. */
  readonly proof?: ChainProof;
}

/** Values that stand together in a rule of ours and in none of others, as the kernel keeps them: of each list at least one. */
export type ChainProof = readonly (readonly Uint8Array[])[];

/** A chain of ours, and the base chain of everybody's in which one rule jumps to it. */
export interface OwnChain {
  readonly chain: string;
  /** Absent: nothing but rules of ours leads into it, from chains of ours in the same table. */
  readonly hook?: string;
  /** That rule is the first of the base chain. Default: it stands anywhere, and is appended. */
  readonly isFirst?: boolean;
}

/** One that a base chain leads into. */
export type HookedChain = OwnChain & { readonly hook: string };

export function isHooked<C extends OwnChain>(chain: C): chain is C & HookedChain {
  return chain.hook !== undefined;
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

/** Tables that shall hold our chains, with all that can be ours of each. */
export function wantedTables({ own, wanted }: ToldRules): OwnTable[] {
  return own.filter((each) =>
    wanted.some(({ family, table }) => family === each.family && table === each.table),
  );
}

/** The rules told for one chain. */
export function rulesOf(
  { rules }: ToldRules,
  place: Pick<ToldRule, "family" | "table" | "chain">,
): ToldRule[] {
  return rules.filter(
    ({ family, table, chain }) => family === place.family && table === place.table && chain === place.chain,
  );
}

// Source: RFC 5237 and the IANA registry of protocol numbers.
const PROTOCOL_NUMBERS: Readonly<Record<string, number>> = { tcp: 6, udp: 17 };

/** A rule from what follows `-A CHAIN`. @throws RangeError for a protocol of which the number is not known */
export function toldRule(
  place: Pick<ToldRule, "family" | "table" | "chain">,
  args: readonly string[],
): ToldRule {
  const words = normaliseRule(args).join(" ");
  return { ...place, args, words, protocol: protocolOf(args) };
}

function protocolOf(args: readonly string[]): RuleProtocol | undefined {
  const at = args.indexOf("-p");
  if (at < 0) return undefined;
  const name = args[at + 1] ?? "";
  const protocol = PROTOCOL_NUMBERS[name];
  if (protocol === undefined)
    throw new RangeError(`Cannot tell the kernel of protocol "${name}": its number is not known`);
  return { protocol, inverted: args[at - 1] === "!" };
}
