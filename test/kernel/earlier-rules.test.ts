// SPDX-License-Identifier: Apache-2.0
// What earlier agents left in a pod's namespace, against the real kernel: our chains in the other iptables variant, tables of an
// istio-cni that used nft itself.
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { ToolRunner } from "../../src/linux/run-tool.ts";
import {
  expectNothingLeftAfterwards,
  installedBackends,
  ourRules,
  redirection,
  saveTool,
} from "../redirection/installed-backends.ts";
import { TestNetns, TOOL_PATH } from "../redirection/test-netns.ts";
import { DEFAULT_OPTIONS } from "../redirection/variants.ts";
import { foreignTable, nativePodRules } from "../support/node/istio-native.ts";

const runner = new ToolRunner();
const { nft, legacy } = await installedBackends(runner);
await expectNothingLeftAfterwards();

describe("the other variant", () => {
  test.each([
    ["nft", "legacy"],
    ["legacy", "nft"],
  ] as const)("with %s our chains in %s are removed, and nothing else of it", async (variant, other) => {
    using pod = await TestNetns.make();
    const [backend, otherBackend] = variant === "nft" ? [nft, legacy] : [legacy, nft];
    await pod.run(`iptables-${other} -t nat -A PREROUTING -s 192.0.2.1 -j ACCEPT`);
    await redirection(otherBackend).apply(pod.netns, DEFAULT_OPTIONS);
    const redirect = redirection(backend);
    const report = await redirect.apply(pod.netns, DEFAULT_OPTIONS);
    expect(report.changed).toBe(true);
    expect(report.repaired.filter(({ kind }) => kind === "unexpected-table")).toHaveLength(6);
    expect(await pod.save(saveTool(4, other))).toContain("-A PREROUTING -s 192.0.2.1/32 -j ACCEPT");
    expect(await ourRules(pod, other)).toBe(0);
    expect((await redirect.verify(pod.netns, DEFAULT_OPTIONS)).intact).toBe(true);
    expect(await redirect.apply(pod.netns, DEFAULT_OPTIONS)).toMatchObject({ changed: false, writes: 0 });
  });

  test("removal takes them too", async () => {
    using pod = await TestNetns.make();
    await redirection(legacy).apply(pod.netns, DEFAULT_OPTIONS);
    expect(await redirection(nft).remove(pod.netns)).toEqual({ changed: true });
    expect(await ourRules(pod, "legacy")).toBe(0);
  });

  test("looking for them creates no tables and starts no process", async () => {
    using pod = await TestNetns.make();
    const redirect = redirection(nft);
    await redirect.prepare(DEFAULT_OPTIONS);
    const started = runner.startedCount;
    await redirect.apply(pod.netns, DEFAULT_OPTIONS);
    expect(runner.startedCount - started).toBe(0);
    for (const list of ["ip_tables_names", "ip6_tables_names"]) {
      expect(readFileSync(join(pod.procNetDir, list), "utf8")).toBe("");
    }
  });
});

test("what cannot be read of another engine is told of, and keeps nothing of ours from being done", async () => {
  using pod = await TestNetns.make();
  const leads = Array.from({ length: 10_050 }, () => "-A THEIRS -p tcp -j ISTIO_PRERT\n").join("");
  await pod.run(
    "iptables-legacy-restore --noflush",
    `*nat\n:ISTIO_PRERT - [0:0]\n:THEIRS - [0:0]\n${leads}COMMIT\n`,
  );
  const redirect = redirection(nft);
  const report = await redirect.apply(pod.netns, DEFAULT_OPTIONS);
  expect(report).toMatchObject({ changed: true, leftoverFault: expect.stringMatching(/IPv4 nat|more/) });
  expect((await redirect.verify(pod.netns, DEFAULT_OPTIONS)).intact).toBe(true);
  await expect(redirect.remove(pod.netns)).rejects.toMatchObject({ code: "TOO_MANY_RULES" });
  expect(await ourRules(pod, "nft")).toBe(0);
  expect(await pod.run("ip rule")).not.toContain("0x111");
});

