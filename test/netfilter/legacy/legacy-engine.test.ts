// SPDX-License-Identifier: Apache-2.0
// Rules of iptables-legacy in namespaces of the test's own: what the engine writes and finds is what iptables-legacy-save shows.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { LockFiles } from "../../../src/linux/lock-files.ts";
import { ToolRunner } from "../../../src/linux/run-tool.ts";
import { existingXtablesInNetns, xtablesInNetns } from "../../../src/linux/xtables-netns.ts";
import type { Family } from "../../../src/netfilter/family.ts";
import { LegacyEngine } from "../../../src/netfilter/legacy/legacy-engine.ts";
import { renderRestoreText } from "../../../src/netfilter/restore-text.ts";
import type { NetnsCall, WantedRules } from "../../../src/netfilter/rule-engine.ts";
import { parseSave } from "../../../src/netfilter/save-parser.ts";
import { TablesProgram } from "../../../src/netfilter/tables-program.ts";
import { toldRule } from "../../../src/netfilter/told-rules.ts";
import { findTools, type VariantTools } from "../../../src/netfilter/variant-tools.ts";
import type { RedirectOptions } from "../../../src/redirection/rules.ts";
import {
  ALL_FAMILIES,
  REDIRECT_TABLES,
  toldRedirection,
  wantedRedirection,
} from "../../../src/redirection/told-redirection.ts";
import { damage } from "../../redirection/damage.ts";
import { expectNothingLeftAfterwards } from "../../redirection/installed-backends.ts";
import { targetOf } from "../../redirection/saved-state.ts";
import { TestNetns, TOOL_PATH, withoutDates } from "../../redirection/test-netns.ts";
import { DEFAULT_OPTIONS, seededRandom, VARIANTS } from "../../redirection/variants.ts";

await expectNothingLeftAfterwards();

const runner = new ToolRunner();
const folder = mkdtempSync(join(tmpdir(), "ambient-legacy-"));
const lockFolder = join(folder, "locks");
const locks = new LockFiles(lockFolder);
const tools = (await findTools(runner)).legacy as VariantTools;
const engine = legacyEngine();
afterAll(() => rmSync(folder, { recursive: true }));

function legacyEngine(
  changes: { runner?: ToolRunner; tools?: VariantTools; assertUsable?: () => void; timeoutMs?: number } = {},
): LegacyEngine {
  const { assertUsable = () => {}, timeoutMs = 30_000 } = changes;
  const options = { runner: changes.runner ?? runner, timeoutMs, assertUsable, locks };
  const program = new TablesProgram(changes.tools ?? tools, options);
  return new LegacyEngine({ own: REDIRECT_TABLES, program, assertUsable, timeoutMs });
}

function wanted(options: RedirectOptions = DEFAULT_OPTIONS, families = ALL_FAMILIES): WantedRules {
  return wantedRedirection(options, { families, known: ALL_FAMILIES });
}

const saves: Readonly<Record<Family, string>> = { 4: "iptables-legacy-save", 6: "ip6tables-legacy-save" };
const restores: Readonly<Record<Family, string>> = {
  4: "iptables-legacy-restore --noflush",
  6: "ip6tables-legacy-restore --noflush",
};

/** Both families as the program shows them, the tables in one order: the kernel lists them as they came. */
async function shown(pod: TestNetns): Promise<Record<Family, string>> {
  const text = async (family: Family) => {
    const tables = withoutDates(await pod.run(saves[family])).split(/^(?=\*)/m);
    return tables
      .sort()
      .join("")
      .replaceAll(/\[\d+:\d+\]/g, "[0:0]");
  };
  return { 4: await text(4), 6: await text(6) };
}

/** What the program makes of the same rules where nothing else is. */
async function written(options: RedirectOptions): Promise<Record<Family, string>> {
  using pod = await TestNetns.make();
  const told = toldRedirection(options, ALL_FAMILIES);
  for (const family of ALL_FAMILIES) await pod.run(restores[family], renderRestoreText(told, family));
  return await shown(pod);
}

const call = (pod: TestNetns, more: Partial<NetnsCall> = {}): NetnsCall => ({ netns: pod.netns, ...more });

