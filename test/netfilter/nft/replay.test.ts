// SPDX-License-Identifier: Apache-2.0
// Known bytes against the real kernel and the real iptables programs: what is replayed is what iptables-restore makes.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { describe, expect, test } from "vitest";
import { encodeAttribute } from "../../../src/linux/netlink/message.ts";
import type { Netns } from "../../../src/linux/netns.ts";
import { ToolRunner } from "../../../src/linux/run-tool.ts";
import { Engine, type Wanted } from "../../../src/netfilter/engine.ts";
import { KnownBytes } from "../../../src/netfilter/known-bytes.ts";
import { nftDialect } from "../../../src/netfilter/nft/nft-engine.ts";
import { type KnownRules, knownRules } from "../../../src/netfilter/nft/nft-known.ts";
import { NftTalks } from "../../../src/netfilter/nft/nft-talk.ts";
import { type Ask, ask, batch, newChain, newRule } from "../../../src/netfilter/nft/nft-wire.ts";
import { readOwnObjects } from "../../../src/netfilter/nft/own-objects.ts";
import { type NftVerdict, verifyOwnObjects } from "../../../src/netfilter/nft/verify.ts";
import { parseSave } from "../../../src/netfilter/save-parser.ts";
import { TablesProgram } from "../../../src/netfilter/tables-program.ts";
import { findTools } from "../../../src/netfilter/variant-tools.ts";
import {
  REDIRECT_TABLES,
  renderRedirectText,
  toldRedirection,
} from "../../../src/redirection/told-redirection.ts";
import { damage } from "../../redirection/damage.ts";
import { expectNothingLeftAfterwards, saveTool } from "../../redirection/installed-backends.ts";
import { compareStates, desiredState, observedState } from "../../redirection/saved-state.ts";
import { TestNetns, TOOL_PATH } from "../../redirection/test-netns.ts";
import { DEFAULT_OPTIONS, FAMILIES, seededRandom, VARIANTS } from "../../redirection/variants.ts";
import { patience } from "../../support/node/patience.ts";

const runner = new ToolRunner();
const { nft } = await findTools(runner);
if (nft === undefined) throw new Error("These tests need iptables-nft");
const program = new TablesProgram(nft, { runner, timeoutMs: 10_000, assertUsable: () => {} });
const bytes = new KnownBytes({
  record: (told) =>
    program.record(told, async (netns) => knownRules(told, await readOwnObjects(netns, told.own))),
});
await expectNothingLeftAfterwards();

const own = REDIRECT_TABLES;
const known = (name: string): Promise<KnownRules> =>
  bytes.get(name, () => toldRedirection(VARIANTS[name] ?? DEFAULT_OPTIONS, FAMILIES));
const options = { own, program, assertUsable: () => {}, timeoutMs: 10_000 };
const { rewrite: _, ...dialect } = nftDialect(options);
const engine = new Engine(dialect);

/** Brings known rules about by netlink alone. */
async function replay(
  netns: Netns,
  { known, families }: Wanted<KnownRules>,
  how: { isNew?: boolean; ask?: Ask; plan?: typeof dialect.plan } = {},
) {
  const { isNew = false, ask, plan = dialect.plan } = how;
  const talks = new NftTalks<KnownRules>({ own });
  const told = () => {
    throw new Error("They are known");
  };
  const replaying = new Engine({
    ...dialect,
    known: async () => known,
    talk: (call, wanted) => talks.talk(call, wanted, ask),
    plan,
  });
  return await replaying.apply({ netns }, { key: "", told, families }, { isNew });
}

async function saves(pod: TestNetns): Promise<string[]> {
  return await Promise.all(FAMILIES.map((family) => pod.save(saveTool(family, "nft"))));
}

async function restore(pod: TestNetns, name = "default"): Promise<void> {
  for (const family of FAMILIES) {
    const tool = saveTool(family, "nft").replace("save", "restore");
    await pod.run(`${tool} --noflush`, renderRedirectText(VARIANTS[name] ?? DEFAULT_OPTIONS, family));
  }
}

async function verdict(pod: TestNetns, rules: KnownRules, accepted?: KnownRules): Promise<NftVerdict> {
  const seen = await readOwnObjects(pod.netns, rules.own);
  return verifyOwnObjects(seen, { known: rules, families: FAMILIES, accepted });
}

