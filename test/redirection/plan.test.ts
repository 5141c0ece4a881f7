// SPDX-License-Identifier: Apache-2.0
// Drift in words and the way back: cases by hand, then random damage in a model of the kernel's tables.
import { describe, expect, test } from "vitest";
import type { Family } from "../../src/netfilter/family.ts";
import { parseSave } from "../../src/netfilter/save-parser.ts";
import {
  compareStates,
  desiredState,
  fingerprint,
  inWordsOf,
  observedState,
} from "../../src/redirection/fingerprint.ts";
import { planChange, planOpening, planRemoval } from "../../src/redirection/plan.ts";
import { renderRestoreText } from "../../src/redirection/restore-text.ts";
import { redirectRules } from "../../src/redirection/rules.ts";
import { damage } from "./damage.ts";
import { RulesetModel } from "./ruleset-model.ts";
import { FAMILIES, seededRandom, VARIANTS } from "./variants.ts";

const DEFAULT = VARIANTS.default!;
const wanted = { options: DEFAULT, family: 4 } as const;
const desired = desiredState(DEFAULT, 4);

function observe(model: RulesetModel) {
  return observedState(parseSave(model.save()));
}

function redirected(...changes: string[]): RulesetModel {
  const model = new RulesetModel();
  model.restore(renderRestoreText(DEFAULT, 4));
  for (const change of changes) model.restore(change);
  return model;
}

const LAST = "-A ISTIO_OUTPUT ! -d 127.0.0.1 -o lo -j ACCEPT";
const DRIFTS: readonly [
  string,
  string,
  { kind: string; table: string; chain: string; detail: string },
  string,
][] = [
  [
    "a rule is gone",
    "*nat\n-D ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -j ACCEPT\nCOMMIT\n",
    { kind: "missing-rule", table: "nat", chain: "ISTIO_OUTPUT", detail: LAST },
    "*nat",
  ],
  [
    "a rule is too many",
    "*mangle\n-A ISTIO_PRERT -j ACCEPT\nCOMMIT\n",
    { kind: "extra-rule", table: "mangle", chain: "ISTIO_PRERT", detail: "-A ISTIO_PRERT -j ACCEPT" },
    "*mangle",
  ],
  [
    "a rule is there twice",
    "*nat\n-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -j ACCEPT\nCOMMIT\n",
    { kind: "extra-rule", table: "nat", chain: "ISTIO_OUTPUT", detail: LAST },
    "*nat",
  ],
  [
    "a rule moved",
    "*nat\n-D ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -j ACCEPT\n-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -j ACCEPT\nCOMMIT\n",
    {
      kind: "reordered",
      table: "nat",
      chain: "ISTIO_OUTPUT",
      detail:
        "rule 5 should not be -A ISTIO_OUTPUT ! -d 127.0.0.1 -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001",
    },
    "*nat",
  ],
  [
    "a jump is gone",
    "*raw\n-D OUTPUT -j ISTIO_OUTPUT\nCOMMIT\n",
    { kind: "missing-jump", table: "raw", chain: "OUTPUT", detail: "OUTPUT does not jump to ISTIO_OUTPUT" },
    "*raw\n-A OUTPUT -j ISTIO_OUTPUT\nCOMMIT\n",
  ],
  [
    "a jump is there three times",
    "*nat\n-A PREROUTING -j ISTIO_PRERT\n-A PREROUTING -j ISTIO_PRERT\nCOMMIT\n",
    {
      kind: "duplicate-jump",
      table: "nat",
      chain: "PREROUTING",
      detail: "PREROUTING jumps to ISTIO_PRERT 3 times",
    },
    "*nat\n-D PREROUTING -j ISTIO_PRERT\n-D PREROUTING -j ISTIO_PRERT\nCOMMIT\n",
  ],
  [
    "a chain is entered on another way",
    '*nat\n-A INPUT -p tcp -m comment --comment "an old one" -j ISTIO_PRERT\nCOMMIT\n',
    {
      kind: "extra-rule",
      table: "nat",
      chain: "INPUT",
      detail: '-A INPUT -p tcp -m comment --comment "an old one" -j ISTIO_PRERT',
    },
    '*nat\n-D INPUT -p tcp -m comment --comment "an old one" -j ISTIO_PRERT\nCOMMIT\n',
  ],
];

