// SPDX-License-Identifier: Apache-2.0
// Walking over a table's bytes: what is ours is found wherever it stands, and bytes that are no share of a table are a fault.
import { beforeAll, expect, test } from "vitest";
import { existingXtablesInNetns } from "../../../src/linux/xtables-netns.ts";
import type { Family } from "../../../src/netfilter/family.ts";
import { isPlainJump, NEXT_RULE, sameRule } from "../../../src/netfilter/legacy/xtables-entry.ts";
import { findOwn, type XtablesView } from "../../../src/netfilter/legacy/xtables-table.ts";
import type { OwnTable } from "../../../src/netfilter/told-rules.ts";
import { TestNetns } from "../../redirection/test-netns.ts";
import { FAMILIES, seededRandom } from "../../redirection/variants.ts";

const CHAINS = [
  { chain: "OURS", hook: "OUTPUT" },
  { chain: "OURS_TOO", hook: "PREROUTING" },
];
const own = (family: Family): OwnTable => ({ family, table: "filter", chains: CHAINS });
const TEXT = [
  "*filter",
  ":OURS -",
  ":OUR -",
  ":OURS_TOO_LONG -",
  ":ANOTHER -",
  "-A INPUT -j OUR",
  "-A OUTPUT -p udp -j ACCEPT",
  "-A OUTPUT -j OURS",
  "-A OUTPUT -p tcp -j OURS",
  "-A OUTPUT -g OURS",
  "-A OUTPUT -o lo -j OURS",
  "-A ANOTHER -m comment --comment x",
  "-A ANOTHER -j OURS",
  "-A OURS -p tcp",
  "-A OURS -j ACCEPT",
  "-A OURS -j OUR",
  "-A OUR -j DROP",
  "COMMIT",
  "",
].join("\n");

async function tableOf(family: Family, text: string): Promise<Uint8Array> {
  using netns = await TestNetns.make();
  await netns.run(`${family === 4 ? "iptables" : "ip6tables"}-legacy-restore`, text);
  return await shareOf(netns, family);
}

async function shareOf({ netns }: TestNetns, family: Family): Promise<Uint8Array> {
  const [share] = await existingXtablesInNetns(netns.fd, [own(family)]);
  return share as Uint8Array;
}

const tables: Partial<Record<Family, Uint8Array>> = {};
const table = (family: Family) => tables[family] as Uint8Array;
beforeAll(async () => {
  for (const family of FAMILIES) tables[family] = await tableOf(family, TEXT);
});

test.each(FAMILIES)(
  "IPv%s: a chain of ours is found with its rules, and no other of a similar name",
  (family) => {
    const { chains } = findOwn(table(family), own(family));
    expect([...chains.keys()]).toEqual(["OURS"]);
    const { rules = [], ruleCount, end } = chains.get("OURS") ?? {};
    expect(ruleCount).toBe(3);
    expect(rules.map(({ leadsTo }) => leadsTo)).toEqual([NEXT_RULE, undefined, undefined]);
    expect(end?.leadsTo).toBeUndefined();
  },
);

test.each(FAMILIES)(
  "IPv%s: all that leads into it is found, with its place, and what is a plain jump is told apart",
  (family) => {
    const { leads } = findOwn(table(family), own(family));
    expect(
      leads.map(({ from, isBase, position, rule }) => [
        from,
        isBase,
        position,
        isPlainJump(rule, "OURS", family),
      ]),
    ).toEqual([
      ["OUTPUT", true, 2, true],
      ["OUTPUT", true, 3, false],
      ["OUTPUT", true, 4, false],
      ["OUTPUT", true, 5, false],
      ["ANOTHER", false, 2, true],
    ]);
  },
);

