// SPDX-License-Identifier: Apache-2.0
// The native engine against the real kernel and the real nft: what is written is what nft and istio-cni make of the same rules.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { readImports } from "../../../scripts/check-imports.ts";
import { renderRulesCommand } from "../../../src/cli/rules-command.ts";
import type { Family } from "../../../src/netfilter/family.ts";
import { NativeEngine } from "../../../src/netfilter/native/native-engine.ts";
import type { NativeLayout } from "../../../src/netfilter/native/native-layout.ts";
import { ask, batch, newRule } from "../../../src/netfilter/nft/nft-wire.ts";
import type { WantedRules } from "../../../src/netfilter/rule-engine.ts";
import { desiredChains, fingerprint } from "../../../src/redirection/fingerprint.ts";
import { NATIVE_LAYOUT, renderNativeText } from "../../../src/redirection/native-rules.ts";
import type { RedirectOptions } from "../../../src/redirection/rules.ts";
import { toldRedirection } from "../../../src/redirection/told-redirection.ts";
import { TestNetns, TOOL_PATH } from "../../redirection/test-netns.ts";
import { DEFAULT_OPTIONS, FAMILIES, VARIANTS } from "../../redirection/variants.ts";
import { patience } from "../../support/node/patience.ts";
import { istioNativeText } from "../istio-native-text.ts";
import { unlistableRule } from "../unlistable-rule.ts";

const engine = new NativeEngine({ layout: NATIVE_LAYOUT });
const istios = Object.entries(VARIANTS).filter(([name]) => name.startsWith("reset-"));

function wanted(
  options: RedirectOptions = DEFAULT_OPTIONS,
  families: readonly Family[] = FAMILIES,
): WantedRules {
  return { key: JSON.stringify(options), told: () => toldRedirection(options, families), families };
}

/** A pod with the rules in it. */
async function applied(options: RedirectOptions = DEFAULT_OPTIONS): Promise<TestNetns> {
  const pod = await TestNetns.make();
  const { writes } = await engine.apply({ netns: pod.netns }, wanted(options), { isNew: true });
  expect(writes).toBe(1);
  return pod;
}

/** All rules as text, counters at zero. */
const rulesOf = (pod: TestNetns) => pod.run("nft --stateless list ruleset");
/** All rules as text and expressions, counters at zero, without handles. */
const expressionsOf = async (pod: TestNetns) =>
  (await pod.run("nft --stateless --debug=netlink list ruleset")).replaceAll(/^(inet \S+ \S+) \d+$/gm, "$1");

describe("what nft makes of the same text", () => {
  test.each(Object.entries(VARIANTS))("is what is written, variant %s", async (_, options) => {
    using pod = await applied(options);
    const text = await rulesOf(pod);
    expect(text).toBe(renderNativeText(options, FAMILIES));
    using other = await TestNetns.make();
    await other.run("nft -f -", text);
    expect(await expressionsOf(other)).toBe(await expressionsOf(pod));
    expect((await engine.verify({ netns: other.netns }, wanted(options))).findings).toEqual([]);
  });

  test("is the same for a device name with a wildcard", async () => {
    const options = { ...DEFAULT_OPTIONS, virtualInterfaces: ["vm+", "br-a.1@x", "abcdefghijklmno"] };
    using pod = await applied(options);
    const text = await rulesOf(pod);
    expect(text).toContain('iifname "vm*" meta l4proto tcp counter redirect to :15001');
    expect(text).toBe(renderNativeText(options, FAMILIES));
    using other = await TestNetns.make();
    await other.run("nft -f -", text);
    expect(await expressionsOf(other)).toBe(await expressionsOf(pod));
  });
});

