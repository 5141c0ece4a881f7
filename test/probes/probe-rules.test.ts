// SPDX-License-Identifier: Apache-2.0
// The host's chain and jump: golden texts, and the model of what iptables-restore makes of them.
import { describe, expect, test } from "vitest";
import { parseSave } from "../../src/netfilter/save-parser.ts";
import {
  ANY_SOCKET,
  compareProbeRules,
  observeProbeRules,
  planProbeRemoval,
  planProbeRules,
  probeRule,
} from "../../src/probes/probe-rules.ts";

const rule = probeRule(4, { match: ANY_SOCKET, snat: "169.254.7.127" });
const ruleLine =
  "-A ISTIO_POSTRT -p tcp -m owner --socket-exists -m set --match-set istio-inpod-probes-v4 dst " +
  "-j SNAT --to-source 169.254.7.127";

/** What iptables-save prints for a nat table with these rules. */
function saved(...rules: string[]): ReturnType<typeof observeProbeRules> {
  const chains = rules.some((line) => line.includes("ISTIO_POSTRT")) ? [":ISTIO_POSTRT - [0:0]"] : [];
  const head = [
    "*nat",
    ":PREROUTING ACCEPT [0:0]",
    ":POSTROUTING ACCEPT [7:420]",
    ":KUBE-POSTROUTING - [0:0]",
  ];
  return observeProbeRules(parseSave([...head, ...chains, ...rules, "COMMIT", ""].join("\n")));
}

const jump = "-A POSTROUTING -j ISTIO_POSTRT";
const kube = '-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING';

describe("the rule", () => {
  test("is istio-cni's, in both families", () => {
    expect(`-A ISTIO_POSTRT ${rule.join(" ")}`).toBe(ruleLine);
    const v6 = probeRule(6, { match: ANY_SOCKET, snat: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff" });
    expect(v6.join(" ")).toBe(
      "-p tcp -m owner --socket-exists -m set --match-set istio-inpod-probes-v6 dst " +
        "-j SNAT --to-source fd16:9254:7127:1337:ffff:ffff:ffff:ffff",
    );
  });
});

const insertJump = "-I POSTROUTING 1 -j ISTIO_POSTRT";
const writeChain = [":ISTIO_POSTRT - [0:0]", ruleLine];

describe.each<[string, string[], string[], string[]]>([
  ["nothing is there", [kube], ["missing-chain", "missing-jump"], [...writeChain, insertJump]],
  ["all is right", [jump, kube, ruleLine], [], []],
  [
    "the jump carries a comment",
    ['-A POSTROUTING -m comment --comment "x y" -j ISTIO_POSTRT', ruleLine],
    [],
    [],
  ],
  [
    "the nat table was flushed",
    [":ISTIO_POSTRT - [0:0]"],
    ["wrong-rules", "missing-jump"],
    [...writeChain, insertJump],
  ],
  ["only the jump is gone", [kube, ruleLine], ["missing-jump"], [insertJump]],
  [
    "another program pushed in before it",
    [kube, jump, ruleLine],
    ["jump-not-first"],
    ["-D POSTROUTING -j ISTIO_POSTRT", insertJump],
  ],
  [
    "the jump is there twice",
    [jump, kube, '-A POSTROUTING -m comment --comment "x" -j ISTIO_POSTRT', ruleLine],
    ["duplicate-jump"],
    ["-D POSTROUTING -j ISTIO_POSTRT", "-D POSTROUTING -m comment --comment x -j ISTIO_POSTRT", insertJump],
  ],
  [
    "the chain holds a foreign rule too",
    [jump, ruleLine, "-A ISTIO_POSTRT -j MASQUERADE"],
    ["wrong-rules"],
    writeChain,
  ],
  ["the rule is there twice", [jump, ruleLine, ruleLine], ["wrong-rules"], writeChain],
  ["the rule has another source", [jump, ruleLine.replace("7.127", "7.128")], ["wrong-rules"], writeChain],
  [
    "the rule has lost its owner",
    [jump, ruleLine.replace("-m owner --socket-exists ", "")],
    ["wrong-rules"],
    writeChain,
  ],
  [
    "the rule is negated",
    [jump, ruleLine.replace("--match-set", "! --match-set")],
    ["wrong-rules"],
    writeChain,
  ],
])("when %s", (_name, lines, kinds, text) => {
  test("that is named, and the smallest text puts it right", () => {
    const state = saved(...lines);
    expect(compareProbeRules(state, { family: 4, rule }).map(({ kind }) => kind)).toEqual(kinds);
    const expected = text.length === 0 ? undefined : ["*nat", ...text, "COMMIT", ""].join("\n");
    expect(planProbeRules(state, { rule, rewrite: false })).toBe(expected);
  });
});

test("a chain can be written again although its text is right", () => {
  const text = planProbeRules(saved(jump, ruleLine), { rule, rewrite: true });
  expect(text).toBe(["*nat", ...writeChain, "COMMIT", ""].join("\n"));
});

test("removal takes every way into the chain, and nothing of others", () => {
  const state = saved(jump, kube, "-A OUTPUT -d 10.0.0.1/32 -g ISTIO_POSTRT", ruleLine);
  expect(planProbeRemoval(state)).toBe(
    [
      "*nat",
      "-D POSTROUTING -j ISTIO_POSTRT",
      "-D OUTPUT -d 10.0.0.1/32 -g ISTIO_POSTRT",
      "-F ISTIO_POSTRT",
      "-X ISTIO_POSTRT",
      "COMMIT",
      "",
    ].join("\n"),
  );
  expect(planProbeRemoval(saved(kube))).toBeUndefined();
});
