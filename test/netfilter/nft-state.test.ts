// SPDX-License-Identifier: Apache-2.0
// What others keep in nf_tables through iptables.
import { expect, test } from "vitest";
import type { NftChain, NftRule, NftTable } from "../../src/linux/netlink/nftables.ts";
import { countForeignRules } from "../../src/netfilter/nft-state.ts";

function rule(text: string, jumpTarget?: string): NftRule {
  const expressions = new TextEncoder().encode(text);
  return jumpTarget === undefined ? { expressions } : { expressions, jumpTarget };
}

function base(name: string, rules: NftRule[]): NftChain {
  return { name, type: "nat", hook: name.toLowerCase(), priority: -100, policy: "accept", rules };
}

const JUMP = rule("jump", "ISTIO_OUTPUT");
const OWN: NftChain = { name: "ISTIO_OUTPUT", rules: [rule("one"), rule("two")] };

function nat(...chains: NftChain[]): NftTable[] {
  return [{ family: "ip", table: "nat", chains }];
}

test("rules of others are counted in the tables of iptables only, without those of an ambient agent", () => {
  const tables: NftTable[] = [
    ...nat(base("OUTPUT", [JUMP, rule("x")]), OWN, { name: "ISTIO_POSTRT", rules: [rule("probe")] }),
    { family: "ip6", table: "filter", chains: [base("INPUT", [rule("y"), rule("z")])] },
    { family: "inet", table: "firewalld", chains: [base("INPUT", [rule("native")])] },
    { family: "ip", table: "kube-proxy", chains: [base("INPUT", [rule("native")])] },
  ];
  expect(countForeignRules(tables)).toBe(3);
});