/** A replayed pod of the default options, and what it shows. */
async function replayed(): Promise<TestNetns> {
  const pod = await TestNetns.make();
  await replay(pod.netns, { known: await known("default"), families: FAMILIES }, { isNew: true });
  return pod;
}

/** A rule that does nothing, longer than what the kernel lists at once. */
function unlistableRule(): Uint8Array {
  const info = encodeAttribute(3, new Uint8Array(256));
  const match = Buffer.concat([
    encodeAttribute(1, Buffer.from("comment\0")),
    encodeAttribute(2, new Uint8Array(4)),
    info,
  ]);
  const expression = Buffer.concat([encodeAttribute(1, Buffer.from("match\0")), encodeAttribute(2, match)]);
  return Buffer.concat(Array.from({ length: 120 }, () => encodeAttribute(1, expression)));
}

test.each(Object.entries(VARIANTS))(
  "a replayed pod shows exactly what iptables-restore makes of variant %s",
  async (name, options) => {
    using replayed = await TestNetns.make();
    using restored = await TestNetns.make();
    const rules = await known(name);
    const report = await replay(replayed.netns, { known: rules, families: FAMILIES });
    expect(report.writes).toBe(1);
    for (const family of FAMILIES)
      await restored.run(
        `${saveTool(family, "nft").replace("save", "restore")} --noflush`,
        renderRedirectText(options, family),
      );
    expect(await saves(replayed)).toEqual(await saves(restored));
    expect((await saves(replayed)).join("")).toContain("-A OUTPUT -j ISTIO_OUTPUT");
    // the kernel's objects, with xt targets that no text shows in full
    expect((await verdict(restored, rules)).findings).toEqual([]);
    expect((await verdict(replayed, rules)).findings).toEqual([]);
    expect(await replayed.run("nft list ruleset")).toBe(await restored.run("nft list ruleset"));
  },
);

test("a second replay writes nothing, and neither traffic nor time changes what is seen", async () => {
  using pod = await replayed();
  const rules = await known("default");
  const handles = await pod.handles();
  await pod.run("ping -c 1 -W 1 127.0.0.1").catch(() => {});
  expect(await replay(pod.netns, { known: rules, families: FAMILIES })).toMatchObject({ writes: 0 });
  expect((await pod.handles()).replaceAll(/packets \d+ bytes \d+/g, "")).toBe(
    handles.replaceAll(/packets \d+ bytes \d+/g, ""),
  );
});

test("tables and base chains that are there are added to and never replaced", async () => {
  using pod = await TestNetns.make();
  await pod.run("iptables-nft -t nat -A OUTPUT -d 10.1.2.3/32 -j RETURN");
  await pod.run("nft add chain ip nat theirs");
  await pod.run("ip6tables-nft -t mangle -P PREROUTING DROP");
  const rules = await known("default");
  // wrongly told to be new: refused as a whole, then looked at
  const report = await replay(pod.netns, { known: rules, families: FAMILIES }, { isNew: true });
  expect(report.writes).toBe(1);
  const [v4, v6] = await saves(pod);
  expect(v4).toContain("-A OUTPUT -d 10.1.2.3/32 -j RETURN\n-A OUTPUT -j ISTIO_OUTPUT\n");
  expect(v6).toContain(":PREROUTING DROP");
  expect(await pod.run("nft list chains")).toContain("chain theirs");
  expect((await verdict(pod, rules)).findings).toEqual([]);
  expect(await engine.remove(pod)).toBe(1);
  expect((await saves(pod)).join("")).not.toContain("ISTIO");
  expect((await saves(pod)).join("")).toContain("-A OUTPUT -d 10.1.2.3/32 -j RETURN");
});

test("only one family is written and judged when only one is wanted", async () => {
  using pod = await TestNetns.make();
  const rules = await known("default");
  await replay(pod.netns, { known: rules, families: [4] });
  const [v4, v6] = await saves(pod);
  expect(v4).toContain("ISTIO_PRERT");
  expect(v6).toBe("");
  expect((await verdict(pod, rules)).findings.map(({ family }) => family)).not.toContain(4);
});

