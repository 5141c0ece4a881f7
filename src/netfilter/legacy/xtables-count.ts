// SPDX-License-Identifier: Apache-2.0
// Counts the rules that others keep in x_tables, by the kernel's own number of entries where they are many.

import { viewOf } from "../../linux/netlink/message.ts";
import { xtablesInNetns } from "../../linux/xtables-netns.ts";
import type { Family } from "../family.ts";
import { addCounts, isIstioChain, noRules, type RuleCount } from "../rule-count.ts";

/** Bytes of a table's entries that are looked at one by one: some thousand rules. */
const ENOUGH_BYTES = 1024 * 1024;

/** struct ipt_getinfo. Source: linux/netfilter_ipv4/ip_tables.h. */
const INFO = { validHooks: 32, entryCount: 76, size: 84 } as const;
/** target_offset in struct ipt_entry and struct ip6t_entry; next_offset follows, both u16. Source: the same and ip6_tables.h. */
const TARGET_OFFSET: Readonly<Record<Family, number>> = { 4: 88, 6: 140 };
/** struct xt_entry_target: u16 size, name, u8 revision; then a verdict, or a name. Source: linux/netfilter/x_tables.h. */
const TARGET = { name: 2, data: 32 } as const;
const ERROR_TARGET = "ERROR";
const MAX_NAME_BYTES = 30;

/**
 * Counts in tables that exist; asking for another would create it.
 * @param names the tables by family
 * @throws NativeError if the kernel cannot be asked
 */
export async function countXtablesRules(
  netnsFd: number,
  names: Readonly<Record<Family, readonly string[]>>,
): Promise<RuleCount> {
  let sum = noRules;
  for (const family of [4, 6] as const) {
    for (const name of names[family]) {
      const table = await xtablesInNetns(netnsFd, family, name, { maxBytes: ENOUGH_BYTES });
      sum = addCounts(sum, countTable(table, family));
    }
  }
  return sum;
}

/** @param table struct ipt_getinfo, and the entries unless they are too many. Pure. */
export function countTable(table: Uint8Array, family: Family): RuleCount {
  const info = viewOf(table);
  // a policy for each hook, and the entry that ends the table
  const builtIn = countBits(info.getUint32(INFO.validHooks, true)) + 1;
  const count = info.getUint32(INFO.entryCount, true) - builtIn;
  const entries = table.subarray(INFO.size);
  if (entries.length === 0) return { rules: undefined, entries: count };
  return { rules: count - countOthers(entries, TARGET_OFFSET[family]), entries: count };
}

/** Entries that are no rules of others: each chain's name and its end, and all that is an ambient agent's. */
function countOthers(entries: Uint8Array, targetOffset: number): number {
  const view = viewOf(entries);
  const istioStarts = new Set<number>();
  const verdicts: number[] = [];
  let [count, isIstio] = [0, false];
  for (let offset = 0; offset + targetOffset + 4 <= entries.length; ) {
    const target = offset + view.getUint16(offset + targetOffset, true);
    const end = offset + view.getUint16(offset + targetOffset + 2, true);
    if (end <= target || end >= entries.length) break; // the table's last entry is counted already
    const name = textAt(entries, target + TARGET.name);
    if (name === ERROR_TARGET) {
      isIstio = isIstioChain(textAt(entries, target + TARGET.data));
      // an agent's chain ends in an entry that is counted with its rules
      count += isIstio ? 1 : 2;
      if (isIstio) istioStarts.add(end);
    } else if (isIstio) count++;
    else if (name === "" && target + TARGET.data + 4 <= end)
      verdicts.push(view.getInt32(target + TARGET.data, true));
    offset = end;
  }
  return count + verdicts.filter((verdict) => istioStarts.has(verdict)).length;
}

function countBits(value: number): number {
  return value.toString(2).replaceAll("0", "").length;
}

function textAt(bytes: Uint8Array, start: number): string {
  const field = Buffer.from(bytes.subarray(start, start + MAX_NAME_BYTES)).toString("latin1");
  return field.split("\0", 1)[0] ?? "";
}
