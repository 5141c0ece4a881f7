// SPDX-License-Identifier: Apache-2.0
// Redirection against the real kernel and the real iptables programs, in namespaces of its own.

import { execFileSync } from "node:child_process";
import { chmodSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { NOBODYS_LOCK } from "../../src/linux/lock-files.ts";
import { Netns } from "../../src/linux/netns.ts";
import { ToolRunner } from "../../src/linux/run-tool.ts";
import type { Family } from "../../src/netfilter/family.ts";
import { parseSave } from "../../src/netfilter/save-parser.ts";
import type { RedirectBackend } from "../../src/netfilter/variant.ts";
import type { Variant } from "../../src/netfilter/variant-tools.ts";
import { desiredChains, fingerprint } from "../../src/redirection/fingerprint.ts";
import { PodRedirection } from "../../src/redirection/pod-redirection.ts";
import type { RedirectOptions } from "../../src/redirection/rules.ts";
import { damage } from "../redirection/damage.ts";
import {
  childCommands,
  expectNothingLeftAfterwards,
  installedBackends,
  ourRules,
  redirection,
  saveTool,
} from "../redirection/installed-backends.ts";
import { observedState } from "../redirection/saved-state.ts";
import { TestNetns, TOOL_PATH, withoutDates } from "../redirection/test-netns.ts";
import { DEFAULT_OPTIONS, FAMILIES, seededRandom, VARIANTS } from "../redirection/variants.ts";
import { patience } from "../support/node/patience.ts";

const runner = new ToolRunner();
const { nft, legacy } = await installedBackends(runner);
await expectNothingLeftAfterwards();

function fixture(name: string, tool: { family: Family; variant: Variant }): string {
  const url = new URL(`../netfilter/fixtures/${name}.v${tool.family}.${tool.variant}.save`, import.meta.url);
  return withoutDates(readFileSync(url, "utf8"));
}

/** Tables in alphabetical order: the tools print them in the order they were made. */
function sortTables(text: string): string {
  return text
    .split(/^(?=\*)/m)
    .sort()
    .join("");
}

async function routes(pod: TestNetns): Promise<string> {
  const outputs = await Promise.all(
    ["ip rule show pref 32764", "ip -6 rule show pref 32764"].map((command) => pod.run(command)),
  );
  const tables = ["ip route show table 100", "ip -6 route show table 100"];
  for (const command of tables) outputs.push(await pod.run(command).catch(() => ""));
  return outputs.join("");
}

describe.each(["nft", "legacy"] as const)("with iptables-%s", (variant) => {
  const backend = () => (variant === "nft" ? nft : legacy);

  test.each(Object.entries(VARIANTS))(
    "a fresh namespace gets exactly the rules of variant %s",
    async (name, options) => {
      using pod = await TestNetns.make();
      const report = await redirection(backend()).apply(pod.netns, options);
      // one batch for both families, or a program for each
      const writes = variant === "nft" ? 1 : 2;
      expect(report).toMatchObject({ changed: true, writes, skippedFamilies: [] });
      for (const family of FAMILIES) {
        const saved = await pod.save(saveTool(family, variant));
        expect(sortTables(saved)).toBe(sortTables(fixture(name, { family, variant })));
      }
      const routing = await routes(pod);
      expect(routing.match(/32764:\tfrom all fwmark 0x111\/0xfff lookup 100/g)).toHaveLength(2);
      expect(routing.match(/local default dev lo/g)).toHaveLength(2);
    },
  );

  test("a second apply and a check write nothing", async () => {
    using pod = await TestNetns.make();
    const redirect = redirection(backend());
    await redirect.apply(pod.netns, DEFAULT_OPTIONS);
    const saves = () => Promise.all(FAMILIES.map((family) => pod.run(`${saveTool(family, variant)} -c`)));
    const before = (await saves()).map(withoutDates);
    const handlesBefore = await pod.handles();
    const started = runner.startedCount;
    const report = await redirect.apply(pod.netns, DEFAULT_OPTIONS);
    expect(report).toMatchObject({ changed: false, writes: 0, repaired: [], skippedFamilies: [] });
    expect(await redirect.verify(pod.netns, DEFAULT_OPTIONS)).toMatchObject({ intact: true, drift: [] });
    expect(runner.startedCount - started).toBe(0);
    expect((await saves()).map(withoutDates)).toEqual(before);
    expect(await pod.handles()).toBe(handlesBefore);
  });

  test.each(["default", "reset-default"])(
    "rules that istio-cni wrote are taken over as they are with options %s",
    async (name) => {
      using pod = await TestNetns.make();
      const options = VARIANTS[name]!;
      for (const family of FAMILIES) {
        const golden = readFileSync(
          new URL(`../redirection/golden/reset-default.v${family}.rules`, import.meta.url),
          "utf8",
        );
        const asIstio = golden
          .replaceAll(/^:(\S+) - \[0:0\]$/gm, "-N $1")
          .replaceAll(/^\*/gm, "* ")
          .replace(
            "-m udp --dport 53 -j REDIRECT --to-ports 15053",
            "-m udp --dport 53 -j REDIRECT --to-port 15053",
          );
        expect(asIstio).toContain("--to-port 15053\n");
        await pod.run(`${saveTool(family, variant).replace("save", "restore")} --noflush`, asIstio);
      }
      const handles = await pod.handles();
      const redirect = redirection(backend());
      const report = await redirect.apply(pod.netns, options);
      expect(report.repaired.map(({ kind }) => kind).sort()).toEqual([
        "missing-ip-rule",
        "missing-ip-rule",
        "missing-route",
        "missing-route",
      ]);
      expect(report.writes).toBe(0);
      for (let look = 0; look < 2; look++) {
        const { intact, fingerprints } = await redirect.verify(pod.netns, options);
        expect(intact).toBe(true);
        expect(fingerprints.get(4)).toBe(fingerprint(desiredChains(options, 4)));
      }
      expect(await redirect.apply(pod.netns, options)).toMatchObject({ changed: false, writes: 0 });
      expect(await pod.handles()).toBe(handles);
    },
  );

  test("a live namespace follows every change of options and back", async () => {
    using pod = await TestNetns.make();
    const redirect = redirection(backend());
    for (const name of [
      "default",
      "no-dns",
      "default",
      "ingress",
      "virtual-interfaces",
      "ingress-virtual-interfaces-no-dns",
      "default",
      "reset-default",
      "reset-no-dns",
    ]) {
      const options = VARIANTS[name]!;
      expect((await redirect.apply(pod.netns, options)).changed).toBe(true);
      for (const family of FAMILIES) {
        const state = observedState(parseSave(await pod.run(saveTool(family, variant))));
        expect(state).toEqual(observedState(parseSave(fixture(name, { family, variant }))));
      }
      expect((await redirect.apply(pod.netns, options)).writes).toBe(0);
    }
  });

  test("rules of others survive everything, and are all that is left in the end", async () => {
    using pod = await TestNetns.make();
    const redirect = redirection(backend());
    const ipt = `iptables-${variant}`;
    const before = ["mangle", "nat", "raw"].map(
      (table) => `${ipt} -t ${table} -A PREROUTING -s 192.0.2.1 -j ACCEPT`,
    );
    await pod.run(`${ipt} -t nat -N FOREIGN`);
    for (const command of [
      ...before,
      `${ipt} -t nat -A OUTPUT -p tcp -j FOREIGN`,
      `${ipt} -t nat -A FOREIGN -m comment --comment -j -j RETURN`,
      `${ipt} -A INPUT -j ACCEPT`,
    ]) {
      await pod.run(command);
    }
    await redirect.apply(pod.netns, DEFAULT_OPTIONS);
    for (const table of ["mangle", "nat", "raw"]) {
      await pod.run(`${ipt} -t ${table} -A PREROUTING -s 192.0.2.2 -j ACCEPT`);
      await pod.run(`${ipt} -t ${table} -I OUTPUT -d 192.0.2.3 -j ACCEPT`);
    }
    const foreign = async () =>
      (await pod.save(saveTool(4, variant))).replaceAll(/^.*ISTIO_(PRERT|OUTPUT).*\n/gm, "");
    const foreignBefore = await foreign();
    expect(foreignBefore.match(/192\.0\.2/g)).toHaveLength(9);
    await pod.run(`${ipt} -t nat -F ISTIO_OUTPUT`);
    await pod.run(`${ipt} -t nat -A PREROUTING -j ISTIO_PRERT`);
    expect((await redirect.apply(pod.netns, VARIANTS["no-dns"]!)).changed).toBe(true);
    expect(await foreign()).toBe(foreignBefore);
    expect(await redirect.remove(pod.netns)).toEqual({ changed: true });
    expect(await pod.save(saveTool(4, variant))).toBe(foreignBefore);
    expect(await pod.save(saveTool(6, variant))).not.toContain("ISTIO");
    expect(await routes(pod)).toBe("");
    const handles = await pod.handles();
    expect(await redirect.remove(pod.netns)).toEqual({ changed: false });
    expect(await pod.handles()).toBe(handles);
  });

  test("random damage is repaired", async () => {
    const redirect = redirection(backend());
    const names = Object.keys(VARIANTS);
    for (let seed = 0; seed < 6; seed++) {
      using pod = await TestNetns.make();
      const random = seededRandom(seed);
      const pick = () => VARIANTS[names[Math.floor(random() * names.length)]!]!;
      await redirect.apply(pod.netns, pick());
      for (const text of damage(random)) {
        const tool = random() < 0.5 ? "iptables" : "ip6tables";
        await pod.run(`${tool}-${variant}-restore --noflush`, text).catch(() => {});
      }
      const options = pick();
      await redirect.apply(pod.netns, options);
      expect(await redirect.verify(pod.netns, options)).toMatchObject({ intact: true, drift: [] });
      // What verify says is not taken on trust: a verifier that has seen nothing yet must say the same.
      expect((await redirection(backend()).verify(pod.netns, options)).drift).toEqual([]);
      await redirect.remove(pod.netns);
      expect(await ourRules(pod, variant)).toBe(0);
    }
  });
});

const PLANTED: readonly [string, string[], object[]][] = [
  [
    "a rule is deleted",
    ["iptables-nft -t nat -D ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -j ACCEPT"],
    [
      {
        kind: "missing-rule",
        family: 4,
        table: "nat",
        chain: "ISTIO_OUTPUT",
        detail: "-A ISTIO_OUTPUT ! -d 127.0.0.1 -o lo -j ACCEPT",
      },
    ],
  ],
  [
    "a rule is added",
    ["ip6tables-nft -t mangle -I ISTIO_PRERT -j RETURN"],
    [
      {
        kind: "extra-rule",
        family: 6,
        table: "mangle",
        chain: "ISTIO_PRERT",
        detail: expect.stringMatching(/^-A ISTIO_PRERT \(a rule of \d+ bytes that is not ours\)$/),
      },
    ],
  ],
  [
    "rules change places",
    [
      "iptables-nft -t nat -D ISTIO_OUTPUT 1",
      "iptables-nft -t nat -A ISTIO_OUTPUT -d 169.254.7.127/32 -p tcp -m tcp -j ACCEPT",
    ],
    [{ kind: "reordered", family: 4, table: "nat", chain: "ISTIO_OUTPUT" }],
  ],
  [
    "a chain is emptied",
    ["iptables-nft -t raw -F ISTIO_PRERT"],
    [{ kind: "missing-rule", family: 4, table: "raw", chain: "ISTIO_PRERT" }],
  ],
  [
    "a chain is removed",
    [
      "ip6tables-nft -t raw -D OUTPUT -j ISTIO_OUTPUT",
      "ip6tables-nft -t raw -F ISTIO_OUTPUT",
      "ip6tables-nft -t raw -X ISTIO_OUTPUT",
    ],
    [
      { kind: "missing-chain", family: 6, table: "raw", chain: "ISTIO_OUTPUT" },
      { kind: "missing-jump", family: 6, table: "raw", chain: "OUTPUT" },
    ],
  ],
  [
    "a jump is deleted",
    ["iptables-nft -t mangle -D OUTPUT -j ISTIO_OUTPUT"],
    [
      {
        kind: "missing-jump",
        family: 4,
        table: "mangle",
        chain: "OUTPUT",
        detail: "OUTPUT does not jump to ISTIO_OUTPUT",
      },
    ],
  ],
  [
    "a jump is doubled",
    ["iptables-nft -t nat -I PREROUTING -j ISTIO_PRERT", "iptables-nft -t nat -I PREROUTING -j ISTIO_PRERT"],
    [
      {
        kind: "duplicate-jump",
        family: 4,
        table: "nat",
        chain: "PREROUTING",
        detail: "PREROUTING jumps to ISTIO_PRERT 3 times",
      },
    ],
  ],
  [
    "a jump gets a condition",
    ['iptables-nft -t nat -I PREROUTING -p tcp -m comment --comment "x" -g ISTIO_PRERT'],
    [{ kind: "extra-rule", family: 4, table: "nat", chain: "PREROUTING" }],
  ],
  [
    "all tables are flushed",
    ["nft flush ruleset"],
    [4, 6].flatMap((family) =>
      ["mangle", "nat", "raw"].flatMap((table) => [
        { kind: "missing-chain", family, table, chain: "ISTIO_PRERT" },
        { kind: "missing-jump", family, table, chain: "PREROUTING" },
        { kind: "missing-chain", family, table, chain: "ISTIO_OUTPUT" },
        { kind: "missing-jump", family, table, chain: "OUTPUT" },
      ]),
    ),
  ],
  [
    "the ip rule is deleted",
    ["ip rule del pref 32764"],
    [{ kind: "missing-ip-rule", family: 4, table: "100" }],
  ],
  [
    "the route is deleted",
    ["ip -6 route flush table 100"],
    [{ kind: "missing-route", family: 6, table: "100" }],
  ],
];

describe("drift in the kernel", () => {
  const redirect = () => redirection(nft);

  test.each(PLANTED)("is named and repaired when %s", async (_, commands, drift) => {
    using pod = await TestNetns.make();
    const redirected = redirect();
    await redirected.apply(pod.netns, DEFAULT_OPTIONS);
    const good = sortTables(
      (await pod.save()) + (await pod.save("ip6tables-nft-save")) + (await routes(pod)),
    );
    for (const command of commands) await pod.run(command);
    const verification = await redirected.verify(pod.netns, DEFAULT_OPTIONS);
    expect(verification.intact).toBe(false);
    for (const each of drift) expect(verification.drift).toContainEqual(expect.objectContaining(each));
    expect(verification.drift).toHaveLength(drift.length);
    const report = await redirected.apply(pod.netns, DEFAULT_OPTIONS);
    expect(report.changed).toBe(true);
    expect(report.repaired).toEqual(verification.drift);
    expect((await redirected.verify(pod.netns, DEFAULT_OPTIONS)).intact).toBe(true);
    expect(
      sortTables((await pod.save()) + (await pod.save("ip6tables-nft-save")) + (await routes(pod))),
    ).toBe(good);
  });

  test("raw tables are unexpected once DNS is not captured", async () => {
    using pod = await TestNetns.make();
    await redirect().apply(pod.netns, DEFAULT_OPTIONS);
    const { drift } = await redirect().verify(pod.netns, VARIANTS["no-dns"]!);
    expect(drift.filter(({ kind }) => kind === "unexpected-table")).toMatchObject([
      { family: 4, table: "raw" },
      { family: 6, table: "raw" },
    ]);
  });

  test("a rule in other bytes, though it says the same, becomes ours without a process", async () => {
    using pod = await TestNetns.make();
    const redirected = redirect();
    await redirected.apply(pod.netns, DEFAULT_OPTIONS);
    const good = await pod.save();
    await pod.run(
      "iptables-nft -t nat -R ISTIO_OUTPUT 1 -d 169.254.7.127 -p tcp -m comment --comment probes -j ACCEPT",
    );
    await redirected.apply(pod.netns, DEFAULT_OPTIONS);
    const started = runner.startedCount;
    await pod.run("iptables-nft -t nat -F ISTIO_OUTPUT");
    expect(await redirected.apply(pod.netns, DEFAULT_OPTIONS)).toMatchObject({ changed: true, writes: 1 });
    expect(runner.startedCount).toBe(started);
    expect(await pod.save()).toBe(good);
  });

  test("a table that iptables cannot show is as good as any", async () => {
    using pod = await TestNetns.make();
    await redirect().apply(pod.netns, DEFAULT_OPTIONS);
    await pod.run("iptables-nft -t nat -F ISTIO_OUTPUT");
    await pod.run("nft add rule ip nat PREROUTING meta hour 5-6 accept");
    expect((await redirect().apply(pod.netns, DEFAULT_OPTIONS)).repaired.length).toBe(6);
    expect((await redirect().verify(pod.netns, DEFAULT_OPTIONS)).intact).toBe(true);
    expect(await pod.run("nft list chain ip nat PREROUTING")).toContain("meta hour");
  });

  test("what only its doer can end is a fault that names it", async () => {
    using pod = await TestNetns.make();
    await redirect().apply(pod.netns, DEFAULT_OPTIONS);
    await pod.run("nft add table ip nat { flags dormant ; }");
    const fault = { name: "RedirectionError", code: "TABLE_DORMANT" };
    await expect(redirect().verify(pod.netns, DEFAULT_OPTIONS)).rejects.toMatchObject(fault);
    await expect(redirect().apply(pod.netns, DEFAULT_OPTIONS)).rejects.toMatchObject(fault);
  });

  test("a rule of another chain that leads into ours is taken away, and nothing else of that chain", async () => {
    using pod = await TestNetns.make();
    const redirected = redirect();
    await redirected.apply(pod.netns, DEFAULT_OPTIONS);
    await pod.run("iptables-nft -t nat -N THEIRS");
    await pod.run("iptables-nft -t nat -A THEIRS -p icmp -j RETURN");
    await pod.run("iptables-nft -t nat -A THEIRS -j ISTIO_OUTPUT");
    const report = await redirected.apply(pod.netns, DEFAULT_OPTIONS);
    expect(report.repaired).toMatchObject([{ kind: "extra-rule", chain: "THEIRS" }]);
    expect(report).not.toHaveProperty("fallback");
    expect(await pod.save()).toContain("-A THEIRS -p icmp -j RETURN");
    expect((await redirected.verify(pod.netns, DEFAULT_OPTIONS)).intact).toBe(true);
    await pod.run("iptables-nft -t nat -A THEIRS -j ISTIO_OUTPUT");
    expect(await redirected.open(pod.netns)).toEqual({ changed: true });
    expect(await pod.save()).not.toContain("-A THEIRS -j");
    await pod.run("iptables-nft -t nat -A THEIRS -j ISTIO_OUTPUT");
    expect(await redirected.remove(pod.netns)).toEqual({ changed: true });
    expect(await pod.save()).not.toContain("ISTIO");
  });
});

describe("cost", () => {
  test.each([
    ["takes four processes", false],
    ["takes none where they were prepared", true],
  ])("the first pod of a variant %s, the next ones and a check take none", async (_, isPrepared) => {
    const startedAtFirst = runner.startedCount;
    const redirect = redirection(nft);
    const counts: number[] = [];
    if (isPrepared) {
      await redirect.prepare(DEFAULT_OPTIONS);
      expect(runner.startedCount - startedAtFirst).toBe(4);
    }
    for (let index = 0; index < 3; index++) {
      using pod = await TestNetns.make();
      const before = runner.startedCount;
      const { writes } = await redirect.apply(pod.netns, DEFAULT_OPTIONS, { isNew: true });
      counts.push(runner.startedCount - before);
      expect(writes).toBe(1);
      const checked = runner.startedCount;
      expect((await redirect.verify(pod.netns, DEFAULT_OPTIONS)).intact).toBe(true);
      expect(runner.startedCount).toBe(checked);
    }
    expect(counts).toEqual([isPrepared ? 0 : 4, 0, 0]);
  });

  test("a new pod takes two processes with iptables-legacy, and one that is not new after all becomes right too", async () => {
    using pod = await TestNetns.make();
    const redirect = redirection(legacy);
    await redirect.prepare(VARIANTS["no-dns"]!);
    const before = runner.startedCount;
    await redirect.apply(pod.netns, VARIANTS["no-dns"]!, { isNew: true });
    expect(runner.startedCount - before).toBe(2);
    await redirect.apply(pod.netns, DEFAULT_OPTIONS, { isNew: true });
    for (const family of FAMILIES) {
      const saved = await pod.save(saveTool(family, "legacy"));
      expect(sortTables(saved)).toBe(sortTables(fixture("default", { family, variant: "legacy" })));
    }
  });

  test("after a restart four processes serve all pods, and nothing is written", async () => {
    const pods = await Promise.all(Array.from({ length: 4 }, () => TestNetns.make()));
    try {
      const before = redirection(nft);
      for (const pod of pods) await before.apply(pod.netns, DEFAULT_OPTIONS);
      const after = redirection(nft);
      const started = runner.startedCount;
      for (const { netns } of pods) {
        expect(await after.apply(netns, DEFAULT_OPTIONS)).toMatchObject({
          changed: false,
          writes: 0,
        });
      }
      expect(runner.startedCount - started).toBe(4);
    } finally {
      for (const pod of pods) pod[Symbol.dispose]();
    }
  });

  test("one variant's good rules are not another's", async () => {
    using pod = await TestNetns.make();
    const redirect = redirection(nft);
    await redirect.apply(pod.netns, VARIANTS["no-dns"]!);
    await redirect.apply(pod.netns, DEFAULT_OPTIONS);
    expect((await redirect.verify(pod.netns, VARIANTS["no-dns"]!)).intact).toBe(false);
  });

  test("ten namespaces at once are all redirected", async () => {
    const redirect = redirection(nft);
    const pods = await Promise.all(Array.from({ length: 10 }, () => TestNetns.make()));
    try {
      const reports = await Promise.all(
        pods.map(({ netns }) => redirect.apply(netns, DEFAULT_OPTIONS, { isNew: true })),
      );
      expect(reports.map(({ writes }) => writes)).toEqual(pods.map(() => 1));
      for (const pod of pods) expect(await pod.save()).toBe(await pods[0]!.save());
      const gone = await Promise.all(pods.map(({ netns }) => redirect.remove(netns)));
      expect(gone.every(({ changed }) => changed)).toBe(true);
    } finally {
      for (const pod of pods) pod[Symbol.dispose]();
    }
  });

  test("two applies to one namespace at the same moment leave it right", async () => {
    using pod = await TestNetns.make();
    const redirect = redirection(nft);
    await Promise.all([
      redirect.apply(pod.netns, DEFAULT_OPTIONS),
      redirect.apply(pod.netns, DEFAULT_OPTIONS),
    ]);
    expect((await redirection(nft).verify(pod.netns, DEFAULT_OPTIONS)).drift).toEqual([]);
  });
});

describe("namespaces that are refused", () => {
  test("the host's is never written", async () => {
    using pod = await TestNetns.make();
    const redirect = new PodRedirection({ backend: nft, hostNetns: new Set([pod.netns.key]), ipv6: true });
    const started = runner.startedCount;
    for (const attempt of [
      () => redirect.apply(pod.netns, DEFAULT_OPTIONS),
      () => redirect.verify(pod.netns, DEFAULT_OPTIONS),
      () => redirect.remove(pod.netns),
    ]) {
      await expect(attempt()).rejects.toMatchObject({ name: "RedirectionError", code: "HOST_NETNS" });
    }
    expect(runner.startedCount).toBe(started);
    expect(await pod.run("nft list ruleset")).toBe("");
    expect(await routes(pod)).toBe("");
  });

  test("a closed handle is never used", async () => {
    using pod = await TestNetns.make();
    const netns = Netns.open(`/proc/${pod.pid}/ns/net`);
    netns.close();
    await expect(redirection(nft).apply(netns, DEFAULT_OPTIONS)).rejects.toMatchObject({
      code: "NETNS_CLOSED",
    });
  });

  test("a handle that is closed while a call waits for its turn is not used, nor is what has its number then", async () => {
    using pod = await TestNetns.make();
    using other = await TestNetns.make();
    const oneAtATime = new ToolRunner({ maxParallel: 1 });
    const redirect = redirection({ ...legacy, runner: oneAtATime });
    const netns = Netns.open(`/proc/${pod.pid}/ns/net`);
    const folder = mkdtempSync(join(tmpdir(), "ambient-redirect-"));
    const gate = join(folder, "gate");
    execFileSync("mkfifo", [gate]);
    // takes the only turn until somebody writes, however slow the machine is
    const busy = oneAtATime.run({ argv: ["cat", gate], timeoutMs: 60_000 });
    const applying = redirect.apply(netns, DEFAULT_OPTIONS, { isNew: true });
    await expect.poll(() => routes(pod), { timeout: 2000 * patience() }).toContain("lookup 100");
    const { fd } = netns;
    netns.close();
    using reused = Netns.open(`/proc/${other.pid}/ns/net`);
    expect(reused.fd).toBe(fd);
    writeFileSync(gate, "");
    await expect(applying).rejects.toThrow(/its handle is closed/);
    await busy;
    rmSync(folder, { recursive: true });
    expect(readFileSync(join(other.procNetDir, "ip_tables_names"), "utf8")).toBe("");
  });

  test("without host namespaces to refuse nothing starts", () => {
    expect(() => new PodRedirection({ backend: nft, hostNetns: new Set(), ipv6: true })).toThrow(RangeError);
  });
});

describe("IPv6", () => {
  test("is skipped and reported when it is off in the namespace, and caught up with when it is on again", async () => {
    using pod = await TestNetns.make();
    const redirect = redirection(nft);
    const set = (value: number) =>
      pod.run(`sysctl -qw net.ipv6.conf.all.disable_ipv6=${value} net.ipv6.conf.lo.disable_ipv6=${value}`);
    await set(1);
    const report = await redirect.apply(pod.netns, DEFAULT_OPTIONS);
    expect(report).toMatchObject({ writes: 1, skippedFamilies: [{ family: 6, part: "all" }] });
    expect(await redirect.verify(pod.netns, DEFAULT_OPTIONS)).toMatchObject({
      intact: true,
      skippedFamilies: [{ family: 6 }],
    });
    expect(await pod.save("ip6tables-nft-save")).not.toContain("ISTIO");
    await set(0);
    expect((await redirect.verify(pod.netns, DEFAULT_OPTIONS)).intact).toBe(false);
    expect(await redirect.apply(pod.netns, DEFAULT_OPTIONS)).toMatchObject({
      changed: true,
      writes: 1,
      skippedFamilies: [],
    });
  });

  test("keeps its rules when only the loopback device has none", async () => {
    using pod = await TestNetns.make();
    await pod.run("ip link add eth0 type veth peer name eth1");
    await pod.run("ip addr add fd00::5/64 dev eth0 nodad");
    await pod.run("sysctl -qw net.ipv6.conf.lo.disable_ipv6=1");
    const redirect = redirection(nft);
    expect(await redirect.apply(pod.netns, DEFAULT_OPTIONS)).toMatchObject({
      writes: 1,
      skippedFamilies: [{ family: 6, part: "routing" }],
    });
    expect(await pod.save("ip6tables-nft-save")).toContain("--to-ports 15001");
    expect(await redirect.apply(pod.netns, DEFAULT_OPTIONS)).toMatchObject({ changed: false, writes: 0 });
  });

  test.each([false, true])("is left alone when it is switched off (a new namespace: %s)", async (isNew) => {
    using pod = await TestNetns.make();
    const redirect = redirection(nft, { ipv6: false });
    const report = await redirect.apply(pod.netns, DEFAULT_OPTIONS, { isNew });
    expect(report).toMatchObject({ writes: 1, skippedFamilies: [] });
    expect(report.repaired.filter(({ family }) => family === 6)).toEqual([]);
    expect(await pod.save("ip6tables-nft-save")).toBe("");
    expect((await routes(pod)).match(/32764/g)).toHaveLength(1);
    expect((await redirect.verify(pod.netns, DEFAULT_OPTIONS)).intact).toBe(true);
  });

  test("is expected of a new namespace as the last one had it, and what was expected wrongly is put right", async () => {
    const redirect = redirection(nft);
    const enrol = async (has6: boolean) => {
      using pod = await TestNetns.make();
      if (!has6) await pod.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.lo.disable_ipv6=1");
      const report = await redirect.apply(pod.netns, DEFAULT_OPTIONS, { isNew: true });
      const skipped = report.skippedFamilies.map(({ family }) => family);
      const rules6 = (await pod.save("ip6tables-nft-save")).includes("ISTIO");
      const state = await redirect.verify(pod.netns, DEFAULT_OPTIONS);
      expect(await redirect.apply(pod.netns, DEFAULT_OPTIONS)).toMatchObject({ changed: false, writes: 0 });
      return {
        skipped,
        rules6,
        intact: state.intact,
        families: [...new Set(report.repaired.map(({ family }) => family))].sort(),
      };
    };
    const with6 = { skipped: [], rules6: true, intact: true, families: [4, 6] };
    const without6 = { skipped: [6], rules6: false, intact: true, families: [4] };
    const pods = [true, false, false, true, true];
    for (const has6 of pods) expect(await enrol(has6)).toEqual(has6 ? with6 : without6);
  });

  test("cannot be wanted without its programs", () => {
    const backend = { ...nft, installed: { nft: { ...nft.installed.nft!, 6: undefined } } };
    expect(() => redirection(backend)).toThrow("AMBIENT_IPV6=false");
    expect(() => redirection(backend, { ipv6: false })).not.toThrow();
  });
});

describe("a namespace in which nothing was seen a moment ago", () => {
  test("is written route first, with what its routing has; one that is not so after all becomes right too", async () => {
    using pod = await TestNetns.make();
    const redirect = redirection(nft);
    const first = await redirect.apply(pod.netns, DEFAULT_OPTIONS, { isUntouched: true });
    expect(first).toMatchObject({ changed: true, writes: 1 });
    const whole = await pod.save();
    await pod.run("iptables-nft -t nat -F ISTIO_OUTPUT");
    await pod.run("ip rule delete fwmark 0x111/0xfff");
    const again = await redirect.apply(pod.netns, DEFAULT_OPTIONS, { isUntouched: true });
    expect(again.changed).toBe(true);
    expect(await pod.save()).toBe(whole);
    expect((await redirect.verify(pod.netns, DEFAULT_OPTIONS)).intact).toBe(true);
  });

  test("gets nothing while its loopback device is down, however often it is tried", async () => {
    using pod = await TestNetns.make();
    const redirect = redirection(nft);
    await pod.run("sysctl -qw net.ipv6.conf.lo.disable_ipv6=1");
    await pod.run("ip link set lo down");
    for (const isUntouched of [true, false])
      await expect(redirect.apply(pod.netns, DEFAULT_OPTIONS, { isUntouched })).rejects.toMatchObject({
        code: "ENETDOWN",
      });
    expect(await pod.run("ip rule show")).not.toContain("0x111");
    expect(await pod.save()).not.toContain("ISTIO");
  });
});

test("a running pod's loopback device is brought up where that is asked for, and what ended with it is put back", async () => {
  using pod = await TestNetns.make();
  const redirect = redirection(nft);
  await redirect.apply(pod.netns, DEFAULT_OPTIONS);
  const lists = ["-o address show lo", "route show table all", "-6 route show table all", "rule", "-6 rule"];
  const state = () => Promise.all(lists.map((list) => pod.run(`ip ${list}`)));
  const whole = await state();
  await pod.run("ip link set lo down");
  expect(await redirect.verify(pod.netns, DEFAULT_OPTIONS)).toMatchObject({
    intact: false,
    drift: [{ kind: "loopback-down" }, { kind: "missing-route", family: 6 }],
  });
  await expect(redirect.apply(pod.netns, DEFAULT_OPTIONS)).rejects.toMatchObject({ code: "ENETDOWN" });
  const report = await redirect.apply(pod.netns, DEFAULT_OPTIONS, { raisesLoopback: true });
  expect(report).toMatchObject({ changed: true, writes: 0 });
  expect(report.repaired.map(({ kind, family, detail }) => `${kind} ${family} ${detail}`)).toEqual([
    "loopback-down 4 the device lo is down",
    "missing-route 6 no route local default dev lo table 100",
  ]);
  expect(await state()).toEqual(whole);
  expect(await redirect.apply(pod.netns, DEFAULT_OPTIONS, { raisesLoopback: true })).toMatchObject({
    changed: false,
  });
});

test("a new namespace whose loopback device comes up late is waited for, and has everything then", async () => {
  using pod = await TestNetns.make();
  await pod.run("ip link set lo down");
  const redirect = redirection(nft);
  const applying = redirect.apply(pod.netns, DEFAULT_OPTIONS, { isNew: true });
  await expect.poll(() => pod.save()).toContain("ISTIO_PRERT");
  const settled = vi.fn();
  void applying.finally(settled).catch(() => {});
  expect(await pod.run("ip -6 route show table 100").catch(() => "")).not.toContain("local default");
  expect(settled).not.toHaveBeenCalled();
  await pod.run("ip link set lo up");
  expect(await applying).toMatchObject({ changed: true, skippedFamilies: [] });
  expect(await redirect.verify(pod.netns, DEFAULT_OPTIONS)).toMatchObject({ intact: true });
  expect(await redirect.apply(pod.netns, DEFAULT_OPTIONS)).toMatchObject({ changed: false, writes: 0 });
});

describe("programs that fail", () => {
  let folder: string;

  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "ambient-redirect-"));
    for (const tool of ["nsenter", "sleep", "cat", "sh"]) {
      symlinkSync(
        execFileSync("which", [tool], { env: { PATH: TOOL_PATH }, encoding: "utf8" }).trim(),
        join(folder, tool),
      );
    }
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  function withScript(name: string, script: string): RedirectBackend {
    const path = join(folder, name);
    writeFileSync(path, `#!/bin/sh\n${script}\n`);
    chmodSync(path, 0o755);
    const tools = { save: path, restore: path };
    return { ...nft, installed: { nft: { variant: "nft", 4: tools, 6: tools } } };
  }

  test("a missing program is named with the remedy", async () => {
    using pod = await TestNetns.make();
    const tools = { save: "iptables-gone-save", restore: "iptables-gone-restore" };
    const backend: RedirectBackend = { ...nft, installed: { nft: { variant: "nft", 4: tools, 6: tools } } };
    await expect(
      redirection(backend, { ipv6: false }).apply(pod.netns, DEFAULT_OPTIONS),
    ).rejects.toMatchObject({
      code: "NO_KNOWN_BYTES",
      message: expect.stringMatching(/"iptables-gone-restore".*image must hold iptables/),
    });
  });

  test("a failing program is reported with its words and the line it means", async () => {
    using pod = await TestNetns.make();
    const backend = withScript(
      "failing",
      "cat >/dev/null; echo 'iptables-restore: line 6 failed: No chain' >&2; exit 1",
    );
    await expect(redirection(backend).apply(pod.netns, DEFAULT_OPTIONS)).rejects.toMatchObject({
      code: "NO_KNOWN_BYTES",
      message: expect.stringContaining("line 6 failed: No chain"),
      cause: {
        cause: {
          code: "TOOL_FAILED",
          exitCode: 1,
          inputLine: expect.stringContaining("-A ISTIO_PRERT -m mark"),
        },
      },
    });
  });

  test("the real program's complaint about a line is found", async () => {
    using pod = await TestNetns.make();
    for (const tools of [nft.installed.nft!, legacy.installed.legacy!]) {
      const call = { argv: [tools[4].restore, "--noflush"] as const, netnsFd: pod.netns.fd };
      const stdin = "*nat\n:X - [0:0]\n-A X -j REDIRECT --to-ports nonsense\nCOMMIT\n";
      await expect(runner.run({ ...call, stdin, lockFile: NOBODYS_LOCK })).rejects.toMatchObject({
        code: "TOOL_FAILED",
        inputLine: "-A X -j REDIRECT --to-ports nonsense",
      });
    }
  });

  test("a program that does nothing but succeed is found out", async () => {
    using pod = await TestNetns.make();
    const backend = withScript("lazy", "cat >/dev/null");
    await expect(redirection(backend).apply(pod.netns, DEFAULT_OPTIONS)).rejects.toMatchObject({
      code: "NO_KNOWN_BYTES",
      message: expect.stringContaining("shows other rules"),
    });
    expect(await pod.run("nft list ruleset")).toBe("");
  });

  test("a hanging program is killed at the deadline", async () => {
    using pod = await TestNetns.make();
    const backend = withScript("hanging", "exec sleep 987654");
    const start = performance.now();
    await expect(
      redirection(backend, { ipv6: false, timeoutMs: 300 }).apply(pod.netns, DEFAULT_OPTIONS),
    ).rejects.toMatchObject({ code: "NO_KNOWN_BYTES", message: expect.stringContaining("300 ms") });
    expect(performance.now() - start).toBeLessThan(3000);
    await expect.poll(childCommands).not.toContain("sleep");
  });

  test("a caller that gives up is obeyed", async () => {
    using pod = await TestNetns.make();
    const backend = withScript("hanging", "exec sleep 987654");
    const signal = AbortSignal.timeout(100);
    await expect(
      redirection(backend, { ipv6: false, timeoutMs: 500 }).apply(pod.netns, DEFAULT_OPTIONS, { signal }),
    ).rejects.toMatchObject({
      code: "TOOL_ABORTED",
    });
    // what is recorded is for others, too
    await expect.poll(childCommands).not.toContain("sleep");
  });
});

describe("options", () => {
  test("an interface name that is none is refused before anything is written", async () => {
    using pod = await TestNetns.make();
    const options: RedirectOptions = { ...DEFAULT_OPTIONS, virtualInterfaces: ["eth0\nCOMMIT"] };
    await expect(redirection(nft).apply(pod.netns, options)).rejects.toMatchObject({
      code: "INVALID_REDIRECT_OPTIONS",
    });
    expect(await pod.run("nft list ruleset")).toBe("");
    expect(await routes(pod)).toBe("");
  });
});