describe("tables of an istio-cni with NATIVE_NFTABLES", () => {
  test.each(["nft", "legacy"] as const)(
    "with %s are removed once our rules stand, and nothing else",
    async (variant) => {
      using pod = await TestNetns.make();
      await pod.run("nft -f -", nativePodRules + foreignTable);
      const redirect = redirection(variant === "nft" ? nft : legacy);
      const report = await redirect.apply(pod.netns, DEFAULT_OPTIONS);
      const unexpected = report.repaired.filter(({ kind }) => kind === "unexpected-table");
      expect(unexpected.map(({ table }) => table).sort()).toEqual([
        "istio-ambient-mangle",
        "istio-ambient-nat",
        "istio-ambient-raw",
      ]);
      expect(await pod.run("nft list tables inet")).toBe("table inet firewall\n");
      expect(await pod.run("nft list table inet firewall")).toBe(foreignTable);
      expect((await redirect.verify(pod.netns, DEFAULT_OPTIONS)).intact).toBe(true);
      expect(await redirect.apply(pod.netns, DEFAULT_OPTIONS)).toMatchObject({ changed: false, writes: 0 });
    },
  );

  test("that somebody holds do not keep a pod from ztunnel, are told of, and are removed once they are free", async () => {
    using pod = await TestNetns.make();
    await pod.run("nft -f -", nativePodRules);
    // the owner's socket keeps such a table from everybody else. Source: nft(8), flag owner
    await pod.run("nft delete table inet istio-ambient-raw");
    const owner = spawn("nsenter", [`--net=/proc/${pod.pid}/ns/net`, "nft", "-i"], {
      stdio: ["pipe", "ignore", "ignore"],
    });
    const ended = once(owner, "exit");
    owner.stdin.write("add table inet istio-ambient-raw { flags owner; }\n");
    await expect.poll(() => pod.run("nft list tables inet")).toContain("istio-ambient-raw");
    const redirect = redirection(nft);
    for (const writes of [4, 0]) {
      const report = await redirect.apply(pod.netns, DEFAULT_OPTIONS);
      expect(report.leftoverFault).toMatch(/a process owns it/);
      expect(report.writes).toBeLessThanOrEqual(writes);
      expect((await redirect.verify(pod.netns, DEFAULT_OPTIONS)).intact).toBe(true);
    }
    owner.kill("SIGKILL");
    await ended;
    const report = await redirect.apply(pod.netns, DEFAULT_OPTIONS);
    expect(report.leftoverFault).toBeUndefined();
    expect(report.repaired.map(({ table }) => table).sort()).toEqual([
      "istio-ambient-mangle",
      "istio-ambient-nat",
    ]);
    expect(await pod.run("nft list tables inet")).toBe("");
  });

  test("go with everything else when a pod leaves, whoever captured it", async () => {
    using pod = await TestNetns.make();
    await pod.run("nft -f -", nativePodRules + foreignTable);
    expect(await redirection(nft).remove(pod.netns)).toEqual({ changed: true });
    expect(await pod.run("nft list ruleset")).toBe(foreignTable);
    expect(await redirection(nft).remove(pod.netns)).toEqual({ changed: false });
  });

  test("are removed where the program nft is not installed", async () => {
    using pod = await TestNetns.make();
    await pod.run("nft -f -", nativePodRules);
    const path = mkdtempSync(join(tmpdir(), "ambient-no-nft-"));
    for (const tool of [
      "nsenter",
      ...Object.values(nft.installed.nft![4]),
      ...Object.values(nft.installed.nft![6]!),
    ]) {
      const file = execFileSync("which", [tool], { env: { PATH: TOOL_PATH }, encoding: "utf8" }).trim();
      symlinkSync(file, join(path, tool));
    }
    const without = { ...nft, installed: { nft: nft.installed.nft! }, runner: new ToolRunner({ path }) };
    await redirection(without).apply(pod.netns, DEFAULT_OPTIONS);
    expect(await pod.run("nft list tables inet")).toBe("");
    rmSync(path, { recursive: true });
  });
});
