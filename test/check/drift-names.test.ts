// SPDX-License-Identifier: Apache-2.0
// Differences in a pod's rules get their names.
import { expect, test } from "vitest";
import { isBlank, nameDrift } from "../../src/check/drift-names.ts";
import { compareStates, desiredState, type RedirectState } from "../redirection/saved-state.ts";

const options = {
  dnsCapture: true,
  ingressMode: false,
  virtualInterfaces: [],
  probeSnatV4: "169.254.7.127",
  probeSnatV6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff",
};
const wanted = desiredState(options, 4);

/** The wanted state with the rules of one chain of nat replaced. */
function withRules(change: (rules: readonly string[]) => readonly string[]): RedirectState {
  const nat = wanted.get("nat");
  if (nat === undefined) throw new Error("no table nat");
  const chains = new Map(nat.chains).set("ISTIO_OUTPUT", change(nat.chains.get("ISTIO_OUTPUT") ?? []));
  return new Map(wanted).set("nat", { ...nat, chains });
}

function kindsOf(state: RedirectState): string[] {
  return nameDrift(compareStates(state, wanted, 4), options).map(({ kind }) => kind);
}

test.each([
  ["nothing", (rules: readonly string[]) => rules, []],
  ["a rule less", (rules: readonly string[]) => rules.slice(1), ["missing-rule"]],
  ["a rule more", (rules: readonly string[]) => [...rules, "-j ACCEPT"], ["extra-rule"]],
  ["another order", (rules: readonly string[]) => rules.toReversed(), ["reordered-rules"]],
  ["no rule at all", () => [], ["missing-rule"]],
  ["rules of somebody else", () => ["-p tcp -j RETURN"], ["foreign-chain"]],
  [
    "one of ours among them",
    (rules: readonly string[]) => ["-j RETURN", rules[0] ?? ""],
    ["missing-rule", "extra-rule"],
  ],
])("%s", (_what, change, kinds) => {
  expect(kindsOf(withRules(change))).toEqual(kinds);
});

test("a foreign chain is one fault, with its rules", () => {
  const drift = compareStates(
    withRules(() => ["-p tcp -j RETURN"]),
    wanted,
    4,
  );
  expect(nameDrift(drift, options)).toEqual([
    {
      kind: "foreign-chain",
      what: "IPv4 nat ISTIO_OUTPUT holds none of our rules, but -A ISTIO_OUTPUT -p tcp -j RETURN",
    },
  ]);
});

test("only a state without any chain of ours is blank", () => {
  const nothing = compareStates(new Map(), wanted, 4);
  expect(isBlank(nothing, options, [4])).toBe(true);
  expect(isBlank(nothing, options, [4, 6])).toBe(false);
  expect(isBlank(nothing.slice(2), options, [4])).toBe(false);
  expect(isBlank([], options, [4])).toBe(false);
});
