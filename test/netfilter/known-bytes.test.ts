// SPDX-License-Identifier: Apache-2.0
// Who asks for known bytes shares them, keeps some of them, and is told when there are none.

import { expect, test } from "vitest";
import { KnownBytes } from "../../src/netfilter/known-bytes.ts";
import { type KnownRules, knownRules } from "../../src/netfilter/nft/nft-known.ts";
import type { NftRuleObject } from "../../src/netfilter/nft/nft-objects.ts";
import type { SeenObjects } from "../../src/netfilter/nft/own-objects.ts";
import { NOTHING_COUNTED } from "../../src/netfilter/rule-engine.ts";
import { type ToldRules, toldRule } from "../../src/netfilter/told-rules.ts";
import { expectNothingLeftAfterwards } from "../redirection/installed-backends.ts";

await expectNothingLeftAfterwards();

const nothing: ToldRules = { own: [], wanted: [], rules: [] };

function recorder(options: { fails?: () => boolean; maxEntries?: number } = {}) {
  const written: string[] = [];
  const clock = { nowMs: 0 };
  const bytes = new KnownBytes<KnownRules>({
    record: async (told) => {
      if (options.fails?.() === true) throw new Error("the program is not there");
      return { own: told.own, tables: [] };
    },
    now: () => clock.nowMs,
    retryAfterMs: 1000,
    maxEntries: options.maxEntries ?? 256,
  });
  const get = (key: string) =>
    bytes.get(key, () => {
      written.push(key);
      return nothing;
    });
  const peek = (key: string) => bytes.peek(key);
  return { get, peek, written, clock, keep: (key: string) => bytes.keep(key) };
}

test("all who ask for the same rules share one record", async () => {
  const { get, written } = recorder();
  const [first, second] = await Promise.all([get("a"), get("a")]);
  expect(second).toBe(first);
  expect(await get("a")).toBe(first);
  expect(written).toEqual(["a"]);
});

test("what is recorded is had without a wait, and nothing before that", async () => {
  const { get, peek } = recorder({ maxEntries: 2 });
  expect(peek("a")).toBeUndefined();
  const record = get("a");
  expect(peek("a")).toBeUndefined();
  expect(peek("a") ?? (await record)).toBe(peek("a"));
  // who only looks at it asks for it, too
  await get("b");
  peek("a");
  await get("c");
  expect([peek("a"), peek("b")]).toEqual([await record, undefined]);
});

test("what most pods have stays, however many others somebody asks for", async () => {
  const { get, peek, keep, written } = recorder({ maxEntries: 2 });
  keep("most");
  await get("most");
  for (const key of ["a", "b", "c"]) await get(key);
  expect([peek("most") !== undefined, peek("a"), peek("b")]).toEqual([true, undefined, undefined]);
  await get("most");
  expect(written).toEqual(["most", "a", "b", "c"]);
});

test("a record that failed is none", async () => {
  const { get, peek } = recorder({ fails: () => true });
  await expect(get("a")).rejects.toMatchObject({ code: "NO_KNOWN_BYTES" });
  expect(peek("a")).toBeUndefined();
});

test("the rules that were asked for longest ago are forgotten first", async () => {
  const { get, written } = recorder({ maxEntries: 2 });
  for (const key of ["a", "b", "a", "c", "a", "b"]) await get(key);
  expect(written).toEqual(["a", "b", "c", "b"]);
});

test("a failure is typed, kept for a while, and then tried again", async () => {
  let isBroken = true;
  const { get, written, clock } = recorder({ fails: () => isBroken });
  const failing = () =>
    expect(get("a")).rejects.toMatchObject({
      code: "NO_KNOWN_BYTES",
      message: expect.stringContaining("the program is not there"),
    });
  await failing();
  await failing();
  expect(written).toEqual(["a"]);
  isBroken = false;
  clock.nowMs = 1000;
  expect(await get("a")).toEqual({ own: [], tables: [] });
  expect(written).toEqual(["a", "a"]);
});

function rule(changes: Partial<NftRuleObject>): NftRuleObject {
  return {
    chain: "OURS",
    handle: new Uint8Array(8),
    expressions: Uint8Array.of(1),
    targets: [],
    count: NOTHING_COUNTED,
    ...changes,
  };
}

function seen(changes: { rules?: NftRuleObject[]; jumps?: NftRuleObject[]; use?: number }): SeenObjects {
  const { rules = [rule({})], jumps = [rule({ chain: "OUTPUT", targets: ["OURS"] })] } = changes;
  const base = {
    type: "nat",
    number: 3,
    priority: -100,
    hook: new Uint8Array(),
    policy: Uint8Array.of(0, 0, 0, 1),
  };
  const chains = new Map([
    ["OURS", { name: "OURS", use: changes.use ?? rules.length + jumps.length, rules, isComplete: true }],
    ["OUTPUT", { name: "OUTPUT", use: jumps.length, base, rules: jumps, isComplete: true }],
  ]);
  const table = {
    family: 4,
    table: "nat",
    isDormant: false,
    isOwned: false,
    use: 0,
    foreign: [],
    chains,
  } as const;
  return { tables: [table], isSteady: true };
}

const place = { family: 4, table: "nat" } as const;
const told: ToldRules = {
  own: [{ ...place, chains: [{ chain: "OURS", hook: "OUTPUT" }] }],
  wanted: [place],
  rules: [toldRule({ ...place, chain: "OURS" }, ["-j", "ACCEPT"])],
};

test("each rule that was told is paired with the one in its place", () => {
  const { tables } = knownRules(told, seen({ rules: [rule({ expressions: Uint8Array.of(7) })] }));
  expect(tables[0]?.chains[0]?.rules).toMatchObject([{ words: "-j ACCEPT", expressions: Uint8Array.of(7) }]);
  expect(tables[0]?.hooks).toMatchObject([{ chain: "OUTPUT", type: "nat", number: 3, priority: -100 }]);
});

test.each([
  ["a rule told became two", seen({ rules: [rule({}), rule({})] })],
  ["a rule told became none", seen({ rules: [] })],
  ["nothing leads into the chain", seen({ jumps: [] })],
  ["a rule is not listed", seen({ use: 3 })],
  ["the table is not there", { tables: [], isSteady: true }],
])("nothing is recorded where %s", (_, found) => {
  expect(() => knownRules(told, found)).toThrow(expect.objectContaining({ code: "NOT_AS_TOLD" }));
});