test.each(FAMILIES)(
  "IPv%s: a rule is the same wherever it stands and however often it was used",
  async (family) => {
    const tool = family === 4 ? "iptables-legacy" : "ip6tables-legacy";
    using netns = await TestNetns.make();
    await netns.run(`${tool}-restore`, `*filter\n:BEFORE -\n${"-A BEFORE -j DROP\n".repeat(9)}COMMIT\n`);
    await netns.run(`${tool}-restore --noflush`, TEXT);
    await netns.run(`${tool} -A FORWARD -j OURS`);
    const here = findOwn(await shareOf(netns, family), own(family)).chains.get("OURS");
    const there = findOwn(table(family), own(family)).chains.get("OURS");
    const pairs = there?.rules
      .slice(0, 2)
      .map((rule, index) => here?.rules[index] !== undefined && sameRule(rule, here.rules[index]!));
    expect(pairs).toEqual([true, true]);
  },
);

test("counters do not make another rule", async () => {
  const before = await tableOf(4, "*filter\n:OURS -\n-A OURS -j ACCEPT\n-A OUTPUT -j OURS\nCOMMIT\n");
  const counted = await (async () => {
    using netns = await TestNetns.make();
    await netns.run(
      "iptables-legacy-restore --counters",
      "*filter\n:OURS - [0:0]\n[7:700] -A OURS -j ACCEPT\n[7:700] -A OUTPUT -j OURS\nCOMMIT\n",
    );
    return await shareOf(netns, 4);
  })();
  expect(Buffer.compare(before, counted)).not.toBe(0);
  const [one, other] = [findOwn(before, own(4)), findOwn(counted, own(4))];
  const rulesOf = ({ chains, leads }: XtablesView) => [
    ...(chains.get("OURS")?.rules ?? []),
    ...leads.map(({ rule }) => rule),
  ];
  expect(rulesOf(one).map((rule, index) => sameRule(rule, rulesOf(other)[index]!))).toEqual([true, true]);
  expect(rulesOf(one).map(({ count }) => count.packets)).toEqual([0, 0]);
  expect(rulesOf(other).map(({ count }) => count)).toEqual(Array(2).fill({ packets: 7, bytes: 700 }));
});

test.each(FAMILIES)(
  "IPv%s: bytes that are no share of a table are a fault, whatever is wrong with them, and never anything else",
  (family) => {
    const whole = table(family);
    const fault = expect.objectContaining({ code: "UNREADABLE_TABLE" });
    for (const bytes of [new Uint8Array(), whole.subarray(0, 83), whole.subarray(0, whole.length - 1)])
      expect(() => findOwn(bytes, own(family))).toThrow(fault);
    const random = seededRandom(family);
    let faults = 0;
    for (let round = 0; round < 3000; round++) {
      const bytes = whole.slice();
      for (let i = 0; i < 3; i++)
        bytes[84 + Math.floor(random() * (bytes.length - 84))] = Math.floor(random() * 256);
      try {
        findOwn(bytes, own(family));
      } catch (error) {
        expect(error).toMatchObject({ code: "UNREADABLE_TABLE" });
        faults++;
      }
    }
    expect(faults).toBeGreaterThan(10);
  },
);

test("what stands behind a base chain's policy leads nowhere", () => {
  const bytes = table(4).slice();
  const view = new DataView(bytes.buffer);
  // the policy is said to be the rule before the jump: hook_entry and underflow of OUTPUT
  const first = view.getUint32(36 + 4 * 3, true);
  view.setUint32(56 + 4 * 3, first, true);
  const { leads } = findOwn(bytes, own(4));
  expect(leads.filter(({ isBase }) => isBase)).toEqual([]);
  expect(leads).toHaveLength(5);
});

test("who leads into our chains without end is a fault", async () => {
  const bytes = await tableOf(4, `*filter\n:OURS -\n${"-A INPUT -j OURS\n".repeat(10_001)}COMMIT\n`);
  expect(() => findOwn(bytes, own(4))).toThrow(expect.objectContaining({ code: "TOO_MANY_RULES" }));
});
