// SPDX-License-Identifier: Apache-2.0
// The hash that people compare pods by: one for each set of rules.
import { expect, test } from "vitest";
import { desiredChains, fingerprint } from "../../src/redirection/fingerprint.ts";
import { DEFAULT_OPTIONS, FAMILIES, VARIANTS } from "./variants.ts";

const chains = desiredChains(DEFAULT_OPTIONS, 4);
const [first, ...rest] = chains;
if (first === undefined) throw new Error("no chains");

test("no two variants and families have the same", () => {
  const prints = Object.values(VARIANTS).flatMap((options) =>
    FAMILIES.map((family) => fingerprint(desiredChains(options, family))),
  );
  expect(new Set(prints).size).toBe(prints.length);
});

test("does not depend on the order in which chains were seen", () => {
  expect(fingerprint(chains.toReversed())).toBe(fingerprint(chains));
});

test.each([
  ["a chain less", rest],
  ["a second jump", [{ ...first, jumpCount: 2 }, ...rest]],
  ["another rule", [{ ...first, words: [...first.words, "-j ACCEPT"] }, ...rest]],
  ["rules in another order", chains.map((chain) => ({ ...chain, words: chain.words.toReversed() }))],
  ["a way in from elsewhere", [{ ...first, strays: ["FORWARD"] }, ...rest]],
])("%s gives another", (_, changed) => {
  expect(fingerprint(changed)).not.toBe(fingerprint(chains));
});
