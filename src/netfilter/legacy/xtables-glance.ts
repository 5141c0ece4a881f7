// SPDX-License-Identifier: Apache-2.0
// Whether rules of iptables-legacy are what they were, without judging them: the kernel announces nothing of them.
import { createHash } from "node:crypto";
import { viewOf } from "../../linux/netlink/message.ts";
import type { Netns } from "../../linux/netns.ts";
import { existingXtablesInNetns } from "../../linux/xtables-netns.ts";
import type { Family } from "../family.ts";
import { ENTRY, entriesIn, INFO, TABLES } from "./xtables-entry.ts";

/** Ours are some 3 KiB. What is larger is no glance any more: it is looked at by the clock alone. */
const MAX_BYTES = 64 * 1024;
const COUNTERS_SIZE = 16;

/**
 * All tables of a namespace in one text, without what packets count; creates none.
 * @returns equal exactly where rules are equal; undefined where a table is too large for it
 * @throws NativeError as {@link existingXtablesInNetns}
 */
export async function glanceAtXtables({ fd }: Netns): Promise<string | undefined> {
  const found = await existingXtablesInNetns(fd, TABLES, { maxBytes: MAX_BYTES });
  const hash = createHash("sha1");
  for (const [index, { family, table }] of TABLES.entries()) {
    const bytes = found[index];
    if (bytes === undefined) continue;
    if (bytes.length === INFO.size && viewOf(bytes).getUint32(INFO.entriesSize, true) > 0) return undefined;
    clearCounters(bytes, family);
    hash.update(`${family}${table}`).update(bytes);
  }
  return hash.digest("base64");
}

function clearCounters(bytes: Uint8Array, family: Family): void {
  const { counters } = ENTRY[family];
  for (const { at } of entriesIn(bytes, family)) bytes.fill(0, at + counters, at + counters + COUNTERS_SIZE);
}