describe.each(Object.entries(VARIANTS))("options %s", (_, options) => {
  test.each([true, false])("give what the program makes of the same text (isNew %s)", async (isNew) => {
    using pod = await TestNetns.make();
    const { before, writes } = await engine.apply(call(pod), wanted(options), { isNew });
    expect(writes).toBe(2);
    expect(before.findings.length).toBeGreaterThan(0);
    expect(await shown(pod)).toEqual(await written(options));
    expect((await engine.verify(call(pod), wanted(options))).findings).toEqual([]);
    // wrongly told that nothing is there, it does in two rounds what takes none
    const again = await engine.apply(call(pod), wanted(options), { isNew });
    expect(again.writes).toBe(isNew ? 4 : 0);
    expect(await shown(pod)).toEqual(await written(options));
  });
});

/** By the program's own list: our chains, the jumps to them, and what else leads there. */
async function isAsTold(pod: TestNetns, options: RedirectOptions, family: Family): Promise<boolean> {
  const told = toldRedirection(options, [family]);
  const tables = parseSave(await pod.run(saves[family]));
  return told.own
    .filter((own) => own.family === family)
    .every(({ table, chains }) => {
      const seen = tables.get(table);
      const names = chains.map(({ chain }) => chain);
      if (!told.wanted.some((each) => each.table === table))
        return names.every((name) => seen?.chains.has(name) !== true);
      const leading = (seen?.rules ?? []).filter(
        ({ chain, tokens }) => !names.includes(chain) && names.includes(targetOf(tokens) ?? ""),
      );
      return (
        names.every((name) => seen?.chains.has(name)) &&
        leading.length === names.length &&
        chains.every(({ chain, hook }) => {
          const rules = (seen?.rules ?? []).filter((rule) => rule.chain === chain);
          const wants = told.rules.filter((rule) => rule.table === table && rule.chain === chain);
          const jumps = leading.filter(
            (rule) => rule.chain === hook && rule.tokens.join(" ") === `-j ${chain}`,
          );
          const texts = (list: readonly string[]) => list.join("\n");
          return (
            texts(rules.map(({ tokens }) => tokens.join(" "))) === texts(wants.map(({ words }) => words)) &&
            jumps.length === 1
          );
        })
      );
    });
}

test("random damage is found exactly when the program shows it, mended, and rules of others stay", async () => {
  const options = { ...DEFAULT_OPTIONS, establishedConnections: "reset" } as const;
  const random = seededRandom(13);
  using pod = await TestNetns.make();
  const foreign = "*nat\n:MINE - [0:0]\n-A MINE -p udp -j RETURN\n-A OUTPUT -j MINE\nCOMMIT\n";
  for (const family of ALL_FAMILIES) await pod.run(restores[family], foreign);
  await engine.apply(call(pod), wanted(options), { isNew: false });
  let damaged = 0;
  for (let round = 0; round < 25; round++) {
    const family: Family = random() < 0.5 ? 4 : 6;
    for (const blow of damage(random)) {
      const text =
        family === 4 ? blow : blow.replaceAll("127.0.0.1/32", "::1/128").replace("10.1.2.0/24", "fd01::/64");
      await pod.run(restores[family], text).catch(() => {});
    }
    const { findings } = await engine.verify(call(pod), wanted(options));
    const isRight = await isAsTold(pod, options, family);
    expect(findings.length === 0, JSON.stringify(findings)).toBe(isRight);
    if (!isRight) damaged++;
    const others = (await shown(pod))[family].split("\n").filter((line) => !line.includes("ISTIO_"));
    const { writes } = await engine.apply(call(pod), wanted(options), { isNew: false });
    expect(writes).toBe(isRight ? 0 : 1);
    expect(await isAsTold(pod, options, family)).toBe(true);
    expect((await shown(pod))[family].split("\n").filter((line) => !line.includes("ISTIO_"))).toEqual(others);
  }
  expect(damaged).toBeGreaterThan(10);
});