describe("istio-cni's own rules", () => {
  test.each(
    istios.flatMap(([name, options]) =>
      [[4] as const, FAMILIES].map((families) => ({ name, options, families })),
    ),
  )("are those that are written, $name, IPv$families", async ({ options, families }) => {
    using istio = await TestNetns.make();
    await istio.run("nft -f -", istioNativeText(options, families));
    using ours = await TestNetns.make();
    await engine.apply({ netns: ours.netns }, wanted(options, families), { isNew: true });
    expect(await expressionsOf(ours)).toBe(await expressionsOf(istio));
  });

  test.each(istios)("are left as they are, %s", async (_, options) => {
    using pod = await TestNetns.make();
    await pod.run("nft -f -", istioNativeText(options, FAMILIES));
    const before = await pod.handles();
    const strict = wanted({ ...options, establishedConnections: "keep" });
    const keep = {
      ...strict,
      accepted: { key: JSON.stringify(options), told: () => toldRedirection(options, FAMILIES) },
    };
    expect(await engine.apply({ netns: pod.netns }, keep, { isNew: false })).toMatchObject({ writes: 0 });
    expect(await pod.handles()).toBe(before);
    expect((await engine.verify({ netns: pod.netns }, strict)).findings).not.toEqual([]);
  });
});

test("`rules --native` prints what nft lists in a pod, table by table", async () => {
  using pod = await applied();
  const tables = ["nat", "mangle", "raw"].map((table) =>
    pod.run(`nft -s list table inet istio-ambient-${table}`),
  );
  expect(renderRulesCommand(["--native"])).toBe((await Promise.all(tables)).join(""));
  expect(renderRulesCommand(["--native", "--family", "4"])).not.toContain("ip6 ");
  expect(() => renderRulesCommand(["--native", "--family", "6"])).toThrow("--family 6");
  const probe = renderRulesCommand(["--native", "--probe-snat", "fd00::7"]);
  expect(probe).toContain("ip6 saddr fd00::7 ");
  expect(probe).toContain("ip saddr 169.254.7.127 ");
});

test("nothing is written where everything is right, whatever was counted", async () => {
  using pod = await applied();
  const before = await pod.handles();
  // closed: redirected to a port that nobody listens on
  await pod.run("bash -c exec\t3<>/dev/tcp/10.255.255.1/80").catch(() => {});
  const report = await engine.apply({ netns: pod.netns }, wanted(), { isNew: false });
  expect(report).toMatchObject({ writes: 0, before: { findings: [] } });
  const text = (handles: string) => handles.replaceAll(/packets \d+ bytes \d+/g, "");
  expect(text(await pod.handles())).toBe(text(before));
});

test.each(Object.entries(VARIANTS))(
  "what is there is told for each family as it was told, variant %s",
  async (_, options) => {
    using pod = await applied(options);
    const { chains } = await engine.verify({ netns: pod.netns }, wanted(options));
    for (const family of FAMILIES) {
      const states = chains.filter((chain) => chain.family === family);
      for (const wantedState of desiredChains(options, family))
        expect(states).toContainEqual(expect.objectContaining(wantedState));
      for (const { forms } of states) expect(new Set(forms)).not.toContain("other");
      expect(fingerprint(states)).toBe(fingerprint(desiredChains(options, family)));
    }
    expect(chains.map(({ table, standsIn }) => standsIn === `istio-ambient-${table}`)).not.toContain(false);
  },
);

test("what is not as told does not look so", async () => {
  using pod = await applied();
  await pod.run("nft insert rule inet istio-ambient-nat istio-output tcp dport 80 counter accept");
  const { chains } = await engine.verify({ netns: pod.netns }, wanted());
  for (const family of FAMILIES)
    expect(fingerprint(chains.filter((chain) => chain.family === family))).not.toBe(
      fingerprint(desiredChains(DEFAULT_OPTIONS, family)),
    );
});

