// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from "vitest";
import { explainRules, purposeOf } from "../../src/dashboard/packet-paths.ts";
import { missingHooks, packetLanes, verdictOf } from "../../src/dashboard/page/packet-lanes.ts";
import { PATH_STAGES, type PodRulesReport } from "../../src/dashboard/rules-report.ts";
import type { Family } from "../../src/netfilter/family.ts";
import type { ChainState, RuleForm } from "../../src/netfilter/rule-engine.ts";
import { desiredChains } from "../../src/redirection/fingerprint.ts";
import { type RedirectOptions, redirectRules } from "../../src/redirection/rules.ts";

const plain: RedirectOptions = {
  dnsCapture: true,
  ingressMode: false,
  virtualInterfaces: [],
  probeSnatV4: "169.254.7.127",
  probeSnatV6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff",
};
const variants: readonly RedirectOptions[] = [
  plain,
  { ...plain, dnsCapture: false },
  { ...plain, ingressMode: true },
  { ...plain, virtualInterfaces: ["net1", "tap0"] },
];

/** Our chains as an engine tells them: each rule has counted another number of packets. */
function standing(options: RedirectOptions, family: Family, form: RuleForm = "told"): ChainState[] {
  let packets = 0;
  const count = () => ({ packets: ++packets, bytes: 60 * packets });
  return desiredChains(options, family).map((chain) => ({
    ...chain,
    counts: chain.words.map(count),
    forms: chain.words.map(() => form),
    jumped: count(),
  }));
}

/** The chains with one of them changed. */
function changed(
  chains: readonly ChainState[],
  place: Pick<ChainState, "table" | "chain">,
  change: (chain: ChainState) => Partial<ChainState>,
): ChainState[] {
  const isIt = ({ table, chain }: ChainState) => table === place.table && chain === place.chain;
  return chains.map((each) => (isIt(each) ? { ...each, ...change(each) } : each));
}

const natOutput = { table: "nat", chain: "ISTIO_OUTPUT" };
const note = "(a rule of 88 bytes that is not ours)";

/** A rule is gone. */
function lost(chains: readonly ChainState[], isIt: (words: string) => boolean): ChainState[] {
  return changed(chains, natOutput, ({ words, counts, forms }) => {
    const at = words.findIndex(isIt);
    return {
      words: words.toSpliced(at, 1),
      ...(counts && { counts: counts.toSpliced(at, 1) }),
      ...(forms && { forms: forms.toSpliced(at, 1) }),
    };
  });
}

/** Somebody put a rule of theirs where one of ours stood. */
function replaced(chains: readonly ChainState[], isIt: (words: string) => boolean): ChainState[] {
  return changed(chains, natOutput, ({ words, counts = [], forms = [] }) => {
    const at = words.findIndex(isIt);
    if (at < 0) throw new Error("there is no such rule");
    return {
      words: words.with(at, note),
      counts: counts.with(at, { packets: 5, bytes: 9 }),
      forms: forms.with(at, "other"),
    };
  });
}

function explain(
  chains: readonly ChainState[],
  wanted: RedirectOptions | undefined = plain,
  family: Family = 4,
) {
  return explainRules(chains, wanted, family);
}

function report(rules: ReturnType<typeof explain>): PodRulesReport {
  const families = [{ family: 4 as const, ...rules }];
  const pod = { ns: "a", name: "b", uid: "c", netns: "4:1", wanted: true, sidecar: false };
  return { at: "", node: "n", ...pod, variant: "nft", ms: 1, unread: null, families };
}