describe("what leads into our chains in another way", () => {
  test("is told and taken away, wherever it stands", async () => {
    using pod = await TestNetns.make();
    await engine.apply(call(pod), wanted(), { isNew: true });
    const before = await shown(pod);
    await pod.run(
      restores[4],
      "*nat\n:MINE - [0:0]\n-A MINE -p tcp -j ISTIO_PRERT\n-A MINE -p udp -j RETURN\n-I OUTPUT 1 -p udp -j ISTIO_OUTPUT\n" +
        "-A OUTPUT -g ISTIO_OUTPUT\n-A OUTPUT -j ISTIO_OUTPUT\nCOMMIT\n" +
        "*mangle\n-A INPUT -j ISTIO_PRERT\nCOMMIT\n",
    );
    const { findings, chains } = await engine.verify(call(pod), wanted());
    expect(findings.map(({ kind, chain, detail }) => `${kind} ${chain}: ${detail}`)).toEqual([
      "extra-rule INPUT: -A INPUT leads into ISTIO_PRERT by a rule that is not ours",
      "extra-rule MINE: -A MINE leads into ISTIO_PRERT by a rule that is not ours",
      "duplicate-jump OUTPUT: OUTPUT jumps to ISTIO_OUTPUT 2 times",
      "extra-rule OUTPUT: -A OUTPUT leads into ISTIO_OUTPUT by 2 rules that are not ours",
    ]);
    expect(chains.find(({ table, chain }) => table === "nat" && chain === "ISTIO_PRERT")).toMatchObject({
      jumpCount: 1,
      strays: ["MINE"],
    });
    expect(await engine.apply(call(pod), wanted(), { isNew: false })).toMatchObject({ writes: 1 });
    const lines = (text: string) => text.split("\n").filter((line) => !line.includes("MINE"));
    expect(lines((await shown(pod))[4])).toEqual(lines(before[4]));
    expect((await shown(pod))[4]).toContain("-A MINE -p udp -j RETURN");
  });

  test("stays, untold, where others write all the time, until everything of ours goes", async () => {
    using pod = await TestNetns.make();
    const program = new TablesProgram(tools, { runner, timeoutMs: 30_000, assertUsable: () => {}, locks });
    const shared = { own: REDIRECT_TABLES, program, assertUsable: () => {}, timeoutMs: 30_000 };
    const host = new LegacyEngine({ ...shared, leavesStrays: true });
    await host.apply(call(pod), wanted(), { isNew: true });
    await pod.run(restores[4], "*nat\n-I OUTPUT 1 -p udp -j ISTIO_OUTPUT\nCOMMIT\n");
    expect((await host.verify(call(pod), wanted())).findings).toEqual([]);
    expect(await host.apply(call(pod), wanted(), { isNew: false })).toMatchObject({ writes: 0 });
    expect((await shown(pod))[4]).toContain("-A OUTPUT -p udp -j ISTIO_OUTPUT");
    await host.remove(call(pod));
    expect((await shown(pod))[4]).not.toContain("ISTIO");
  });

  test("is no text: names with control characters are neither printed nor written", async () => {
    using pod = await TestNetns.make();
    await engine.apply(call(pod), wanted(), { isNew: true });
    const name = "\u001b[2Jevil;\u0007";
    await pod.run(
      restores[4],
      `*nat\n:${name} - [0:0]\n-A ${name} -j RETURN\n-A OUTPUT -j ${name}\nCOMMIT\n`,
    );
    expect((await engine.verify(call(pod), wanted())).findings).toEqual([]);
    await pod.run(restores[4], `*nat\n-A ${name} -j ISTIO_OUTPUT\nCOMMIT\n`);
    const told = JSON.stringify(await engine.verify(call(pod), wanted()));
    expect(told).toContain("-A (a chain of others) leads into ISTIO_OUTPUT");
    expect(told).not.toContain("evil");
    const failing = engine.apply(call(pod), wanted(), { isNew: false });
    await expect(failing).rejects.toMatchObject({ code: "NOT_AS_TOLD" });
    await expect(failing).rejects.not.toThrow("evil");
    // ours are empty then, and nothing leads there by a rule that can be named
    await expect(engine.remove(call(pod))).rejects.toMatchObject({ code: "NOT_AS_TOLD" });
    expect((await shown(pod))[4]).not.toMatch(/-A ISTIO|-A (OUTPUT|PREROUTING) -j ISTIO/);
  });
});

