// SPDX-License-Identifier: Apache-2.0
// The hash of our share of the kernel's rules: what it sees and what it does not.
import { describe, expect, test } from "vitest";
import type { NftChain, NftRule, NftTable } from "../../src/linux/netlink/nftables.ts";
import { countForeignRules, hashOwnRules } from "../../src/redirect/nft-state.ts";

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

const GOOD = nat(base("OUTPUT", [JUMP]), OWN);

describe("the hash of our rules", () => {
  test.each<[string, NftTable[]]>([
    ["rules of others around the jump", nat(base("OUTPUT", [rule("x"), JUMP, rule("y", "OTHER")]), OWN)],
    ["chains of others", nat(base("OUTPUT", [JUMP]), OWN, { name: "OTHER", rules: [rule("z")] })],
    ["the order of chains", nat(OWN, base("OUTPUT", [JUMP]))],
    ["another policy of the hook", nat({ ...base("OUTPUT", [JUMP]), policy: "drop" }, OWN)],
    ["the other family", [...GOOD, { family: "ip6", table: "nat", chains: [OWN] }]],
    ["native tables", [...GOOD, { family: "inet", table: "nat", chains: [OWN] }]],
    ["other tables", [...GOOD, { family: "ip", table: "filter", chains: [OWN] }]],
  ])("does not see %s", (_, tables) => {
    expect(hashOwnRules(tables, 4)).toBe(hashOwnRules(GOOD, 4));
  });

  test.each<[string, NftTable[]]>([
    ["a rule changes", nat(base("OUTPUT", [JUMP]), { ...OWN, rules: [rule("one"), rule("2")] })],
    ["rules change places", nat(base("OUTPUT", [JUMP]), { ...OWN, rules: [rule("two"), rule("one")] })],
    ["two rules run together", nat(base("OUTPUT", [JUMP]), { ...OWN, rules: [rule("onetwo")] })],
    [
      "bytes move from rule to rule",
      nat(base("OUTPUT", [JUMP]), { ...OWN, rules: [rule("onet"), rule("wo")] }),
    ],
    ["a rule is gone", nat(base("OUTPUT", [JUMP]), { ...OWN, rules: [rule("one")] })],
    ["the jump is gone", nat(base("OUTPUT", []), OWN)],
    ["the jump is there twice", nat(base("OUTPUT", [JUMP, JUMP]), OWN)],
    ["the jump has a condition", nat(base("OUTPUT", [rule("tcp jump", "ISTIO_OUTPUT")]), OWN)],
    ["the jump is elsewhere", nat(base("OUTPUT", []), base("INPUT", [JUMP]), OWN)],
    ["the hook is another", nat({ ...base("OUTPUT", [JUMP]), hook: "input" }, OWN)],
    ["the hook is none any more", nat({ name: "OUTPUT", rules: [JUMP] }, OWN)],
    ["the table is another", [{ family: "ip", table: "mangle", chains: GOOD[0]!.chains }]],
    ["a second chain of ours is there", nat(base("OUTPUT", [JUMP]), OWN, { name: "ISTIO_PRERT", rules: [] })],
  ])("changes when %s", (_, tables) => {
    expect(hashOwnRules(tables, 4)).toBeDefined();
    expect(hashOwnRules(tables, 4)).not.toBe(hashOwnRules(GOOD, 4));
  });

  test("is none without chains of ours", () => {
    expect(hashOwnRules([], 4)).toBeUndefined();
    expect(hashOwnRules(GOOD, 6)).toBeUndefined();
    expect(hashOwnRules(nat(base("OUTPUT", [rule("x")])), 4)).toBeUndefined();
  });
});

test("rules of others are counted in the tables of iptables only, without those of an ambient agent", () => {
  const tables: NftTable[] = [
    ...nat(base("OUTPUT", [JUMP, rule("x")]), OWN, { name: "ISTIO_POSTRT", rules: [rule("probe")] }),
    { family: "ip6", table: "filter", chains: [base("INPUT", [rule("y"), rule("z")])] },
    { family: "inet", table: "firewalld", chains: [base("INPUT", [rule("native")])] },
    { family: "ip", table: "kube-proxy", chains: [base("INPUT", [rule("native")])] },
  ];
  expect(countForeignRules(tables)).toBe(3);
});
