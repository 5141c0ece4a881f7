// SPDX-License-Identifier: Apache-2.0
// What others keep in nf_tables through iptables.
import type { NftTable } from "../linux/netlink/nftables.ts";

/** Tables that iptables-nft keeps in nf_tables. Source: iptables/iptables iptables/nft.c xtables_ipv4. */
const IPTABLES_TABLES: readonly string[] = ["raw", "mangle", "nat", "filter", "security"];

/** How many rules iptables-nft keeps here that no ambient agent wrote. */
export function countForeignRules(tables: readonly NftTable[]): number {
  const isIstio = (name: string | undefined) => name?.startsWith("ISTIO_") === true;
  return tables
    .filter((table) => table.family !== "inet" && IPTABLES_TABLES.includes(table.table))
    .flatMap((table) => table.chains.filter((chain) => !isIstio(chain.name)))
    .flatMap((chain) => chain.rules.filter((rule) => !isIstio(rule.jumpTarget))).length;
}