test.each([
  ["beside our chains", "PREROUTING"],
  ["in one of them", "ISTIO_OUTPUT"],
])("a target that has nothing to say for itself, %s, hides no rule", async (_, chain) => {
  using pod = await TestNetns.make();
  await engine.apply(call(pod), wanted(), { isNew: true });
  for (const tool of ["iptables-legacy", "ip6tables-legacy"])
    await pod.run(`${tool} -t raw -A ${chain} -j TRACE`);
  const { findings } = await engine.verify(call(pod), wanted());
  expect(findings).toHaveLength(chain === "PREROUTING" ? 0 : 2);
  await engine.apply(call(pod), wanted(), { isNew: false });
  expect((await engine.verify(call(pod), wanted())).findings).toEqual([]);
  expect((await shown(pod))[6].includes("TRACE")).toBe(chain === "PREROUTING");
});

test("rules of ours in other words are not ours, and are told by their length alone", async () => {
  using pod = await TestNetns.make();
  await engine.apply(call(pod), wanted(), { isNew: true });
  await pod.run(
    restores[4],
    '*nat\n-A ISTIO_OUTPUT -m comment --comment "secret words" -j RETURN\n-D ISTIO_PRERT 1\nCOMMIT\n',
  );
  const { findings } = await engine.verify(call(pod), wanted());
  expect(findings.map(({ detail }) => detail)).toEqual([
    "-A ISTIO_PRERT -s 169.254.7.127 -p tcp -j ACCEPT",
    expect.stringMatching(/^-A ISTIO_OUTPUT \(a rule of \d+ bytes that is not ours\)$/),
  ]);
});

describe("a jump that should be the first", () => {
  const table = {
    family: 4,
    table: "nat",
    chains: [{ chain: "ISTIO_POSTRT", hook: "POSTROUTING", isFirst: true }],
  } as const;
  const told = {
    own: [table],
    wanted: [table],
    rules: [toldRule({ family: 4, table: "nat", chain: "ISTIO_POSTRT" }, ["-p", "tcp", "-j", "ACCEPT"])],
  };
  const first: WantedRules = { key: "first", told: () => told, families: [4] };
  const host = new LegacyEngine({
    own: [table],
    program: new TablesProgram(tools, { runner, timeoutMs: 30_000, assertUsable: () => {}, locks }),
    assertUsable: () => {},
    timeoutMs: 30_000,
  });

  test.each([
    ["stands behind another's", "-I POSTROUTING 1 -j MINE", ["jump-not-first"]],
    ["is there twice", "-A POSTROUTING -j ISTIO_POSTRT", ["duplicate-jump"]],
    ["is gone", "-D POSTROUTING -j ISTIO_POSTRT", ["missing-jump"]],
    [
      "is there three times behind another's",
      "-I POSTROUTING 1 -j MINE\n-A POSTROUTING -j ISTIO_POSTRT\n-I POSTROUTING 3 -j ISTIO_POSTRT",
      ["jump-not-first", "duplicate-jump"],
    ],
  ])("and %s, is put right", async (_, lines, kinds) => {
    using pod = await TestNetns.make();
    await pod.run(restores[4], "*nat\n:MINE - [0:0]\n-A MINE -j RETURN\nCOMMIT\n");
    await host.apply(call(pod), first, { isNew: false });
    await pod.run(restores[4], `*nat\n-A POSTROUTING -p udp -j MINE\n${lines}\nCOMMIT\n`);
    expect((await host.verify(call(pod), first)).findings.map(({ kind }) => kind)).toEqual(kinds);
    expect((await host.apply(call(pod), first, { isNew: false })).writes).toBe(1);
    const [top = "", ...others] = (await pod.run("iptables-legacy -t nat -S POSTROUTING"))
      .split("\n")
      .slice(1);
    expect(top).toBe("-A POSTROUTING -j ISTIO_POSTRT");
    expect(others.join("\n")).not.toContain("ISTIO_POSTRT");
    expect(others).toContain("-A POSTROUTING -p udp -j MINE");
  });
});

test("a table that these options do not need is emptied of ours", async () => {
  using pod = await TestNetns.make();
  await engine.apply(call(pod), wanted(), { isNew: true });
  const without = wanted({ ...DEFAULT_OPTIONS, dnsCapture: false });
  const { findings } = await engine.verify(call(pod), without);
  expect(findings.filter(({ kind }) => kind === "unexpected-table")).toMatchObject([
    { family: 4, table: "raw", chain: "" },
    { family: 6, table: "raw", chain: "" },
  ]);
  await engine.apply(call(pod), without, { isNew: false });
  expect((await shown(pod))[4].split("*").find((table) => table.startsWith("raw"))).not.toContain("ISTIO");
});