const nat = "inet istio-ambient-nat";
describe("damage is named and mended in one write", () => {
  test.each<[string, string, object[]]>([
    [
      "a flushed chain",
      `flush chain ${nat} istio-prerouting`,
      Array(4).fill({ kind: "missing-rule", chain: "istio-prerouting" }),
    ],
    ["a lost jump", `flush chain ${nat} output`, [{ kind: "missing-jump", chain: "output" }]],
    ["a second jump", `add rule ${nat} output jump istio-output`, [{ kind: "duplicate-jump" }]],
    ["a rule before the jump", `insert rule ${nat} output accept`, [{ kind: "extra-rule", chain: "output" }]],
    [
      "a rule before ours",
      `insert rule ${nat} istio-output tcp dport 80 accept`,
      [{ kind: "extra-rule", table: "istio-ambient-nat" }],
    ],
    [
      "a lost table",
      "delete table inet istio-ambient-raw",
      Array(4).fill({ kind: "missing-chain", table: "istio-ambient-raw" }),
    ],
    [
      "a base chain that drops",
      `add chain ${nat} output { policy drop ; }`,
      [{ kind: "missing-chain", chain: "output" }],
    ],
    [
      "a chain of others in our table",
      `add chain ${nat} theirs { type filter hook output priority -400 ; policy drop ; }`,
      [{ kind: "extra-rule", chain: "" }],
    ],
    [
      "a set of others in our table",
      `add set ${nat} theirs { type ipv4_addr ; }`,
      [{ kind: "extra-rule", chain: "" }],
    ],
    [
      "a way in by a chain of others",
      `add chain ${nat} theirs ; add rule ${nat} theirs goto istio-output`,
      [
        { kind: "extra-rule", chain: "" },
        { kind: "extra-rule", chain: "istio-output" },
      ],
    ],
    [
      "a base chain that hangs elsewhere",
      `delete chain ${nat} output ; add chain ${nat} output { type nat hook output priority -90 ; } ; add rule ${nat} output jump istio-output`,
      [{ kind: "missing-chain", chain: "output" }],
    ],
    [
      "a base chain that hangs nowhere",
      `delete chain ${nat} output ; add chain ${nat} output ; add rule ${nat} output jump istio-output`,
      [{ kind: "missing-chain", chain: "output" }],
    ],
    [
      "another port",
      `flush chain inet istio-ambient-raw istio-output ; add rule inet istio-ambient-raw istio-output udp dport 54 meta mark & 0xfff == 0x539 counter ct zone set 1`,
      [{ kind: "missing-rule" }, { kind: "extra-rule" }],
    ],
    [
      "a rule without its counter",
      `flush chain inet istio-ambient-raw istio-output ; add rule inet istio-ambient-raw istio-output udp dport 53 meta mark & 0xfff == 0x539 ct zone set 1`,
      [{ kind: "missing-rule" }, { kind: "extra-rule" }],
    ],
    [
      "another order",
      `flush chain inet istio-ambient-mangle istio-output ; flush chain inet istio-ambient-mangle istio-prerouting`,
      [{ kind: "missing-rule" }, { kind: "missing-rule" }],
    ],
  ])("%s", async (_, commands, findings) => {
    using pod = await applied();
    const right = await rulesOf(pod);
    // a chain must be empty before it is deleted
    const text = commands.replace(
      `delete chain ${nat} output`,
      `flush chain ${nat} output ; delete chain ${nat} output`,
    );
    for (const command of text.split(" ; ").reduce<string[]>(joinBraces, []))
      await pod.run("nft -f -", command);
    expect((await engine.verify({ netns: pod.netns }, wanted())).findings).toMatchObject(findings);
    const report = await engine.apply({ netns: pod.netns }, wanted(), { isNew: false });
    expect(report).toMatchObject({ writes: 1, before: { findings } });
    expect(sorted(await rulesOf(pod))).toBe(sorted(right));
  });

  test("rules in another order", async () => {
    using pod = await applied();
    const chain = "inet istio-ambient-nat istio-prerouting";
    const rules = (await pod.run(`nft -s list chain ${chain}`))
      .split("\n")
      .filter((line) => line.includes("counter"));
    await pod.run(
      "nft -f -",
      [`flush chain ${chain}`, ...rules.reverse().map((rule) => `add rule ${chain} ${rule}`)].join("\n"),
    );
    const { findings } = await engine.verify({ netns: pod.netns }, wanted());
    expect(findings).toMatchObject([{ kind: "reordered", chain: "istio-prerouting" }]);
    expect(await engine.apply({ netns: pod.netns }, wanted(), { isNew: false })).toMatchObject({ writes: 1 });
    expect(sorted(await rulesOf(pod))).toBe(sorted(renderNativeText(DEFAULT_OPTIONS, FAMILIES)));
  });

  test("a table that these options do not have", async () => {
    using pod = await applied();
    const without = { ...DEFAULT_OPTIONS, dnsCapture: false };
    const { findings } = await engine.verify({ netns: pod.netns }, wanted(without));
    expect(findings).toContainEqual(
      expect.objectContaining({ kind: "unexpected-table", table: "istio-ambient-raw" }),
    );
    expect(await engine.apply({ netns: pod.netns }, wanted(without), { isNew: false })).toMatchObject({
      writes: 1,
    });
    expect(sorted(await rulesOf(pod))).toBe(sorted(renderNativeText(without, FAMILIES)));
  });

  test.each(["output", "istio-output"])("a rule that is too long to be listed in %s", async (chain) => {
    using pod = await applied();
    const place = { family: "inet", table: "istio-ambient-nat", chain } as const;
    const answers = await ask(pod.netns.fd, batch([newRule(place, { expressions: unlistableRule() })]));
    expect(answers.map(({ error }) => error)).toEqual([undefined, undefined, undefined]);
    const { findings } = await engine.verify({ netns: pod.netns }, wanted());
    expect(findings).toContainEqual(expect.objectContaining({ kind: "extra-rule", chain }));
    expect(await engine.apply({ netns: pod.netns }, wanted(), { isNew: false })).toMatchObject({ writes: 1 });
    expect(sorted(await rulesOf(pod))).toBe(sorted(renderNativeText(DEFAULT_OPTIONS, FAMILIES)));
  });

  test("more rules in our table than are read", async () => {
    using pod = await applied();
    const flood = Array.from({ length: 20_000 }, () => `add rule ${nat} istio-output counter`).join("\n");
    await pod.run("nft -f -", flood);
    expect((await engine.verify({ netns: pod.netns }, wanted())).findings).toContainEqual(
      expect.objectContaining({
        kind: "extra-rule",
        table: "istio-ambient-nat",
        detail: "it holds more rules than are read",
      }),
    );
    expect(await engine.apply({ netns: pod.netns }, wanted(), { isNew: false })).toMatchObject({ writes: 1 });
    expect(sorted(await rulesOf(pod))).toBe(sorted(renderNativeText(DEFAULT_OPTIONS, FAMILIES)));
  });
});