describe("explained rules", () => {
  test.each(variants.flatMap((options) => ([4, 6] as const).map((family) => ({ family, options }))))(
    "each rule is on one path when all are there: $family $options",
    ({ family, options }) => {
      const { rules, hooks } = explain(standing(options, family), options, family);
      expect(rules.length).toBe(redirectRules(options, family).length);
      expect(
        rules.every(
          ({ state, packets, bytes }) => state === "present" && packets > 0 && bytes === 60 * packets,
        ),
      ).toBe(true);
      expect(rules.filter(({ path }) => path === "other")).toEqual([]);
      for (const { path, stage } of rules) expect(PATH_STAGES[path]).toContain(stage);
      expect(hooks.every(({ present }) => present)).toBe(true);
    },
  );

  test.each([4, 6] as const)(
    "rules of istio-cni are present where they count as ours, and are shown as they are: v%i",
    (family) => {
      const { rules } = explain(standing(plain, family, "accepted"), plain, family);
      expect(rules.map(({ state }) => state)).toEqual(redirectRules(plain, family).map(() => "present"));
      expect(rules.map(({ text }) => text).join()).not.toContain("--tcp-flags");
      const ours = explain(standing(plain, family), plain, family).rules;
      expect(ours.filter(({ text }) => text.includes("--tcp-flags"))).toHaveLength(2);
    },
  );

  test("each counter stands at its own rule", () => {
    const chains = standing(plain, 4);
    for (const { text, table, chain, packets } of explain(chains).rules) {
      const state = chains.find((each) => each.table === table && each.chain === chain);
      const at = state?.counts?.findIndex((each) => each.packets === packets) ?? -1;
      expect(state?.words[at], `${table} ${chain}`).toContain(text.split(" -j ")[1] ?? "?");
    }
  });

  test("ways have their rules in the packet's order", () => {
    const { rules } = explain(standing(plain, 4));
    const ways = Map.groupBy(rules, ({ path }) => path);
    expect(
      Object.fromEntries(
        [...ways].map(([path, list]) => [path, list.map(({ table, stage }) => `${table} ${stage}`)]),
      ),
    ).toEqual({
      in: ["nat capture", "mangle mark", "mangle reply", "nat let-go"],
      out: ["nat self", "nat capture"],
      dns: ["nat capture", "nat capture", "raw apart", "raw apart-back"],
      probe: ["nat arrive", "nat answer"],
    });
  });

  test("a rule that is gone is missing, one of somebody else's is a note", () => {
    const chains = replaced(standing(plain, 4), (words) => words.includes("-p udp"));
    const odd = explain(chains).rules.filter(({ state }) => state !== "present");
    expect(odd).toMatchObject([
      { path: "dns", state: "missing", packets: 0, comment: "DNS queries over UDP are answered by ztunnel" },
      { path: "other", state: "foreign", packets: 5, bytes: 9, comment: null, text: note },
    ]);
  });

  test("a chain that nothing enters is named", () => {
    const mangle = { table: "mangle", chain: "ISTIO_OUTPUT" };
    const chains = changed(standing(plain, 4), mangle, () => ({ jumpCount: 0 }));
    expect(missingHooks(report(explain(chains)))).toEqual([
      "IPv4: nothing leads from OUTPUT to ISTIO_OUTPUT in table mangle",
    ]);
  });

  test("of a pod outside the mesh everything is left over, or nothing is there", () => {
    expect(explainRules([], undefined, 4)).toEqual({ rules: [], hooks: [] });
    const { rules } = explainRules(standing(plain, 4, "other"), undefined, 4);
    expect(rules.every(({ state }) => state === "foreign")).toBe(true);
    expect(rules.length).toBe(redirectRules(plain, 4).length);
  });

  test("rules without counters count nothing", () => {
    const chains = standing(plain, 4).map(({ counts: _, ...chain }) => chain);
    const { rules } = explain(chains);
    expect(rules.every(({ packets, state }) => packets === 0 && state === "present")).toBe(true);
  });
});

describe("purpose of a rule", () => {
  test("an interface's name or a port beside 53 does not make it another rule's", () => {
    const [first] = redirectRules({ ...plain, virtualInterfaces: ["eth53"] }, 4);
    expect(first && purposeOf(first, [plain.probeSnatV4])).toEqual({
      path: "out",
      stage: "virtual-interface",
    });
  });
});

describe("lanes", () => {
  test("families share a stop, and a stop says the worse of the two", () => {
    const v4 = explain(standing(plain, 4));
    const v6 = explain(
      lost(standing(plain, 6), (words) => words.includes("15001")),
      plain,
      6,
    );
    const both: PodRulesReport = {
      ...report(v4),
      families: [
        { family: 4, ...v4 },
        { family: 6, ...v6 },
      ],
    };
    const out = packetLanes(both, null).find(({ path }) => path === "out");
    const last = out?.stops.findLast(({ kind }) => kind === "rule");
    expect(last).toMatchObject({ state: "missing", verdict: "REDIRECT 15001" });
    expect(last?.kind === "rule" && last.counts.map(({ family, state }) => [family, state])).toEqual([
      [4, "present"],
      [6, "missing"],
    ]);
    const rules = packetLanes(both, null).flatMap(({ stops }) => stops.filter(({ kind }) => kind === "rule"));
    expect(rules.length).toBe(redirectRules(plain, 4).length);
  });

  test("a way without a rule is not drawn", () => {
    const paths = (options: RedirectOptions) =>
      packetLanes(report(explain(standing(options, 4), options)), null).map(({ path }) => path);
    expect(paths(plain)).toEqual(["in", "out", "dns", "probe"]);
    expect(paths({ ...plain, dnsCapture: false })).toEqual(["in", "out", "probe"]);
  });

  test.each([
    ["-p tcp -j REDIRECT --to-ports 15001", "REDIRECT 15001"],
    ["-j CONNMARK --set-xmark 0x111/0xfff", "CONNMARK 0x111"],
    ["-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff", "MARK restored"],
    ["-p udp -j CT --zone 1", "CT zone 1"],
    ["-s 1.2.3.4/32 -j ACCEPT", "ACCEPT"],
    ["-p tcp", ""],
  ])("the verdict of %s is %s", (text, verdict) => {
    expect(verdictOf(text)).toBe(verdict);
  });
});
