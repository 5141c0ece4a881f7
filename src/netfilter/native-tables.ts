// SPDX-License-Identifier: Apache-2.0
// Tables in which istio-cni keeps its rules when it uses nft itself (NATIVE_NFTABLES): found, opened and removed, never written.
import {
  deleteInetTables,
  dumpNftRuleset,
  emptyInetChains,
  type InetChain,
  listInetTables,
} from "../linux/netlink/nftables.ts";

/** Names of the tables, all of family inet. Source: istio/istio cni/pkg/nftables/nftables.go. */
export const NATIVE_TABLE_NAMES: readonly string[] = [
  "istio-ambient-nat",
  "istio-ambient-mangle",
  "istio-ambient-raw",
];

/** Those of a namespace. @throws NetlinkError, NativeError when they cannot be listed */
export async function findNativeTables(netnsFd: number): Promise<string[]> {
  return (await listInetTables(netnsFd)).filter((table) => NATIVE_TABLE_NAMES.includes(table));
}

/** Removes tables with all that is in them, in one step; starts no process. @throws NetlinkError, NativeError; nothing was removed then */
export function removeNativeTables(netnsFd: number, tables: readonly string[]): Promise<void> {
  return deleteInetTables(netnsFd, tables);
}

/**
 * The chains in which the kernel begins to translate new connections, those that hold rules. Empty they redirect nothing; as long
 * as they are hooked, connections that are open stay translated.
 * @throws NetlinkError, NativeError when they cannot be read
 */
export async function findNativeEntries(netnsFd: number): Promise<InetChain[]> {
  if ((await findNativeTables(netnsFd)).length === 0) return [];
  const tables = await dumpNftRuleset(netnsFd);
  return tables
    .filter(({ family, table }) => family === "inet" && NATIVE_TABLE_NAMES.includes(table))
    .flatMap(({ table, chains }) =>
      chains
        .filter(({ type, rules }) => type === "nat" && rules.length > 0)
        .map(({ name }) => ({ table, chain: name })),
    );
}

/** Empties such chains in one step; starts no process. @throws NetlinkError, NativeError; nothing was changed then */
export function emptyNativeEntries(netnsFd: number, entries: readonly InetChain[]): Promise<void> {
  return emptyInetChains(netnsFd, entries);
}

/** How a table is called in messages. */
export function nativeTableName(table: string): string {
  return `table inet ${table}`;
}