describe("what others have", () => {
  test("is neither listed nor touched", async () => {
    using pod = await TestNetns.make();
    const theirs = Array.from({ length: 5_000 }, () => "add rule inet theirs input tcp dport 22 accept");
    await pod.run("nft -f -", ["add table inet theirs", "add chain inet theirs input", ...theirs].join("\n"));
    const before = await rulesOf(pod);
    const heard: number[] = [];
    const call = { netns: pod.netns };
    expect(await engine.apply(call, wanted(), { isNew: false })).toMatchObject({ writes: 1 });
    heard.push((await engine.verify(call, wanted())).findings.length);
    expect(await engine.remove(call)).toBe(1);
    expect(heard).toEqual([0]);
    expect(await rulesOf(pod)).toBe(before);
  });

  test("does not stop us in a namespace that was thought to be new", async () => {
    using pod = await TestNetns.make();
    await pod.run("nft -f -", istioNativeText({ ...DEFAULT_OPTIONS, ingressMode: true }, FAMILIES));
    expect(await engine.apply({ netns: pod.netns }, wanted(), { isNew: true })).toMatchObject({ writes: 1 });
    expect(sorted(await rulesOf(pod))).toBe(sorted(renderNativeText(DEFAULT_OPTIONS, FAMILIES)));
  });
});

