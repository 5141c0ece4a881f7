// SPDX-License-Identifier: Apache-2.0
// Compares what is ours in nf_tables with known bytes, and says how it differs.
import { isProven } from "../chain-proof.ts";
import {
  type ChainLead,
  type ChainVerdict,
  judgeChains,
  jumpFindings,
  ruleFindings,
  strayFindings,
  type TablePlace,
  unexpectedFindings,
} from "../chain-verdict.ts";
import type { Verdict, Wanted } from "../engine.ts";
import { dormantFault, NetfilterFault, unsteadyFault } from "../netfilter-fault.ts";
import type { Finding } from "../rule-engine.ts";
import type { OwnTable } from "../told-rules.ts";
import type { KnownChain, KnownRules, KnownTable } from "./nft-known.ts";
import { type NftRuleObject, sameBytes, sameHook } from "./nft-objects.ts";
import { leadsOf, type SeenChain, type SeenObjects, type SeenTable } from "./own-objects.ts";

/** A rule outside of our chains that leads into one of them. */
export interface NftLead extends ChainLead {
  readonly from: string;
  readonly rule: NftRuleObject;
}

export type NftChainVerdict = ChainVerdict<KnownChain, SeenChain, NftLead>;

/** What there is of ours in one table. */
export interface TableVerdict extends TablePlace {
  readonly wanted: KnownTable | undefined;
  readonly seen: SeenTable | undefined;
  readonly chains: readonly NftChainVerdict[];
  readonly findings: readonly Finding[];
}

export type NftVerdict = Verdict<TableVerdict>;

/**
 * Judges what was read.
 * @throws {NetfilterFault} TABLE_DORMANT, HOOK_TAKEN, TOO_MANY_RULES, UNSTEADY: it cannot be judged, or not be mended by rules
 */
export function verifyOwnObjects(seen: SeenObjects, wanted: Wanted<KnownRules>): NftVerdict {
  const tables = wanted.known.own
    .filter(({ family }) => wanted.families.includes(family))
    .map((own) => judgeTable(own, seen, wanted));
  const findings = tables.flatMap((table) => table.findings);
  // What has changed between two lists is no hole in either of them.
  if (findings.length > 0 && !seen.isSteady) throw unsteadyFault();
  return { tables, findings };
}

function judgeTable(own: OwnTable, { tables }: SeenObjects, wanted: Wanted<KnownRules>): TableVerdict {
  const { family, table } = own;
  const isIt = (each: Pick<SeenTable, "family" | "table">) => each.family === family && each.table === table;
  const known = wanted.known.tables.find(isIt);
  const found = tables.find(isIt);
  // where nothing is to stand, what is taken away is ours
  const seen = known === undefined && !isOurs(own, found) ? undefined : found;
  const accepted = wanted.accepted?.tables.find(isIt);
  if (known !== undefined && seen !== undefined) checkUsable(known, seen);
  const share = seen && { chains: seen.chains, leads: leadsIn(seen, own) };
  const told = { known: known?.chains ?? [], accepted: accepted?.chains ?? [] };
  const chains = judgeChains<KnownChain, SeenChain, NftLead>(own.chains, share, told, {
    bytesOf: ({ expressions }) => expressions,
    isSame: (one, other) => sameBytes(one.expressions, other.expressions),
    isWhole: ({ isComplete }) => isComplete,
    isJump: ({ rule }, chain) =>
      chain?.jump !== undefined && sameBytes(rule.expressions, chain.jump.expressions),
  });
  if (seen !== undefined) for (const chain of chains) checkFound(chain, seen);
  const verdict = { family, table, wanted: known, seen, chains };
  return { ...verdict, findings: findingsOf(verdict) };
}

function isOurs(own: OwnTable, seen: SeenTable | undefined): boolean {
  const chains = [...(seen?.chains.values() ?? [])].filter(({ base }) => base === undefined);
  return isProven(
    own,
    chains.map(({ rules, isComplete }) => ({
      rules: rules.map(({ expressions }) => expressions),
      isComplete,
    })),
  );
}

