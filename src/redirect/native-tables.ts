// SPDX-License-Identifier: Apache-2.0
// Tables in which istio-cni keeps its rules when it uses nft itself (NATIVE_NFTABLES): found and removed, never written.
import { deleteInetTables, listInetTables } from "../linux/netlink/nftables.ts";

/** Names of the tables, all of family inet. Source: istio/istio cni/pkg/nftables/nftables.go. */
const NATIVE_TABLES: readonly string[] = ["istio-ambient-nat", "istio-ambient-mangle", "istio-ambient-raw"];

/** Those of a namespace. @throws NetlinkError, NativeError when they cannot be listed */
export async function findNativeTables(netnsFd: number): Promise<string[]> {
  return (await listInetTables(netnsFd)).filter((table) => NATIVE_TABLES.includes(table));
}

/** Removes tables with all that is in them, in one step; starts no process. @throws NetlinkError, NativeError; nothing was removed then */
export function removeNativeTables(netnsFd: number, tables: readonly string[]): Promise<void> {
  return deleteInetTables(netnsFd, tables);
}

/** How a table is called in messages. */
export function nativeTableName(table: string): string {
  return `table inet ${table}`;
}
