// SPDX-License-Identifier: Apache-2.0
// The changes that lead from what is there to known rules: one batch for both families, taken as a whole or not at all. Pure.
import type { NetlinkRequest } from "../../linux/netlink/message.ts";
import { NetfilterFault } from "../netfilter-fault.ts";
import { deleteChain, deleteRule } from "./nft-wire.ts";
import {
  hiddenCount,
  type NftChainVerdict,
  type NftLead,
  type NftVerdict,
  type TableVerdict,
} from "./verify.ts";

/**
 * The changes that turn what was found into what should be there, tables and chains before the rules that name them. Adds to
 * tables and base chains that are there, and takes away nothing but rules and chains of ours; empty when nothing differs.
 * @throws {NetfilterFault} TABLE_OWNED
 */
export function planReplay({ tables }: NftVerdict): NetlinkRequest[] {
  return tables.filter(({ findings }) => findings.length > 0).flatMap(planTable);
}

/** The changes that take away what leads into our chains of one table, and nothing else. @throws as {@link planReplay} */
export function planOpening({ tables }: NftVerdict, opened: string): NetlinkRequest[] {
  return tables
    .filter(({ table }) => table === opened)
    .flatMap((table) => {
      const changes = deleteLeads(
        table,
        table.chains.flatMap(({ jumps, strays }) => [...jumps, ...strays]),
      );
      if (changes.length > 0) checkNotOwned(table);
      return changes;
    });
}

function planTable(table: TableVerdict): NetlinkRequest[] {
  checkNotOwned(table);
  const { wanted, seen, chains } = table;
  if (wanted === undefined) return removeChains(table);
  const hooks = wanted.hooks.filter(({ chain }) => seen?.chains.has(chain) !== true);
  const surplus = chains.flatMap((chain) => [
    ...chain.jumps.filter((each) => each !== rightJump(chain)),
    ...chain.strays,
  ]);
  return [
    ...(seen === undefined ? [wanted.request] : []),
    ...chains.flatMap((chain) => (chain.seen === undefined && chain.wanted ? [chain.wanted.request] : [])),
    ...hooks.map(({ request }) => request),
    ...chains.flatMap((chain) => fill(table, chain)),
    ...chains.flatMap((chain) => (rightJump(chain) === undefined ? (chain.wanted?.jump?.request ?? []) : [])),
    ...deleteLeads(table, surplus),
  ];
}

/** That which stands where it should. */
function rightJump({ isFirst = false, jumps }: NftChainVerdict): NftLead | undefined {
  return jumps.find(({ position }) => position === 1 || !isFirst);
}

/** Rewritten as a whole, so that no rule that a list does not show stays behind. */
function fill(table: TableVerdict, verdict: NftChainVerdict): NetlinkRequest[] {
  const { chain, wanted, seen, hasRules } = verdict;
  if (hasRules && hiddenCount(verdict, table.seen) === 0) return [];
  const rules = wanted?.rules.map(({ request }) => request) ?? [];
  return seen === undefined ? rules : [deleteRule({ ...table, chain }), ...rules];
}

function removeChains(table: TableVerdict): NetlinkRequest[] {
  const present = table.chains.filter(({ seen }) => seen !== undefined);
  const places = present.map(({ chain }) => ({ ...table, chain }));
  return [
    ...deleteLeads(
      table,
      present.flatMap(({ jumps, strays }) => [...jumps, ...strays]),
    ),
    // one chain's rules may lead into the other
    ...places.map((place) => deleteRule(place)),
    ...places.map((place) => deleteChain(place)),
  ];
}

/** A rule that leads into two of our chains is deleted once. */
function deleteLeads(table: TableVerdict, leads: readonly NftLead[]): NetlinkRequest[] {
  const unique = new Map(leads.map((lead) => [Buffer.from(lead.rule.handle).toString("hex"), lead]));
  return [...unique.values()].map(({ from, rule }) => deleteRule({ ...table, chain: from }, rule.handle));
}

function checkNotOwned({ family, table, seen }: TableVerdict): void {
  if (seen?.isOwned !== true) return;
  throw new NetfilterFault(
    "TABLE_OWNED",
    `Cannot write table ${table} of IPv${family}: a process owns it (nft "flags owner"), and only that one may change it`,
  );
}