describe("faults", () => {
  test("a table that was put to sleep", async () => {
    using pod = await applied();
    await pod.run(`nft add table ${nat} { flags dormant ; }`);
    const fault = { code: "TABLE_DORMANT" };
    await expect(engine.verify({ netns: pod.netns }, wanted())).rejects.toMatchObject(fault);
    await expect(engine.apply({ netns: pod.netns }, wanted(), { isNew: false })).rejects.toMatchObject(fault);
    // to take it away is no matter of what it does
    expect(await engine.remove({ netns: pod.netns })).toBe(1);
  });

  test("a table that another process owns, of which nothing stays", async () => {
    using pod = await TestNetns.make();
    // the owner's socket keeps such a table from everybody else. Source: nft(8), flag owner
    const owner = spawn("nsenter", [`--net=/proc/${pod.pid}/ns/net`, "nft", "-i"], {
      stdio: ["pipe", "ignore", "ignore"],
      env: { PATH: TOOL_PATH },
    });
    try {
      owner.stdin.write("add table inet istio-ambient-mangle { flags owner ; }\n");
      await expect
        .poll(() => pod.run("nft list tables"), { timeout: 10_000 * patience() })
        .toContain("mangle");
      for (const isNew of [true, false])
        await expect(engine.apply({ netns: pod.netns }, wanted(), { isNew })).rejects.toMatchObject({
          code: "TABLE_OWNED",
        });
      await expect(engine.remove({ netns: pod.netns })).rejects.toMatchObject({ code: "TABLE_OWNED" });
      expect(await pod.run("nft list tables")).toBe("table inet istio-ambient-mangle\n");
    } finally {
      owner.stdin.end();
      await once(owner, "exit");
    }
  });

  test("a batch that the kernel does not take leaves nothing", async () => {
    using pod = await TestNetns.make();
    const impossible: NativeLayout = NATIVE_LAYOUT.map((table) => ({
      ...table,
      chains: table.chains.map((chain) =>
        table.told === "raw" && chain.base !== undefined
          ? // Source: linux net/netfilter/nft_chain_route.c: output alone
            { ...chain, base: { ...chain.base, hook: { type: "route", hook: "forward", priority: -300 } } }
          : chain,
      ),
    }));
    const other = new NativeEngine({ layout: impossible });
    for (const isNew of [true, false])
      await expect(other.apply({ netns: pod.netns }, wanted(), { isNew })).rejects.toMatchObject({
        code: "BATCH_REFUSED",
      });
    expect(await rulesOf(pod)).toBe("");
  });

  test("a namespace that is another's by now is not written", async () => {
    using pod = await TestNetns.make();
    let looks = 0;
    const careful = new NativeEngine({
      layout: NATIVE_LAYOUT,
      assertUsable: () => {
        if (++looks === 2) throw new Error("closed");
      },
    });
    await expect(careful.apply({ netns: pod.netns }, wanted(), { isNew: false })).rejects.toThrow("closed");
    expect(await rulesOf(pod)).toBe("");
    const given = { netns: pod.netns, signal: AbortSignal.abort(new Error("given up")) };
    await expect(engine.apply(given, wanted(), { isNew: true })).rejects.toThrow("given up");
  });

  test("words that no rule of ours has", async () => {
    const told = toldRedirection(DEFAULT_OPTIONS, FAMILIES);
    for (const args of [
      ["-p", "icmp", "-j", "ACCEPT"],
      ["-d", "10.0.0.0/33", "-j", "ACCEPT"],
      ["!", "-d", "0.0.0.0/0", "-j", "ACCEPT"],
      ["-j", "LOG"],
      ["-j", "ISTIO_NOWHERE"],
      ["-p", "tcp"],
      ["-p", "tcp", "-m", "multiport", "--dports", "1,2", "-j", "ACCEPT"],
      ["-m", "conntrack", "--ctstate", "SNAT", "-j", "DROP"],
      ["-m", "conntrack", "!", "--ctstate", "INVALID", "-j", "DROP"],
      ["-j", "MARK", "--set-xmark", "0x1/0xff"],
      ["-j", "CONNMARK", "--save-mark", "--nfmask", "0xff", "--ctmask", "0xff"],
      ["-p", "tcp", "-j", "TPROXY", "--on-port", "1", "--tproxy-mark", "0x1/0xffffffff"],
      ["-d", "192.0.2.1", "-j", "TPROXY", "--on-port", "1", "--tproxy-mark", "0x1/0xf"],
    ]) {
      const rules = [{ family: 4, table: "nat", chain: "ISTIO_OUTPUT", args, words: "" }] as const;
      const odd = { key: args.join(), told: () => ({ ...told, rules }), families: [4] as const };
      await expect(engine.prepare(odd), args.join(" ")).rejects.toThrow(RangeError);
    }
  });

  test("a rule without an address that one family alone has, which a table of both cannot tell apart", async () => {
    const told = toldRedirection(DEFAULT_OPTIONS, FAMILIES);
    const rule = (family: Family, args: string[]) =>
      ({ family, table: "nat", chain: "ISTIO_OUTPUT", args, words: args.join(" ") }) as const;
    const prepare = (...rules: ReturnType<typeof rule>[]) =>
      engine.prepare({
        key: JSON.stringify(rules),
        told: () => ({ ...told, rules }),
        families: FAMILIES,
      });
    const all = ["-j", "ACCEPT"];
    await expect(prepare(rule(4, all))).rejects.toThrow("IPv4 alone has it");
    await expect(prepare(rule(4, all), rule(6, ["-j", "RETURN"]))).rejects.toThrow(RangeError);
    await prepare(rule(4, ["-d", "192.0.2.0/24", ...all]), rule(4, all), rule(6, all));
  });
});