describe("drift", () => {
  test.each(DRIFTS)("is named and repaired in its table alone when %s", (_, change, drift, repair) => {
    const model = redirected(change);
    const state = observe(model);
    expect(compareStates(state, desired, 4)).toEqual([{ family: 4, ...drift }]);
    expect(fingerprint(state)).not.toBe(fingerprint(desired));
    const plan = planChange(state, wanted)!;
    expect(plan.startsWith(repair)).toBe(true);
    expect(plan.match(/^\*/gm)).toHaveLength(1);
    model.restore(plan);
    expect(compareStates(observe(model), desired, 4)).toEqual([]);
    expect(fingerprint(observe(model))).toBe(fingerprint(desired));
  });

  test("a chain and its jump that are gone are both named", () => {
    const model = redirected(
      "*mangle\n-D OUTPUT -j ISTIO_OUTPUT\n-F ISTIO_OUTPUT\n-X ISTIO_OUTPUT\nCOMMIT\n",
    );
    expect(compareStates(observe(model), desired, 4).map(({ kind, chain }) => [kind, chain])).toEqual([
      ["missing-chain", "ISTIO_OUTPUT"],
      ["missing-jump", "OUTPUT"],
    ]);
  });

  test("raw is unexpected without DNS capture, and leaves whole", () => {
    const model = redirected();
    const options = VARIANTS["no-dns"]!;
    const drift = compareStates(observe(model), desiredState(options, 4), 4);
    expect(drift.at(-1)).toEqual({
      kind: "unexpected-table",
      family: 4,
      table: "raw",
      chain: "",
      detail: "ISTIO_PRERT and ISTIO_OUTPUT should not be in table raw",
    });
    model.restore(planChange(observe(model), { options, family: 4 })!);
    expect(model.save()).toContain("*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT");
  });

  test("nothing is planned when nothing differs, or when there is nothing to remove", () => {
    expect(planChange(observe(redirected()), wanted)).toBeUndefined();
    expect(planRemoval(observe(new RulesetModel()))).toBeUndefined();
  });

  test("equal rules in another table are not equal", () => {
    const swapped = new Map(
      [...desired].map(([table, state]) => [table === "nat" ? "mangle" : "nat", state] as const),
    );
    expect(fingerprint(swapped)).not.toBe(fingerprint(desired));
  });
});

describe("what stops new redirections", () => {
  test("is the jumps of table nat, and everything else that leads into our chains there", () => {
    const model = redirected(
      "*nat\n-A PREROUTING -j ISTIO_PRERT\n-A OUTPUT -p tcp -j ISTIO_OUTPUT\nCOMMIT\n",
      "*mangle\n-A OUTPUT -p udp -j ISTIO_OUTPUT\nCOMMIT\n",
    );
    const before = model.save();
    const plan = planOpening(observe(model))!;
    expect(plan).toBe(
      "*nat\n-D OUTPUT -p tcp -j ISTIO_OUTPUT\n-D PREROUTING -j ISTIO_PRERT\n-D PREROUTING -j ISTIO_PRERT\n" +
        "-D OUTPUT -j ISTIO_OUTPUT\nCOMMIT\n",
    );
    model.restore(plan);
    const [nat, entries] = [/^\*nat$[\s\S]*?^COMMIT$/m, /^-A (PREROUTING|OUTPUT).*\n/gm];
    expect(model.save()).toBe(before.replace(nat, (table) => table.replaceAll(entries, "")));
    expect(planOpening(observe(model))).toBeUndefined();
    model.restore(planRemoval(observe(model))!);
    expect(observe(model).size).toBe(0);
  });

  test("is nothing where nothing is", () => {
    expect(planOpening(new Map())).toBeUndefined();
  });
});

