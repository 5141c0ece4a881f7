// SPDX-License-Identifier: Apache-2.0
// Tables in which istio-cni keeps its rules when it uses nft itself (NATIVE_NFTABLES): asked for by name, and removed.
import { check } from "../../linux/netlink/exchange.ts";
import type { NetnsAt } from "../../linux/netns-visit.ts";
import { askAbout } from "../find-chains.ts";
import { ask, batch, declareTable, deleteTable, getTable, type TablePlace } from "../nft/nft-wire.ts";

/** Names of the tables, all of family inet. Source: istio/istio cni/pkg/nftables/nftables.go. */
export const NATIVE_TABLE_NAMES: readonly string[] = [
  "istio-ambient-nat",
  "istio-ambient-mangle",
  "istio-ambient-raw",
];

/** Those of a namespace, however many others it has. @throws NetlinkError, NativeError when they cannot be asked for */
export async function findNativeTables(at: NetnsAt): Promise<string[]> {
  const places = NATIVE_TABLE_NAMES.map(placeOf);
  return (await askAbout(at, places, getTable)).map(({ table }) => table);
}

/**
 * Removes tables with all that is in them, in one step; one that is not there is no error.
 * @throws NetlinkError, NativeError; nothing was removed then
 */
export async function removeNativeTables(netnsFd: number, tables: readonly string[]): Promise<void> {
  if (tables.length === 0) return;
  // made first, so that there is one to delete
  const changes = tables.map(placeOf).flatMap((place) => [declareTable(place), deleteTable(place)]);
  const answers = await ask(netnsFd, batch(changes));
  // nothing is acknowledged: the kernel says what it refuses
  const refusal = answers.find(({ error }) => error !== undefined && error !== 0);
  if (refusal !== undefined) check("delete nf_tables tables", refusal);
}

/** How a table is called in messages. */
export function nativeTableName(table: string): string {
  return `table inet ${table}`;
}

function placeOf(table: string): TablePlace {
  return { family: "inet", table };
}
