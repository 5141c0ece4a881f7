// SPDX-License-Identifier: Apache-2.0
// Tables of iptables-legacy in a network namespace, read by the addon.
import { constants } from "node:os";
import { type AddonFailure, addon, explain } from "./native.ts";

/**
 * Reads a table of iptables-legacy in a network namespace, without a process. The descriptor may be closed as soon as the
 * call returns. As with every question for it, a table that the kernel knows but the namespace has none of yet is created.
 *
 * @param table for example "nat"
 * @param options.maxBytes of a table with more bytes of entries struct ipt_getinfo comes alone, which tells how many they are; cheap
 *   however large it is. Default: no such bound
 * @returns struct ipt_getinfo (84 bytes), then the entries: struct ipt_entry or struct ip6t_entry, one after the other
 * @throws NativeError setns, socket (EAFNOSUPPORT) or getsockopt (ENOENT: no such table; ENOPROTOOPT: the kernel, or this
 *   far, has no iptables-legacy; EPERM: it takes NET_ADMIN; EAGAIN: it changed each time it was read; EMSGSIZE: over 128 MiB)
 */
export async function xtablesInNetns(
  netnsFd: number,
  family: 4 | 6,
  table: string,
  options: { maxBytes?: number } = {},
): Promise<Uint8Array> {
  const [bytes] = await readXtables(netnsFd, [{ family, table }], { ...options, onlyExisting: false });
  return bytes as Uint8Array;
}

/**
 * Several tables, or the share that named chains have of them, with one entry into the namespace: a chain's share are its entries, and
 * those of other chains that lead into it. Creates no table: the namespace's own list of tables, which costs no process, is read first. Only
 * where that cannot be read (no /proc is mounted) a table that is not there comes into being.
 *
 * @param options.maxBytes as for {@link xtablesInNetns}
 * @param options.isUrgent as for {@link converseInNetns}
 * @returns in the order of `tables`; undefined when the namespace has no such table, or the kernel none at all. A whole table as from
 *   {@link xtablesInNetns}. Of a share struct ipt_getinfo (84 bytes), then entries in their order, each behind its place: u32 offset in the
 *   table, u32 position in its chain from 1 (0: it is what stands before a chain, with its name). Of a chain the first 10,001 and the
 *   last; of what leads into one, 10,001. Before an entry of another chain stands what is before that chain
 * @throws as {@link xtablesInNetns}, for the first in the list; EPROTO: the bytes are no such table
 */
export async function existingXtablesInNetns(
  netnsFd: number,
  tables: readonly XtablesShare[],
  options: { maxBytes?: number | undefined; isUrgent?: boolean } = {},
): Promise<(Uint8Array | undefined)[]> {
  return await readXtables(netnsFd, tables, { ...options, onlyExisting: true });
}

/** A table of iptables-legacy. */
export interface XtablesName {
  readonly family: 4 | 6;
  readonly table: string;
}

/** What is asked of a table. */
export interface XtablesShare extends XtablesName {
  /** Up to 16; absent: the whole table. */
  readonly chains?: readonly { readonly chain: string }[];
}

async function readXtables(
  netnsFd: number,
  tables: readonly XtablesShare[],
  {
    onlyExisting,
    maxBytes = 0xffff_ffff,
    isUrgent = false,
  }: { onlyExisting: boolean; maxBytes?: number | undefined; isUrgent?: boolean },
): Promise<(Uint8Array | undefined)[]> {
  const [first] = tables;
  if (first === undefined) return [];
  const doing = ({ family, table }: XtablesName) =>
    `read the iptables-legacy table "${table}" of IPv${family}`;
  const ask = async (names: typeof tables) => {
    const lines = names
      .map(({ family, table, chains }) =>
        chains === undefined
          ? `${family}${table}`
          : `${family}${table}\t${chains.map(({ chain }) => chain).join("\t")}`,
      )
      .join("\n");
    return await addon().xtablesInNetns(netnsFd, lines, onlyExisting, maxBytes, isUrgent);
  };
  try {
    const found = await ask(tables);
    return await Promise.all(
      tables.map(async (name, index) => {
        // two who ask for a table that is not there yet both make it; the slower one is told so, and may ask again.
        // Source: linux net/netfilter/x_tables.c, xt_find_table_lock and xt_register_table
        const wasMadeMeanwhile = isFailure(found[index]) && found[index][0] === -constants.errno.EEXIST;
        const [answer] = wasMadeMeanwhile ? await ask([name]) : [found[index]];
        if (isFailure(answer)) throw explain(doing(name), answer);
        return answer;
      }),
    );
  } catch (error) {
    throw explain(doing(first), error);
  }
}

function isFailure(answer: Uint8Array | undefined | AddonFailure): answer is AddonFailure {
  return Array.isArray(answer);
}