describe("rules of istio-cni", () => {
  const rules = redirectRules(DEFAULT, 4);
  const istios = VARIANTS["reset-default"]!;

  test("count as ours when connections from before are kept, and not the other way round", () => {
    const model = new RulesetModel();
    model.restore(renderRestoreText(istios, 4));
    const state = inWordsOf(rules, observe(model));
    expect(compareStates(state, desired, 4)).toEqual([]);
    expect(fingerprint(state)).toBe(fingerprint(desired));
    expect(planChange(state, wanted)).toBeUndefined();
    const ours = inWordsOf(redirectRules(istios, 4), observe(redirected()));
    expect(compareStates(ours, desiredState(istios, 4), 4)).toHaveLength(4);
    expect(planChange(ours, { options: istios, family: 4 })).toContain(":ISTIO_OUTPUT");
  });

  test("are repaired with ours, in the chain that differs alone", () => {
    const model = new RulesetModel();
    model.restore(renderRestoreText(istios, 4));
    model.restore("*nat\n-D ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -j ACCEPT\nCOMMIT\n");
    const state = inWordsOf(rules, observe(model));
    expect(compareStates(state, desired, 4)).toMatchObject([{ kind: "missing-rule", detail: LAST }]);
    model.restore(planChange(state, wanted)!);
    expect(model.save().match(/--tcp-flags/g)).toHaveLength(1);
    expect(compareStates(inWordsOf(rules, observe(model)), desired, 4)).toEqual([]);
  });

  test("beside ours are one too many", () => {
    const both = redirected(
      "*nat\n-A ISTIO_PRERT ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15006\nCOMMIT\n",
    );
    expect(compareStates(inWordsOf(rules, observe(both)), desired, 4)).toMatchObject([
      { kind: "extra-rule", chain: "ISTIO_PRERT" },
    ]);
  });
});

describe("random damage", () => {
  const foreign = [
    `*nat
:FOREIGN - [0:0]
-A PREROUTING -j FOREIGN
-A FOREIGN -p tcp -m comment --comment "a \\"b\\" -j ISTIO" -j RETURN
COMMIT
`,
    "*mangle\n-A OUTPUT -o eth9 -j MARK --set-xmark 0x1/0xff\nCOMMIT\n*filter\n-A INPUT -j ACCEPT\nCOMMIT\n",
  ];
  const firstSeeds = Array.from({ length: 10 }, (_, block) => block * 20);

  test.each(firstSeeds)("converges and touches nothing else, 20 seeds from %i", (first) => {
    for (let seed = first; seed < first + 20; seed++) {
      for (const family of FAMILIES) convergeOnce(seededRandom(seed), { family, foreign });
    }
  });
});

function convergeOnce(
  random: () => number,
  { family, foreign }: { family: Family; foreign: string[] },
): void {
  const names = Object.keys(VARIANTS);
  const pick = () => VARIANTS[names[Math.floor(random() * names.length)]!]!;
  const model = new RulesetModel();
  if (random() < 0.8) model.restore(renderRestoreText(pick(), family));
  for (const text of foreign) model.restore(text);
  for (const text of damage(random)) {
    // Not every blow lands: what iptables would refuse, the model refuses.
    try {
      model.restore(text);
    } catch {}
  }
  const before = model.saveForeign();
  const options = pick();
  const plan = planChange(observe(model), { options, family });
  if (plan !== undefined) model.restore(plan);
  expect(compareStates(observe(model), desiredState(options, family), family)).toEqual([]);
  expect(planChange(observe(model), { options, family })).toBeUndefined();
  model.restore(planRemoval(observe(model))!);
  expect(observe(model).size).toBe(0);
  expect(model.save()).not.toMatch(/ISTIO_(PRERT|OUTPUT)/);
  const rules = before.split("\n").filter((line) => line.startsWith("-A"));
  expect(rules.length).toBeGreaterThan(2);
  for (const line of rules) expect(model.save()).toContain(line);
}