test("random damage is found exactly when iptables-save shows it, and mended", async () => {
  const rules = await known("default");
  const random = seededRandom(13);
  let damagedCount = 0;
  using pod = await replayed();
  for (let round = 0; round < 12; round++) {
    for (const family of FAMILIES)
      for (const text of damage(random))
        await pod
          .run(`${saveTool(family, "nft").replace("save", "restore")} --noflush`, text)
          .catch(() => {});
    const texts = await saves(pod);
    const shown = FAMILIES.flatMap((family, index) =>
      compareStates(
        observedState(parseSave(texts[index] ?? "")),
        desiredState(DEFAULT_OPTIONS, family),
        family,
      ),
    );
    const { findings } = await verdict(pod, rules);
    const kinds = (list: readonly { family: number; table: string; kind: string }[]) =>
      new Set(list.map(({ family, table, kind }) => `${family} ${table} ${kind}`));
    expect(kinds(findings), JSON.stringify({ findings, shown }, null, 1)).toEqual(kinds(shown));
    if (shown.length > 0) damagedCount++;
    await replay(pod.netns, { known: rules, families: FAMILIES });
    expect((await verdict(pod, rules)).findings).toEqual([]);
    for (const [index, family] of FAMILIES.entries())
      expect(
        compareStates(
          observedState(parseSave((await saves(pod))[index] ?? "")),
          desiredState(DEFAULT_OPTIONS, family),
          family,
        ),
      ).toEqual([]);
  }
  expect(damagedCount).toBeGreaterThan(6);
});

test("a pod follows every change of options and back", async () => {
  using pod = await replayed();
  for (const name of ["no-dns", "ingress", "virtual-interfaces", "reset-default", "default"]) {
    using fresh = await TestNetns.make();
    await restore(fresh, name);
    await replay(pod.netns, { known: await known(name), families: FAMILIES });
    const rulesOf = async (each: TestNetns) =>
      (await saves(each)).map((text) => observedState(parseSave(text)));
    expect(await rulesOf(pod)).toEqual(await rulesOf(fresh));
  }
});

test("rules in istio's own words are accepted where those of the options are others", async () => {
  using pod = await TestNetns.make();
  await restore(pod, "reset-default");
  const [rules, accepted] = [await known("default"), await known("reset-default")];
  expect((await verdict(pod, rules)).findings.length).toBeGreaterThan(0);
  expect((await verdict(pod, rules, accepted)).findings).toEqual([]);
  expect((await verdict(pod, accepted)).findings).toEqual([]);
});

describe("what the kernel refuses", () => {
  test("a batch with one rule that it does not take leaves nothing", async () => {
    using pod = await TestNetns.make();
    const told = toldRedirection(DEFAULT_OPTIONS, FAMILIES);
    // a rule of x_tables whose protocol the kernel is not told
    const rules = told.rules.map((rule) => ({ ...rule, protocol: undefined }));
    const untold = await bytes.get("untold", () => ({ ...told, rules }));
    await expect(replay(pod.netns, { known: untold, families: FAMILIES })).rejects.toMatchObject({
      code: "BATCH_REFUSED",
      isLeftToPrograms: true,
    });
    expect(await pod.run("nft list ruleset")).toBe("");
  });

  test("a batch that is longer than the socket takes is refused as a whole", async () => {
    using pod = await TestNetns.make();
    const rules = await known("default");
    const plan = (verdict: NftVerdict) => Array.from({ length: 60 }, () => dialect.plan(verdict)).flat();
    await expect(replay(pod.netns, { known: rules, families: FAMILIES }, { plan })).rejects.toMatchObject({
      code: "BATCH_REFUSED",
    });
    expect(await pod.run("nft list ruleset")).toBe("");
  });
});

