// SPDX-License-Identifier: Apache-2.0
// Judging what was read, and planning what to change, where no kernel is needed.

import { expect, test } from "vitest";
import { knownRules } from "../../../src/netfilter/nft/nft-known.ts";
import type { NftBase, NftRuleObject } from "../../../src/netfilter/nft/nft-objects.ts";
import { planReplay } from "../../../src/netfilter/nft/nft-plan.ts";
import type { SeenChain, SeenObjects, SeenTable } from "../../../src/netfilter/nft/own-objects.ts";
import { verifyOwnObjects } from "../../../src/netfilter/nft/verify.ts";
import { NOTHING_COUNTED } from "../../../src/netfilter/rule-engine.ts";
import { type ToldRules, toldRule } from "../../../src/netfilter/told-rules.ts";

const place = { family: 4, table: "nat" } as const;
const told: ToldRules = {
  own: [{ ...place, chains: [{ chain: "OURS", hook: "OUTPUT" }] }],
  wanted: [place],
  rules: ["ONE", "TWO"].map((target) => toldRule({ ...place, chain: "OURS" }, ["-j", target])),
};
const base: NftBase = {
  type: "nat",
  number: 3,
  priority: -100,
  hook: new Uint8Array(4),
  policy: Uint8Array.of(0, 0, 0, 1),
};

function rule(value: number, target?: string): NftRuleObject {
  return {
    chain: target === undefined ? "OURS" : "OUTPUT",
    handle: Uint8Array.of(value),
    expressions: Uint8Array.of(value),
    targets: target === undefined ? [] : [target],
    count: NOTHING_COUNTED,
  };
}

const jump = rule(100, "OURS");

function seen(
  changes: { rules?: NftRuleObject[]; entries?: NftRuleObject[]; use?: number; base?: NftBase } = {},
  table: Partial<SeenTable> = {},
): SeenObjects {
  const { rules = [rule(1), rule(2)], entries = [jump] } = changes;
  const chains = new Map<string, SeenChain>([
    ["OURS", { name: "OURS", use: changes.use ?? rules.length + entries.length, rules, isComplete: true }],
    ["OUTPUT", { name: "OUTPUT", use: 0, base: changes.base ?? base, rules: entries, isComplete: true }],
  ]);
  return {
    tables: [{ ...place, isDormant: false, isOwned: false, use: 0, foreign: [], chains, ...table }],
    isSteady: true,
  };
}

const wanted = { known: knownRules(told, seen()), families: [4] } as const;
const kinds = (objects: SeenObjects) =>
  verifyOwnObjects(objects, wanted).findings.map(({ kind, chain, detail }) => `${kind} ${chain}: ${detail}`);

test("nothing is found, and nothing planned, where everything is as known", () => {
  const verdict = verifyOwnObjects(seen(), wanted);
  expect(verdict.findings).toEqual([]);
  expect(planReplay(verdict)).toEqual([]);
});

test.each([
  ["a rule is gone", { rules: [rule(1)] }, ["missing-rule OURS: -A OURS -j TWO"]],
  [
    "two rules changed places",
    { rules: [rule(2), rule(1)] },
    ["reordered OURS: rule 1 should not be -A OURS -j TWO"],
  ],
  [
    "a rule is there that is not ours",
    { rules: [rule(1), rule(2), rule(3)] },
    ["extra-rule OURS: -A OURS (a rule of 1 bytes that is not ours)"],
  ],
  ["nothing leads into the chain", { entries: [] }, ["missing-jump OUTPUT: OUTPUT does not jump to OURS"]],
  [
    "two rules lead into it",
    { entries: [jump, jump] },
    ["duplicate-jump OUTPUT: OUTPUT jumps to OURS 2 times"],
  ],
  [
    "another kind of rule leads into it",
    { entries: [jump, rule(101, "OURS")] },
    ["extra-rule OUTPUT: -A OUTPUT leads into OURS by a rule that is not ours"],
  ],
  [
    "the chain's count is higher than what is listed",
    { use: 4 },
    ["extra-rule OURS: 1 rules more stand in OURS or lead into it than are listed"],
  ],
])("it is told when %s", (_, changes, found) => {
  expect(kinds(seen(changes))).toEqual(found);
  expect(planReplay(verifyOwnObjects(seen(changes), wanted)).length).toBeGreaterThan(0);
});

test("a table of ours that should not be there is told as a whole", () => {
  const none = { ...wanted, known: { own: told.own, tables: [] } };
  expect(verifyOwnObjects(seen(), none).findings).toMatchObject([
    { kind: "unexpected-table", table: "nat", chain: "", detail: "OURS should not be in table nat" },
  ]);
});

test.each([
  ["TABLE_DORMANT", seen({}, { isDormant: true })],
  ["HOOK_TAKEN", seen({ base: { ...base, priority: 0 } })],
  ["UNSTEADY", { ...seen({ rules: [] }), isSteady: false }],
])("%s is a fault that no program can mend", (code, objects) => {
  expect(() => verifyOwnObjects(objects, wanted)).toThrow(
    expect.objectContaining({ code, isLeftToPrograms: false }),
  );
});

test("rules that change while they are read are right when each list is", () => {
  expect(verifyOwnObjects({ ...seen(), isSteady: false }, wanted).findings).toEqual([]);
});

test("a table that another process owns is judged, but not written", () => {
  expect(verifyOwnObjects(seen({}, { isOwned: true }), wanted).findings).toEqual([]);
  const damaged = verifyOwnObjects(seen({ rules: [] }, { isOwned: true }), wanted);
  expect(() => planReplay(damaged)).toThrow(expect.objectContaining({ code: "TABLE_OWNED" }));
});