describe("istio's own form", () => {
  const istios = { ...DEFAULT_OPTIONS, establishedConnections: "reset" } as const;

  test("counts rule by rule and stays", async () => {
    using pod = await TestNetns.make();
    await engine.apply(call(pod), wanted(istios), { isNew: true });
    const before = await shown(pod);
    expect((await engine.verify(call(pod), wanted())).findings).toEqual([]);
    expect(await engine.apply(call(pod), wanted(), { isNew: false })).toMatchObject({ writes: 0 });
    expect(await shown(pod)).toEqual(before);
  });

  test("does not excuse what is wrong beside it", async () => {
    using pod = await TestNetns.make();
    await engine.apply(call(pod), wanted(istios), { isNew: true });
    await pod.run(restores[4], "*nat\n-D OUTPUT -j ISTIO_OUTPUT\nCOMMIT\n");
    const { before } = await engine.apply(call(pod), wanted(), { isNew: false });
    expect(before.findings).toMatchObject([{ kind: "missing-jump", family: 4, chain: "OUTPUT" }]);
    expect((await shown(pod))[4]).toBe((await written(istios))[4]);
  });
});

describe("who only looks", () => {
  test("creates no table, and finds nothing where nothing is", async () => {
    using pod = await TestNetns.make();
    const { findings, chains } = await engine.verify(call(pod), wanted());
    expect(findings.filter(({ kind }) => kind === "missing-chain")).toHaveLength(12);
    expect(chains).toEqual([]);
    expect(await engine.present(call(pod))).toEqual([]);
    expect(await engine.open(call(pod), "nat")).toBe(0);
    expect(await engine.remove(call(pod))).toBe(0);
    const tables = await existingXtablesInNetns(pod.netns.fd, REDIRECT_TABLES);
    expect(tables).toEqual(REDIRECT_TABLES.map(() => undefined));
  });

  test("is told of each chain that is there", async () => {
    using pod = await TestNetns.make();
    await pod.run(restores[6], "*mangle\n:ISTIO_PRERT - [0:0]\n-A PREROUTING -j ISTIO_PRERT\nCOMMIT\n");
    const chain = { family: 6, table: "mangle", chain: "ISTIO_PRERT", words: [], jumpCount: 1, strays: [] };
    expect(await engine.present(call(pod))).toMatchObject([chain]);
  });
});

test("opening takes away what leads into the chains of one table, and nothing else", async () => {
  using pod = await TestNetns.make();
  await engine.apply(call(pod), wanted(), { isNew: true });
  await pod.run(restores[4], "*nat\n-A OUTPUT -p udp -j ISTIO_OUTPUT\n-A OUTPUT -j ISTIO_OUTPUT\nCOMMIT\n");
  expect(await engine.open(call(pod), "nat")).toBe(2);
  const text = (await shown(pod))[4];
  expect(text.split("*").find((table) => table.startsWith("nat"))).not.toMatch(/-A (OUTPUT|PREROUTING)/);
  expect(text.split("*").find((table) => table.startsWith("mangle"))).toMatch(/-A OUTPUT -j ISTIO_OUTPUT/);
  expect(text).toContain("-A ISTIO_OUTPUT");
  expect(await engine.open(call(pod), "nat")).toBe(0);
});

test("removing leaves what others have, in both families", async () => {
  using pod = await TestNetns.make();
  const foreign = "*nat\n:MINE - [0:0]\n-A MINE -p udp -j RETURN\n-A OUTPUT -j MINE\nCOMMIT\n";
  for (const family of ALL_FAMILIES) await pod.run(restores[family], foreign);
  const bare = await shown(pod);
  await engine.apply(call(pod), wanted(), { isNew: false });
  await pod.run(restores[4], "*nat\n-A MINE -j ISTIO_OUTPUT\nCOMMIT\n");
  expect(await engine.remove(call(pod))).toBe(2);
  const nat = (text: string) => text.split("*").find((table) => table.startsWith("nat"));
  for (const family of ALL_FAMILIES) expect(nat((await shown(pod))[family])).toBe(nat(bare[family]));
  expect(await engine.present(call(pod))).toEqual([]);
  expect(await engine.remove(call(pod))).toBe(0);
});