describe("what others do in the pod", () => {
  test("100,000 rules in another chain of our table neither hide nor break ours", async () => {
    using pod = await replayed();
    const lines = Array.from(
      { length: 100_000 },
      (_, n) => `add rule ip nat junk ip saddr 10.${(n >> 16) & 255}.${(n >> 8) & 255}.${n & 255} accept`,
    );
    await pod.run("nft -f -", `add chain ip nat junk\n${lines.join("\n")}\n`);
    const rules = await known("default");
    for (let look = 0; look < 2; look++) expect((await verdict(pod, rules)).findings).toEqual([]);
    await pod.run("nft flush chain ip nat ISTIO_OUTPUT");
    const { findings } = await verdict(pod, rules);
    expect(findings.map(({ kind, chain }) => `${kind} ${chain}`)).toContain("missing-rule ISTIO_OUTPUT");
    expect(await replay(pod.netns, { known: rules, families: FAMILIES })).toMatchObject({ writes: 1 });
  });

  test("more rules before our jump than are read are a fault of that pod; behind it they are none", async () => {
    using pod = await replayed();
    const rules = await known("default");
    const many = (verb: string) =>
      pod.run(
        "nft -f -",
        Array.from(
          { length: 6000 },
          () => `${verb} rule ip nat OUTPUT ip daddr 10.1.2.3 counter return\n`,
        ).join(""),
      );
    await many("add");
    expect((await verdict(pod, rules)).findings).toEqual([]);
    await many("insert");
    await expect(verdict(pod, rules)).rejects.toMatchObject({
      code: "TOO_MANY_RULES",
      isLeftToPrograms: false,
    });
  });

  test("chains whose names hold line breaks are no text to anybody", async () => {
    using pod = await replayed();
    const chain = "zz - [0:0]\nCOMMIT\n*fake\n:q";
    const made = await ask(pod.netns.fd, batch([newChain({ family: 4, table: "nat", chain })]));
    expect(made.map(({ error }) => error)).toEqual([undefined, undefined, undefined]);
    const rules = await known("default");
    expect((await verdict(pod, rules)).findings).toEqual([]);
    await pod.run("nft flush chain ip nat ISTIO_OUTPUT");
    expect((await verdict(pod, rules)).findings.length).toBe(6);
  });

  test.each(["ISTIO_OUTPUT", "PREROUTING"])(
    "a rule that is too long to be listed is noticed in %s",
    async (chain) => {
      using pod = await replayed();
      const rules = await known("default");
      const place = { family: 4, table: "nat", chain } as const;
      const answers = await ask(pod.netns.fd, batch([newRule(place, { expressions: unlistableRule() })]));
      expect(answers.map(({ error }) => error)).toEqual([undefined, undefined, undefined]);
      const { findings } = await verdict(pod, rules);
      // at the end of a base chain it is nobody's business
      if (chain === "PREROUTING") expect(findings).toEqual([]);
      else {
        expect(findings).toMatchObject([{ kind: "extra-rule", family: 4, table: "nat", chain }]);
        expect(await replay(pod.netns, { known: rules, families: FAMILIES })).toMatchObject({ writes: 1 });
      }
    },
  );

  test("a rule in a chain of others that leads into ours is told of", async () => {
    using pod = await replayed();
    await pod.run("nft add chain ip nat theirs");
    await pod.run("nft add rule ip nat theirs jump ISTIO_OUTPUT");
    expect((await verdict(pod, await known("default"))).findings).toMatchObject([
      { kind: "extra-rule", chain: "theirs" },
    ]);
    await replay(pod.netns, { known: await known("default"), families: FAMILIES });
    expect(await pod.run("nft list chain ip nat theirs")).not.toContain("jump");
  });

  test("the name of such a chain is not said where it is none to print", async () => {
    using pod = await replayed();
    await pod.run("iptables-nft -t nat -N e\x1b[2Jx");
    await pod.run("iptables-nft -t nat -A e\x1b[2Jx -j ISTIO_OUTPUT");
    const { findings } = await verdict(pod, await known("default"));
    expect(findings).toMatchObject([{ kind: "extra-rule", chain: "(a name of 6 bytes)" }]);
    expect(JSON.stringify(findings)).not.toContain("2J");
  });

  test("a table that was put to sleep is a fault of its own", async () => {
    using pod = await replayed();
    await pod.run("nft add table ip nat { flags dormant ; }");
    await expect(verdict(pod, await known("default"))).rejects.toMatchObject({
      code: "TABLE_DORMANT",
      isLeftToPrograms: false,
    });
  });

  test("a table that another process owns is a fault of its own, judged but not written", async () => {
    using pod = await TestNetns.make();
    // the owner's socket keeps such a table from everybody else. Source: nft(8), flag owner
    const owner = spawn("nsenter", [`--net=/proc/${pod.pid}/ns/net`, "nft", "-i"], {
      stdio: ["pipe", "ignore", "ignore"],
      env: { PATH: TOOL_PATH },
    });
    try {
      owner.stdin.write("add table ip nat { flags owner ; }\n");
      await expect
        .poll(() => pod.run("nft list tables"), { timeout: 10_000 * patience() })
        .toContain("table ip nat");
      const wanted = { known: await known("default"), families: FAMILIES };
      await expect(replay(pod.netns, wanted)).rejects.toMatchObject({
        code: "TABLE_OWNED",
        isLeftToPrograms: false,
      });
      expect(await pod.run("nft list ruleset")).not.toContain("ISTIO");
    } finally {
      owner.stdin.end();
      await once(owner, "exit");
    }
  });

  test("a chain that has a base chain's name and hangs nowhere is a fault of its own", async () => {
    using pod = await TestNetns.make();
    await pod.run("nft add table ip nat");
    await pod.run("nft add chain ip nat OUTPUT");
    const wanted = { known: await known("default"), families: FAMILIES };
    await expect(replay(pod.netns, wanted)).rejects.toMatchObject({ code: "HOOK_TAKEN" });
    expect(await pod.run("nft list ruleset")).not.toContain("ISTIO");
  });
});