test("opened, a pod's new connections are led nowhere, and applying leads them again", async () => {
  using pod = await applied();
  const call = { netns: pod.netns };
  expect(await engine.open(call, "nat")).toBe(1);
  const text = await rulesOf(pod);
  expect(text.match(/jump/g)).toHaveLength(4);
  expect(text.match(/hook/g)).toHaveLength(6);
  expect(text).toContain("redirect to :15001");
  expect(await engine.open(call, "nat")).toBe(0);
  expect(await engine.apply(call, wanted(), { isNew: false })).toMatchObject({ writes: 1 });
  expect(sorted(await rulesOf(pod))).toBe(sorted(renderNativeText(DEFAULT_OPTIONS, FAMILIES)));
  expect([await engine.remove(call), await engine.remove(call), await engine.open(call, "nat")]).toEqual([
    1, 0, 0,
  ]);
  expect(await rulesOf(pod)).toBe("");
});

test("no file of the engine can start a process", () => {
  const source = join(import.meta.dirname, "../../../src");
  const imports = readImports(source);
  const reached = new Set(["netfilter/native/native-engine.ts"]);
  for (const file of reached) for (const { from, to } of imports) if (from === file) reached.add(to);
  expect(reached.size).toBeGreaterThan(15);
  for (const file of reached)
    expect(readFileSync(join(source, file), "utf8"), file).not.toContain("child_process");
});

/** A table that was made anew stands last. */
function sorted(text: string): string {
  return text
    .split(/^(?=table )/m)
    .sort()
    .join("");
}

/** `{ a ; b ; }` is one command. */
function joinBraces(commands: string[], part: string): string[] {
  const last = commands.at(-1) ?? "";
  if ((last.match(/\{/g)?.length ?? 0) === (last.match(/\}/g)?.length ?? 0)) return [...commands, part];
  return [...commands.slice(0, -1), `${last} ; ${part}`];
}