test("50,000 rules of others are neither touched nor waited for", async () => {
  using pod = await TestNetns.make();
  const lines = Array.from(
    { length: 50_000 },
    (_, i) => `-A MINE -d 10.${i >> 16}.${(i >> 8) & 255}.${i & 255} -j RETURN`,
  );
  await pod.run(restores[4], `*nat\n:MINE - [0:0]\n${lines.join("\n")}\n-A OUTPUT -j MINE\nCOMMIT\n`);
  await engine.apply(call(pod), wanted(), { isNew: false });
  const entries = await natEntries(pod);
  const ours = await pod.run("iptables-legacy -t nat -S ISTIO_OUTPUT");
  const base = await pod.run("iptables-legacy -t nat -S OUTPUT");
  const start = performance.now();
  expect((await engine.verify(call(pod), wanted())).findings).toEqual([]);
  const tookMs = performance.now() - start;
  await pod.run(restores[4], "*nat\n-I OUTPUT 1 -p udp -j ISTIO_OUTPUT\n-F ISTIO_OUTPUT\nCOMMIT\n");
  await engine.apply(call(pod), wanted(), { isNew: false });
  expect(await pod.run("iptables-legacy -t nat -S ISTIO_OUTPUT")).toBe(ours);
  expect(await pod.run("iptables-legacy -t nat -S OUTPUT")).toBe(base);
  expect(await natEntries(pod)).toBe(entries);
  // against the seconds that the program takes to print them
  expect(tookMs).toBeLessThan(2000);
});

/** How many rules the kernel has in table nat of IPv4. */
async function natEntries(pod: TestNetns): Promise<number> {
  const table = await xtablesInNetns(pod.netns.fd, 4, "nat");
  return Buffer.from(table).readUInt32LE(76);
}

test("namespaces with large tables keep no look at another one waiting, however many they are", async () => {
  const rule = "-A OUTPUT -d 192.0.2.1/32 -m comment --comment theirs -j RETURN\n";
  const large = await Promise.all(Array.from({ length: 6 }, () => TestNetns.make()));
  using pod = await TestNetns.make();
  try {
    await Promise.all(large.map((each) => each.run(restores[4], `*nat\n${rule.repeat(100_000)}COMMIT\n`)));
    for (const each of [...large, pod]) await engine.apply(call(each), wanted(), { isNew: false });
    const ended: TestNetns[] = [];
    const looks = [...large, pod].map(async (each) => {
      expect((await engine.verify(call(each), wanted())).findings).toEqual([]);
      ended.push(each);
    });
    await Promise.all(looks);
    expect(ended.indexOf(pod)).toBeLessThanOrEqual(1);
  } finally {
    for (const each of large) each[Symbol.dispose]();
  }
});

test("more than is kept apart of our own chain is counted, and goes", async () => {
  using pod = await TestNetns.make();
  await engine.apply(call(pod), wanted(), { isNew: true });
  await pod.run(restores[4], `*nat\n${"-A ISTIO_OUTPUT -j RETURN\n".repeat(3000)}COMMIT\n`);
  const { chains } = await engine.verify(call(pod), wanted());
  const { words = [] } = chains.find(({ table, chain }) => table === "nat" && chain === "ISTIO_OUTPUT") ?? {};
  expect(words.length).toBe(257);
  expect(words.at(-1)).toMatch(/^\(and \d+ rules more\)$/);
  await engine.apply(call(pod), wanted(), { isNew: false });
  expect(await isAsTold(pod, DEFAULT_OPTIONS, 4)).toBe(true);
});

