// SPDX-License-Identifier: Apache-2.0
// Counts the rules that others keep in x_tables, by the kernel's own number of entries where they are many.

import { viewOf } from "../../linux/netlink/message.ts";
import { existingXtablesInNetns } from "../../linux/xtables-netns.ts";
import type { Family } from "../family.ts";
import { addCounts, isIstioChain, noRules, type RuleCount } from "../rule-count.ts";
import {
  CHAIN_NAME_BYTES,
  entriesIn,
  fieldText,
  INFO,
  isErrorTarget,
  TABLES,
  TARGET,
} from "./xtables-entry.ts";

/** Bytes of a table's entries that are looked at one by one: some thousand rules. */
const ENOUGH_BYTES = 1024 * 1024;

/** Counts in tables that exist; asking for another would create it. @throws NativeError if the kernel cannot be asked */
export async function countXtablesRules(netnsFd: number): Promise<RuleCount> {
  const found = await existingXtablesInNetns(netnsFd, TABLES, { maxBytes: ENOUGH_BYTES });
  return TABLES.reduce((sum, { family }, index) => {
    const table = found[index];
    return table === undefined ? sum : addCounts(sum, countTable(table, family));
  }, noRules);
}

/** @param table struct ipt_getinfo, and the entries unless they are too many. Pure. */
export function countTable(table: Uint8Array, family: Family): RuleCount {
  const info = viewOf(table);
  // a policy for each hook, and the entry that ends the table
  const builtIn = countBits(info.getUint32(INFO.validHooks, true)) + 1;
  const count = info.getUint32(INFO.entryCount, true) - builtIn;
  if (table.length === INFO.size) return { rules: undefined, entries: count };
  return { rules: count - countOthers(table, family), entries: count };
}

/** Entries that are no rules of others: each chain's name and its end, and all that is an ambient agent's. */
function countOthers(table: Uint8Array, family: Family): number {
  const view = viewOf(table);
  const istioStarts = new Set<number>();
  const verdicts: number[] = [];
  let [count, isIstio] = [0, false];
  for (const { targetAt, end } of entriesIn(table, family)) {
    if (end === table.length) break; // the table's last entry is counted already
    if (isErrorTarget(table, targetAt)) {
      isIstio = isIstioChain(fieldText(table, targetAt + TARGET.data, CHAIN_NAME_BYTES));
      // an agent's chain ends in an entry that is counted with its rules
      count += isIstio ? 1 : 2;
      if (isIstio) istioStarts.add(end - INFO.size);
    } else if (isIstio) count++;
    else if (table[targetAt + TARGET.name] === 0 && targetAt + TARGET.data + TARGET.verdictSize <= end)
      verdicts.push(view.getInt32(targetAt + TARGET.data, true));
  }
  return count + verdicts.filter((verdict) => istioStarts.has(verdict)).length;
}

function countBits(value: number): number {
  return value.toString(2).replaceAll("0", "").length;
}
