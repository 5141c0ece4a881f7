// SPDX-License-Identifier: Apache-2.0
// The host's chain and jump as an engine is told them, and the words for what it finds.
import { expect, test } from "vitest";
import { renderRestoreText } from "../../src/netfilter/restore-text.ts";
import type { Finding } from "../../src/netfilter/rule-engine.ts";
import { ANY_SOCKET, ruleDrift, toldProbeRules } from "../../src/probes/probe-rules.ts";

const snat = { 4: "169.254.7.127", 6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff" };

test.each([
  [4, snat[4]],
  [6, snat[6]],
] as const)("IPv%d: the rule is istio-cni's, and the jump to it comes first", (family, source) => {
  const told = toldProbeRules([4, 6], { match: ANY_SOCKET, snat });
  expect(renderRestoreText(told, family)).toBe(
    "*nat\n:ISTIO_POSTRT - [0:0]\n-I POSTROUTING 1 -j ISTIO_POSTRT\n-A ISTIO_POSTRT -p tcp -m owner --socket-exists " +
      `-m set --match-set istio-inpod-probes-v${family} dst -j SNAT --to-source ${source}\nCOMMIT\n`,
  );
});

test("a family that is left alone is told nothing of", () => {
  const told = toldProbeRules([4], { match: ANY_SOCKET, snat });
  expect(renderRestoreText(told, 6)).toBe("");
  expect(told.own.map(({ family }) => family)).toEqual([4, 6]);
});

test("what an engine finds in our chain is one kind of drift, what it finds of the jump others", () => {
  const kinds = ["missing-rule", "extra-rule", "reordered", "jump-not-first", "duplicate-jump"] as const;
  const findings = kinds.map((kind): Finding => ({ kind, family: 4, table: "nat", chain: "", detail: kind }));
  expect(ruleDrift(findings).map(({ kind }) => kind)).toEqual([
    "wrong-rules",
    "wrong-rules",
    "wrong-rules",
    "jump-not-first",
    "duplicate-jump",
  ]);
});