describe("the lock", () => {
  test("is a file that no pod can open: who holds that of the namespace keeps nobody waiting", async () => {
    using pod = await TestNetns.make();
    const program =
      "import fcntl,time;f=open('/proc/self/ns/net');fcntl.flock(f,fcntl.LOCK_EX);print('locked',flush=True);time.sleep(600)";
    const holder = spawn("nsenter", [`--net=/proc/${pod.pid}/ns/net`, "python3", "-c", program], {
      env: { PATH: TOOL_PATH },
      stdio: ["ignore", "pipe", "inherit"],
    });
    try {
      await once(holder.stdout, "data");
      const start = performance.now();
      await engine.apply(call(pod), wanted(), { isNew: true });
      // the program would have waited for five seconds and given up
      expect(performance.now() - start).toBeLessThan(4000);
    } finally {
      holder.kill("SIGKILL");
      await once(holder, "close");
    }
  });

  test("leaves no file behind", async () => {
    using pod = await TestNetns.make();
    await engine.apply(call(pod), wanted(), { isNew: true });
    expect(readdirSync(lockFolder)).toEqual([]);
  });
});

describe("a program", () => {
  /** Programs in place of the installed ones, those of IPv4, with all others beside them. */
  function withRestore(name: string, script: string): ToolRunner {
    const bin = mkdtempSync(join(folder, "bin-"));
    writeFileSync(join(bin, name), `#!/bin/sh\n${script}\n`);
    chmodSync(join(bin, name), 0o755);
    return new ToolRunner({ path: `${bin}:${TOOL_PATH}` });
  }

  test("that does nothing is found out", async () => {
    const marker = join(folder, "is-idle");
    const idle = legacyEngine({
      runner: withRestore(
        "iptables-legacy-restore",
        `[ -e ${marker} ] && exit 0; exec /usr/sbin/iptables-legacy-restore "$@"`,
      ),
    });
    using pod = await TestNetns.make();
    await idle.prepare(wanted());
    writeFileSync(marker, "");
    await expect(idle.apply(call(pod), wanted(), { isNew: true })).rejects.toMatchObject({
      code: "NOT_AS_TOLD",
    });
    rmSync(marker);
    await idle.apply(call(pod), wanted(), { isNew: true });
    expect(await shown(pod)).toEqual(await written(DEFAULT_OPTIONS));
  });

  test("that fails is named, after one run where nothing changed meanwhile", async () => {
    const marker = join(folder, "is-broken");
    const count = join(folder, "count");
    const broken = legacyEngine({
      runner: withRestore(
        "iptables-legacy-restore",
        `[ -e ${marker} ] && { echo >> ${count}; echo broken >&2; exit 4; }; exec /usr/sbin/iptables-legacy-restore "$@"`,
      ),
    });
    using pod = await TestNetns.make();
    await broken.prepare(wanted());
    writeFileSync(marker, "");
    await expect(broken.apply(call(pod), wanted(), { isNew: true })).rejects.toMatchObject({
      code: "TOOL_FAILED",
      stderr: "broken\n",
    });
  });

  test("that cannot make known bytes is a fault of these rules", async () => {
    const broken = legacyEngine({ runner: withRestore("ip6tables-legacy-restore", "exit 3") });
    using pod = await TestNetns.make();
    await expect(broken.apply(call(pod), wanted(), { isNew: true })).rejects.toMatchObject({
      code: "NO_KNOWN_BYTES",
    });
    expect(await engine.present(call(pod))).toEqual([]);
  });

  test("that is not installed is named, when it is needed", async () => {
    const four = legacyEngine({ tools: { ...tools, 6: undefined } });
    using pod = await TestNetns.make();
    const only4 = wantedRedirection(DEFAULT_OPTIONS, { families: [4], known: [4] });
    expect(await four.apply(call(pod), only4, { isNew: false })).toMatchObject({ writes: 1 });
    expect(await four.remove(call(pod))).toBe(1);
    await engine.apply(call(pod), wanted(), { isNew: false });
    await expect(four.remove(call(pod))).rejects.toMatchObject({ code: "TOOL_MISSING" });
  });
});

test("a namespace that must not be used is neither read nor written", async () => {
  using pod = await TestNetns.make();
  const guarded = legacyEngine({
    assertUsable: () => {
      throw new Error("not here");
    },
  });
  for (const work of [
    () => guarded.verify(call(pod), wanted()),
    () => guarded.apply(call(pod), wanted(), { isNew: false }),
    () => guarded.open(call(pod), "nat"),
    () => guarded.remove(call(pod)),
  ])
    await expect(work()).rejects.toThrow("not here");
  expect(await engine.present(call(pod))).toEqual([]);
});