function checkUsable({ family, table, hooks }: KnownTable, seen: SeenTable): void {
  const where = `table ${table} of IPv${family}`;
  if (seen.isDormant) throw dormantFault(where);
  const taken = hooks.find((hook) => {
    const chain = seen.chains.get(hook.chain);
    return chain !== undefined && (chain.base === undefined || !sameHook(chain.base, hook));
  });
  if (taken !== undefined)
    throw new NetfilterFault(
      "HOOK_TAKEN",
      `Cannot redirect by ${where}: its chain ${taken.chain} does not hang where iptables hangs it; ` +
        "whoever adds chains with nft should use a table of its own",
    );
}

/** One that leads into two of our chains is told for each. */
function leadsIn({ chains, foreign }: SeenTable, own: OwnTable): NftLead[] {
  const leads: NftLead[] = [];
  const add = (rule: NftRuleObject, from: string, place: Pick<NftLead, "isBase" | "position">): void => {
    for (const { chain } of own.chains)
      if (rule.targets.includes(chain))
        leads.push({ chain, from, shown: printableName(from), rule, ...place });
  };
  for (const { base, name, rules } of chains.values())
    if (base !== undefined)
      for (const [index, rule] of rules.entries()) add(rule, name, { isBase: true, position: index + 1 });
  for (const rule of foreign) add(rule, rule.chain, { isBase: false, position: 0 });
  return leads;
}

/** @throws {NetfilterFault} TOO_MANY_RULES when the rest of the base chain may hold what was not found */
function checkFound(
  { chain, hook, isFirst = false, wanted, seen, jumps }: NftChainVerdict,
  { table, chains }: SeenTable,
): void {
  if (isFirst || hook === undefined || wanted?.jump === undefined || jumps.length > 0) return;
  if ((seen?.use ?? 0) > 0 && chains.get(hook)?.isComplete === false)
    throw new NetfilterFault(
      "TOO_MANY_RULES",
      `Cannot verify that ${hook} of table ${table} leads to ${chain}: more rules stand before it than are read; ` +
        "take rules of others out of that chain, or let them come after ours",
    );
}

function findingsOf({ family, table, wanted, seen, chains }: Omit<TableVerdict, "findings">): Finding[] {
  const place = { family, table };
  if (wanted === undefined) return unexpectedFindings(chains, place);
  // a way in that is not there says more than any rule behind it
  return [
    ...chains.flatMap((chain) => jumpFindings(chain, place)),
    ...chains.flatMap((chain) => [...ruleFindings(chain, place), ...restFindings(chain, place)]),
    ...chains.flatMap((chain) => strayFindings(chain, place)),
    ...chains.flatMap((chain) => hiddenFindings(chain, seen, place)),
  ];
}

function restFindings({ chain, seen }: NftChainVerdict, place: TablePlace): Finding[] {
  if (seen?.isComplete !== false) return [];
  return [{ kind: "extra-rule", ...place, chain, detail: `-A ${chain} (and more)` }];
}

function hiddenFindings(
  verdict: NftChainVerdict,
  table: SeenTable | undefined,
  place: TablePlace,
): Finding[] {
  const { chain, seen } = verdict;
  const count = hiddenCount(verdict, table);
  if (seen?.isComplete !== true || count <= 0) return [];
  const detail = `${count} rules more stand in ${chain} or lead into it than are listed`;
  return [{ kind: "extra-rule", ...place, chain, detail }];
}

/** The chain's own count shows rules and verdicts that no list does: those in others' chains, and what is too long to list. */
export function hiddenCount(
  { chain, seen, jumps, strays }: NftChainVerdict,
  table: SeenTable | undefined,
): number {
  if (seen === undefined || table === undefined) return 0;
  // which verdicts in chains of ours lead into it is said by those chains
  return seen.use - seen.rules.length - jumps.length - strays.length - leadsOf(table, chain);
}

/** A chain's name can be anything but a NUL; whoever reads of it has a terminal. */
function printableName(name: string): string {
  return /^[\w.:-]+$/.test(name) ? name : `(a name of ${name.length} bytes)`;
}
