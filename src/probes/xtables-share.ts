// SPDX-License-Identifier: Apache-2.0
// Our share of an iptables-legacy table, out of the kernel's own bytes: a hash by which it is known again. Pure.
import { createHash, type Hash } from "node:crypto";
import { viewOf } from "../linux/netlink/message.ts";
import type { Family } from "../netfilter/family.ts";
import { ENTRY, HOOKS, INFO, TARGET } from "../netfilter/xtables-entry.ts";

/** nextOffset follows targetOffset, both u16; two counters of u64. */
const NEXT_OFFSET = 2;
const COUNTERS_SIZE = 16;
const CHAIN_NAME_SIZE = 30;
const ERROR_TARGET = "ERROR";

/** The built-in chain that jumps to ours, and ours. */
export interface XtablesShare {
  readonly family: Family;
  readonly hook: (typeof HOOKS)[number];
  readonly chain: string;
}

interface Entry {
  /** Position among the entries, which is how jumps name it. */
  readonly offset: number;
  readonly bytes: Uint8Array;
  readonly targetAt: number;
}

/**
 * Hash of the built-in chain's first rule, of how many rules jump to our chain, there and elsewhere, and of our chain's
 * rules. Equal hashes mean equal rules as long as the sets stay: a rule names its set by number. Rules of others may come
 * and go, and counters count.
 *
 * @param table as `xtablesInNetns` gives it; its counters are cleared
 * @returns undefined for bytes that are no such table
 */
export function hashXtablesShare(table: Uint8Array, share: XtablesShare): string | undefined {
  const entries = readEntries(table, share.family);
  if (entries === undefined) return undefined;
  const firstOffset = viewOf(table).getUint32(INFO.hookEntry + 4 * HOOKS.indexOf(share.hook), true);
  const first = entries.findIndex(({ offset }) => offset === firstOffset);
  if (first < 0) return undefined;
  const head = entries.findIndex((entry) => chainName(entry) === share.chain);
  const chain = head < 0 ? [] : entries.slice(head + 1, endOfChain(entries, head + 1));
  const target = chain[0]?.offset;
  const hash = createHash("sha256");
  addEntry(hash, entries[first] as Entry, target);
  const hookEnd = endOfHook(table, { from: firstOffset, entries });
  let [here, elsewhere] = [0, 0];
  for (const entry of target === undefined ? [] : entries) {
    if (verdictOf(entry) !== target) continue;
    if (entry.offset >= firstOffset && entry.offset < hookEnd) here++;
    else elsewhere++;
  }
  hash.update(`|${head >= 0} ${here} ${elsewhere}|`);
  for (const entry of chain) addEntry(hash, entry, target);
  return hash.digest("hex");
}

function readEntries(table: Uint8Array, family: Family): Entry[] | undefined {
  const layout = ENTRY[family];
  if (table.length < INFO.size) return undefined;
  const body = table.subarray(INFO.size);
  if (viewOf(table).getUint32(INFO.entriesSize, true) !== body.length) return undefined;
  const view = viewOf(body);
  const entries: Entry[] = [];
  for (let offset = 0; offset < body.length; ) {
    if (offset + layout.size > body.length) return undefined;
    const targetAt = view.getUint16(offset + layout.targetOffset, true);
    const size = view.getUint16(offset + layout.targetOffset + NEXT_OFFSET, true);
    const isWhole = targetAt >= layout.size && targetAt + TARGET.data <= size && offset + size <= body.length;
    if (!isWhole) return undefined;
    const bytes = body.subarray(offset, offset + size);
    bytes.fill(0, layout.counters, layout.counters + COUNTERS_SIZE);
    entries.push({ offset, bytes, targetAt });
    offset += size;
  }
  return entries;
}

/** A chain's rules follow an entry with its name; the next such entry, which the table's last one is too, ends them. */
function endOfChain(entries: readonly Entry[], from: number): number {
  const end = entries.findIndex((entry, index) => index >= from && chainName(entry) !== undefined);
  return end < 0 ? entries.length : end;
}

/** The built-in chains come first, one after the other and each ending in its policy; then the chains with names. */
function endOfHook(
  table: Uint8Array,
  { from, entries }: { from: number; entries: readonly Entry[] },
): number {
  const view = viewOf(table);
  const starts = HOOKS.map((_, hook) => view.getUint32(INFO.hookEntry + 4 * hook, true));
  const named = entries.find((entry) => chainName(entry) !== undefined)?.offset ?? table.length;
  return Math.min(named, ...starts.filter((start) => start > from));
}

/** Name of the chain that begins after this entry; undefined for a rule. */
function chainName({ bytes, targetAt }: Entry): string | undefined {
  if (textAt(bytes, targetAt + TARGET.name, TARGET.nameSize) !== ERROR_TARGET) return undefined;
  return textAt(bytes, targetAt + TARGET.data, CHAIN_NAME_SIZE);
}

/** Where the rule jumps to, negative for a final verdict; undefined when its target is a module's. */
function verdictOf({ bytes, targetAt }: Entry): number | undefined {
  const isStandard = bytes[targetAt + TARGET.name] === 0 && bytes.length >= targetAt + TARGET.data + 4;
  return isStandard ? viewOf(bytes).getInt32(targetAt + TARGET.data, true) : undefined;
}

/** Without where our chain stands in the table, which depends on the rules of others. */
function addEntry(hash: Hash, entry: Entry, target: number | undefined): void {
  const isOurJump = target !== undefined && verdictOf(entry) === target;
  const end = isOurJump ? entry.targetAt : entry.bytes.length;
  hash.update(`${isOurJump ? "jump" : "rule"} ${end}:`).update(entry.bytes.subarray(0, end));
}

function textAt(bytes: Uint8Array, start: number, maxBytes: number): string {
  const field = bytes.subarray(start, start + maxBytes);
  const end = field.indexOf(0);
  return Buffer.from(field.subarray(0, end < 0 ? field.length : end)).toString("latin1");
}
