// SPDX-License-Identifier: Apache-2.0
// How iptables-legacy's rules lie in the kernel's memory, and what of a rule's bytes says what it does.
import { decodeString, viewOf } from "../../linux/netlink/message.ts";
import type { XtablesName } from "../../linux/xtables-netns.ts";
import type { Family } from "../family.ts";
import { sameBytes } from "../nft/nft-objects.ts";
import type { RuleCount } from "../rule-engine.ts";

/** Where the fields of an entry are, from its start. */
export interface EntryLayout {
  /** Behind what the rule asks of a packet's header. */
  readonly nfcache: number;
  /** Two u16: where the target is, and where the next entry. */
  readonly targetOffset: number;
  readonly nextOffset: number;
  /** With the counters behind it. */
  readonly comefrom: number;
  readonly counters: number;
  readonly size: number;
}

/**
 * struct ipt_entry and struct ip6t_entry on 64-bit machines.
 * Source: linux/netfilter_ipv4/ip_tables.h, linux/netfilter_ipv6/ip6_tables.h.
 */
export const ENTRY: Readonly<Record<Family, EntryLayout>> = {
  4: { nfcache: 84, targetOffset: 88, nextOffset: 90, comefrom: 92, counters: 96, size: 112 },
  6: { nfcache: 136, targetOffset: 140, nextOffset: 142, comefrom: 144, counters: 152, size: 168 },
};
const NFCACHE_SIZE = 4;

/**
 * struct ipt_getinfo: name, u32 valid_hooks, u32 hook_entry[5], u32 underflow[5], u32 num_entries, u32 size.
 * Source: linux/netfilter_ipv4/ip_tables.h.
 */
export const INFO = {
  validHooks: 32,
  hookEntry: 36,
  underflow: 56,
  entryCount: 76,
  entriesSize: 80,
  size: 84,
} as const;

/** All that a kernel can have. */
export const TABLES: readonly XtablesName[] = ([4, 6] as const).flatMap((family) =>
  ["nat", "mangle", "raw", "filter", "security"].map((table) => ({ family, table })),
);

/** What stands before each entry of our share of a table: u32 offset in the table, u32 position in its chain. Source: native/common.h. */
export const PLACE = { offset: 0, position: 4, size: 8 } as const;

/** Base chains in the order of `hook_entry`. Source: linux/netfilter.h, enum nf_inet_hooks. */
export const HOOKS = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"] as const;

/** struct xt_entry_target and xt_entry_match: u16 size, name, u8 revision; then a verdict, or a name, or their data. Source: linux/netfilter/x_tables.h. */
export const TARGET = { name: 2, nameSize: 29, revision: 31, data: 32, verdictSize: 4 } as const;
/** Of a chain's name, with its NUL. */
export const CHAIN_NAME_BYTES = 30;
/** Of the target that stands before each chain that a user made, and behind the last one. */
const ERROR_TARGET = Buffer.from("ERROR\0", "latin1");

/** Where a rule's target lets it go on without a verdict: to the rule behind it. */
export const NEXT_RULE = "";

/** What a rule does, wherever it stands and however often it was used. */
export interface XtablesRule {
  /** Counters and marks of the kernel's own walk are zero, and so is the place it leads to where `leadsTo` tells it. */
  readonly bytes: Uint8Array;
  /** A chain of ours, or {@link NEXT_RULE}. */
  readonly leadsTo: string | undefined;
  readonly count: RuleCount;
}

/**
 * Where the entries of a table are in it, each with its target and its end, as far as they are laid out as they should be. A target may
 * have no data, but for a verdict.
 * @param table struct ipt_getinfo, and the entries
 * @param placeBytes what stands before each of them
 */
export function* entriesIn(
  table: Uint8Array,
  family: Family,
  placeBytes = 0,
): Generator<{ readonly at: number; readonly targetAt: number; readonly end: number }> {
  const { targetOffset, nextOffset, size } = ENTRY[family];
  const view = viewOf(table);
  for (let at = INFO.size + placeBytes; at + size <= table.length; ) {
    const targetAt = at + view.getUint16(at + targetOffset, true);
    const end = at + view.getUint16(at + nextOffset, true);
    if (targetAt < at + size || targetAt + TARGET.data > end || end > table.length) return;
    if (isStandardTarget(table, targetAt) && targetAt + TARGET.data + TARGET.verdictSize > end) return;
    yield { at, targetAt, end };
    at = end + placeBytes;
  }
}

/** Whether the target at this place is a verdict. */
export function isStandardTarget(bytes: Uint8Array, targetAt: number): boolean {
  return bytes[targetAt + TARGET.name] === 0;
}

/** The text in a field of so many bytes, up to its NUL; a byte is a character. */
export function fieldText(bytes: Uint8Array, start: number, maxBytes: number): string {
  return decodeString(bytes, start, Math.min(start + maxBytes, bytes.length));
}

/** Two rules do the same. */
export function sameRule(one: XtablesRule, other: XtablesRule): boolean {
  return one.leadsTo === other.leadsTo && sameBytes(one.bytes, other.bytes);
}

/** Whether the target at this place is that before a user's chain. */
export function isErrorTarget(bytes: Uint8Array, targetAt: number): boolean {
  return startsWith(bytes, targetAt + TARGET.name, ERROR_TARGET);
}

/** Whether these bytes stand at this place. */
export function startsWith(bytes: Uint8Array, at: number, expected: Uint8Array): boolean {
  for (let index = 0; index < expected.length; index++)
    if (bytes[at + index] !== expected[index]) return false;
  return true;
}

/**
 * A rule without what differs from namespace to namespace: counters, the hooks from which the kernel reached it, and where it leads.
 * @param entry all bytes of the entry; a copy is made
 * @param leadsTo what its verdict stands for, where that is known
 * Source: linux net/ipv4/netfilter/ip_tables.c mark_source_chains (comefrom); nfcache is read by nobody.
 */
export function canonicalRule(
  entry: Uint8Array,
  { family, targetAt, leadsTo }: { family: Family; targetAt: number; leadsTo: string | undefined },
): XtablesRule {
  const layout = ENTRY[family];
  const bytes = entry.slice();
  const count = countOf(bytes, layout);
  bytes.fill(0, layout.nfcache, layout.nfcache + NFCACHE_SIZE);
  bytes.fill(0, layout.comefrom, layout.size);
  if (leadsTo !== undefined)
    bytes.fill(0, targetAt + TARGET.data, targetAt + TARGET.data + TARGET.verdictSize);
  return { bytes, leadsTo, count };
}

/** struct xt_counters, summed over the processors. Source: linux/netfilter/x_tables.h. */
function countOf(entry: Uint8Array, { counters }: EntryLayout): RuleCount {
  const view = viewOf(entry);
  const valueAt = (offset: number) => Number(view.getBigUint64(offset, true));
  return { packets: valueAt(counters), bytes: valueAt(counters + 8) };
}

/** Whether this is `-j CHAIN` and nothing more: every packet takes it. */
export function isPlainJump({ bytes, leadsTo }: XtablesRule, chain: string, family: Family): boolean {
  if (leadsTo !== chain) return false;
  const { size, targetOffset } = ENTRY[family];
  const targetAt = viewOf(bytes).getUint16(targetOffset, true);
  // neither a match between header and target, nor anything asked of the header
  if (targetAt !== size) return false;
  for (let at = 0; at < targetOffset; at++) if (bytes[at] !== 0) return false;
  return true;
}
