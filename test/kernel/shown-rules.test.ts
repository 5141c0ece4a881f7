// SPDX-License-Identifier: Apache-2.0
// A pod's rules as people are shown them, against the real kernel: with its counters, whichever engine wrote them, and without a word
// that somebody wrote in the pod.
import { describe, expect, test } from "vitest";
import { explainRules } from "../../src/dashboard/packet-paths.ts";
import { ruleLines } from "../../src/diagnose/rule-reader.ts";
import { ToolRunner } from "../../src/linux/run-tool.ts";
import type { RedirectBackend } from "../../src/netfilter/variant.ts";
import { type RedirectOptions, redirectRules } from "../../src/redirection/rules.ts";
import {
  expectNothingLeftAfterwards,
  installedBackends,
  redirection,
} from "../redirection/installed-backends.ts";
import { TestNetns } from "../redirection/test-netns.ts";
import { DEFAULT_OPTIONS } from "../redirection/variants.ts";

const { nft, legacy } = await installedBackends(new ToolRunner());
const native: RedirectBackend = { ...nft, variant: "native" };
await expectNothingLeftAfterwards();

const SYN_BYTES = 60;
/** Nobody listens: each attempt is one packet that opens a connection. */
async function connect(pod: TestNetns, count: number): Promise<void> {
  for (let nr = 0; nr < count; nr++) await pod.run("bash -c :</dev/tcp/10.77.0.1/81").catch(() => {});
}

/** The rule that such a packet takes: the pod calls itself. */
function selfRule({ rules }: ReturnType<typeof explainRules>) {
  return rules.find(({ path, stage }) => path === "out" && stage === "self");
}

describe.each([
  ["nft", nft],
  ["legacy", legacy],
  ["native", native],
] as const)("written by the engine %s", (variant, backend) => {
  test("each rule is told with what the kernel counted on it", async () => {
    using pod = await TestNetns.make();
    await pod.run("ip addr add 10.77.0.1/32 dev lo");
    const redirect = redirection(backend);
    await redirect.apply(pod.netns, DEFAULT_OPTIONS);
    const shown = async () => {
      const { chains, findings } = await redirect.rules(pod.netns, DEFAULT_OPTIONS);
      expect(findings).toEqual([]);
      return explainRules(chains, DEFAULT_OPTIONS, 4);
    };
    expect(selfRule(await shown())).toMatchObject({ state: "present", packets: 0, bytes: 0 });
    await connect(pod, 3);
    const { rules, hooks } = await shown();
    expect(selfRule({ rules, hooks })).toMatchObject({ packets: 3, bytes: 3 * SYN_BYTES });
    expect(rules.map(({ state }) => state)).toEqual(redirectRules(DEFAULT_OPTIONS, 4).map(() => "present"));
    expect(hooks.every(({ present }) => present)).toBe(true);
    // a jump in pure nf_tables counts nothing
    const jump = hooks.find(({ table, from }) => table.endsWith("nat") && /output/i.test(from));
    expect(jump?.packets).toBe(variant === "native" ? 0 : 3);
    // looking does not count, and does not set back
    expect(selfRule(await shown())).toMatchObject({ packets: 3, bytes: 3 * SYN_BYTES });
  });

  test("of a pod that should have none, what is left over is a note", async () => {
    using pod = await TestNetns.make();
    const redirect = redirection(backend);
    expect(await redirect.rules(pod.netns, undefined)).toEqual({ findings: [], chains: [] });
    await redirect.apply(pod.netns, DEFAULT_OPTIONS);
    const { chains } = await redirect.rules(pod.netns, undefined);
    const { rules } = explainRules(chains, undefined, 4);
    expect(rules.length).toBeGreaterThanOrEqual(redirectRules(DEFAULT_OPTIONS, 4).length);
    expect(rules.every(({ state, text }) => state === "foreign" && /^\(a rule .*\)$/.test(text))).toBe(true);
  });

  test("the lines of debug are the rules, with their jumps", async () => {
    using pod = await TestNetns.make();
    const redirect = redirection(backend);
    await redirect.apply(pod.netns, DEFAULT_OPTIONS);
    const { chains } = await redirect.rules(pod.netns, DEFAULT_OPTIONS);
    const lines = ruleLines(chains, [4, 6]);
    const nat = variant === "native" ? "IPv6 nat (istio-ambient-nat): " : "IPv6 nat: ";
    expect(lines.some((line) => line.startsWith(nat) && line.endsWith(" rules"))).toBe(true);
    expect(lines.filter((line) => line.includes("--to-ports 15001"))).toHaveLength(1);
    expect(lines).toContain("  -A OUTPUT -j ISTIO_OUTPUT");
    expect(ruleLines([], [4])).toHaveLength(2);
  });
});

describe.each([
  ["nft", nft],
  ["legacy", legacy],
] as const)("in a pod of iptables-%s", (variant, backend) => {
  test("istio's own form is told as it stands", async () => {
    using pod = await TestNetns.make();
    const istios: RedirectOptions = { ...DEFAULT_OPTIONS, establishedConnections: "reset" };
    const redirect = redirection(backend);
    await redirect.apply(pod.netns, istios);
    const { chains, findings } = await redirect.rules(pod.netns, DEFAULT_OPTIONS);
    expect(findings).toEqual([]);
    expect(chains.flatMap(({ forms }) => forms ?? []).filter((form) => form === "accepted").length).toBe(4);
    const { rules } = explainRules(chains, DEFAULT_OPTIONS, 4);
    expect(rules.map(({ text }) => text).join()).not.toContain("--tcp-flags");
    expect(rules.every(({ state }) => state === "present")).toBe(true);
  });

  test.each([
    ["a comment", "-m comment --comment x\u001b[2J\u001b]0;OWNED\u0007y -j RETURN"],
    ["an interface", "-o a\u001b[2Jb -j RETURN"],
  ])("%s that a terminal would obey is not shown", async (_, rule) => {
    using pod = await TestNetns.make();
    const redirect = redirection(backend);
    await redirect.apply(pod.netns, DEFAULT_OPTIONS);
    await pod.run(`iptables-${variant} -t nat -A ISTIO_OUTPUT ${rule}`);
    const { chains } = await redirect.rules(pod.netns, DEFAULT_OPTIONS);
    const told = [
      ...ruleLines(chains, [4, 6]),
      ...explainRules(chains, DEFAULT_OPTIONS, 4).rules.map(({ text }) => text),
    ];
    expect(told.filter((line) => /\(a rule of \d+ bytes that is not ours\)$/.test(line))).toHaveLength(2);
    expect(told.filter((line) => !/^[\x20-\x7e]*$/.test(line))).toEqual([]);
  });
});
