// SPDX-License-Identifier: Apache-2.0
// Our share of the kernel's nf_tables rules as one hash, so that known good rules are recognised without a process.
import { createHash, type Hash } from "node:crypto";
import type { NftChain, NftRule, NftTable } from "../linux/netlink/nftables.ts";
import { CHAIN_NAMES, type Family, TABLE_NAMES } from "./rules.ts";

/** Tables that iptables-nft keeps in nf_tables. Source: iptables/iptables iptables/nft.c xtables_ipv4. */
const IPTABLES_TABLES: readonly string[] = [...TABLE_NAMES, "filter", "security"];
const OUR_CHAINS: ReadonlySet<string> = new Set(CHAIN_NAMES);

/**
 * Hash of our chains, rule by rule, and of every rule that leads into them together with the hook it hangs on; rules
 * of others do not count.
 * @returns undefined when nothing of ours is there.
 */
export function hashOwnRules(tables: readonly NftTable[], family: Family): string | undefined {
  const hash = createHash("sha256");
  let found = false;
  for (const name of TABLE_NAMES) {
    const chains =
      tables.find((table) => table.table === name && table.family === nftFamily(family))?.chains ?? [];
    for (const chain of [...chains].sort((a, b) => (a.name < b.name ? -1 : 1))) {
      const isOurs = OUR_CHAINS.has(chain.name);
      found ||= isOurs;
      const rules = isOurs
        ? chain.rules
        : chain.rules.filter((rule) => OUR_CHAINS.has(rule.jumpTarget ?? ""));
      if (isOurs || rules.length > 0) updateWithChain(hash, { table: name, chain, rules });
    }
  }
  return found ? hash.digest("hex") : undefined;
}

/** How many rules iptables-nft keeps here that no ambient agent wrote. */
export function countForeignRules(tables: readonly NftTable[]): number {
  const isIstio = (name: string | undefined) => name?.startsWith("ISTIO_") === true;
  return tables
    .filter((table) => table.family !== "inet" && IPTABLES_TABLES.includes(table.table))
    .flatMap((table) => table.chains.filter((chain) => !isIstio(chain.name)))
    .flatMap((chain) => chain.rules.filter((rule) => !isIstio(rule.jumpTarget))).length;
}

function updateWithChain(
  hash: Hash,
  { table, chain, rules }: { table: string; chain: NftChain; rules: readonly NftRule[] },
): void {
  const { name, type = "", hook = "", priority = 0 } = chain;
  hash.update(
    JSON.stringify([table, name, type, hook, priority, rules.map((rule) => rule.expressions.length)]),
  );
  for (const rule of rules) hash.update(rule.expressions);
}

function nftFamily(family: Family): NftTable["family"] {
  return family === 4 ? "ip" : "ip6";
}