test("opening takes away what leads into our chains of one table, and replaying puts it back", async () => {
  using pod = await replayed();
  const rules = await known("default");
  await pod.run("nft add rule ip nat OUTPUT ip protocol tcp goto ISTIO_OUTPUT");
  expect(await engine.open(pod, "nat")).toBe(1);
  const text = (await saves(pod)).join("");
  expect(text.match(/-A (OUTPUT|PREROUTING) -j ISTIO/g)).toHaveLength(8);
  expect(text.match(/-A ISTIO_OUTPUT .*--to-ports 15001/g)).toHaveLength(2);
  expect(await engine.open(pod, "nat")).toBe(0);
  expect(await replay(pod.netns, { known: rules, families: FAMILIES })).toMatchObject({ writes: 1 });
  expect((await verdict(pod, rules)).findings).toEqual([]);
});

test("a rule of others that has got the number of one of ours meanwhile is not deleted", async () => {
  using pod = await replayed();
  const rules = await known("default");
  const nat = saveTool(4, "nft").replace("-save", "");
  const others = Array.from({ length: 40 }, (_, index) => `PREROUTING -p tcp --dport ${index + 1} -j RETURN`);
  const each = (option: string) =>
    pod.run(
      `${nat}-restore --noflush`,
      `*nat\n${others.map((rule) => `${option} ${rule}\n`).join("")}COMMIT\n`,
    );
  // handles are counted in each table, and go on from where they were
  const [asItWas] = await saves(pod);
  await each("-A");
  await each("-D");
  await pod.run(`${nat} -t nat -A PREROUTING -j ISTIO_PRERT`);
  const again = async () => {
    await pod.run("nft flush ruleset");
    await pod.run(`${nat}-restore`, asItWas);
    await each("-A");
  };
  let looks = 0;
  const asking: Ask = async (requests, enoughBytes) => {
    // a firewall's rules are loaded anew between our look and our change
    if (++looks === 2) await again();
    return await ask(pod.netns.fd, requests, { enoughBytes });
  };
  await replay(pod.netns, { known: rules, families: FAMILIES }, { ask: asking });
  const text = await pod.save(saveTool(4, "nft"));
  expect(text.match(/--dport \d+ -j RETURN/g)).toHaveLength(others.length);
  expect((await verdict(pod, rules)).findings).toEqual([]);
});

test("a namespace that is another's by now is not written", async () => {
  using pod = await TestNetns.make();
  let looks = 0;
  const asking: Ask = (requests, enoughBytes) => {
    if (++looks === 2) throw new Error("closed");
    return ask(pod.netns.fd, requests, { enoughBytes });
  };
  const wanted = { known: await known("default"), families: FAMILIES };
  await expect(replay(pod.netns, wanted, { ask: asking })).rejects.toThrow("closed");
  expect(await pod.run("nft list ruleset")).toBe("");
});
