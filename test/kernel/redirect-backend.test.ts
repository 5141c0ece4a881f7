// SPDX-License-Identifier: Apache-2.0
// Choosing the iptables variant: programs in made-up folders, and a namespace that plays the host.
import { execFileSync } from "node:child_process";
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ToolRunner } from "../../src/linux/run-tool.ts";
import { BACKEND_FILE, type BackendOptions, chooseBackend, toolsOf } from "../../src/netfilter/variant.ts";
import { findTools } from "../../src/netfilter/variant-tools.ts";
import { TestNetns, TOOL_PATH } from "../redirection/test-netns.ts";

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ambient-backend-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

function which(tool: string): string {
  return execFileSync("which", [tool], { env: { PATH: TOOL_PATH }, encoding: "utf8" }).trim();
}

/** A runner that finds only the named programs, some under another name (`name=real`). */
function runnerWith(...programs: string[]): ToolRunner {
  const bin = mkdtempSync(join(folder, "bin-"));
  for (const program of ["nsenter", ...programs]) {
    const [name = "", real = name] = program.split("=");
    symlinkSync(which(real), join(bin, name));
  }
  return new ToolRunner({ path: bin });
}

const NFT = ["iptables-nft-save", "iptables-nft-restore", "ip6tables-nft-save", "ip6tables-nft-restore"];
const LEGACY = NFT.map((name) => name.replace("nft", "legacy"));

function plain(variant: "nft" | "legacy"): string[] {
  return NFT.map((name) => `${name.replace("-nft", "")}=${name.replace("nft", variant)}`);
}

describe("the programs", () => {
  test.each<[string, string[], object]>([
    [
      "both variants",
      [...NFT, ...LEGACY],
      { nft: { 4: { save: "iptables-nft-save" } }, legacy: { 6: { restore: "ip6tables-legacy-restore" } } },
    ],
    ["nft alone", NFT, { nft: { variant: "nft" } }],
    ["legacy alone", LEGACY, { legacy: { variant: "legacy" } }],
    [
      "plain ones of nft",
      plain("nft"),
      { nft: { 4: { restore: "iptables-restore" }, 6: { save: "ip6tables-save" } } },
    ],
    ["plain ones of legacy", plain("legacy"), { legacy: { 4: { restore: "iptables-restore" } } }],
    [
      "nft and plain ones of legacy",
      [...NFT, ...plain("legacy")],
      { nft: { 4: { save: "iptables-nft-save" } }, legacy: { 4: { save: "iptables-save" } } },
    ],
    ["nft and plain ones of nft", [...NFT, ...plain("nft")], { nft: { 4: { save: "iptables-nft-save" } } }],
    ["IPv4 alone", NFT.slice(0, 2), { nft: { 6: undefined } }],
    ["half a pair", NFT.slice(0, 1), {}],
    ["none", [], {}],
  ])("are found when there are %s", async (_, programs, expected) => {
    const found = await findTools(runnerWith(...programs));
    expect(found).toMatchObject(expected);
    expect(Object.keys(found).sort()).toEqual(Object.keys(expected).sort());
  });

  test("that say nothing of their version are an error", async () => {
    const runner = runnerWith("iptables-save=true", "iptables-restore=true");
    await expect(findTools(runner)).rejects.toThrow('Cannot tell the variant of "iptables-restore"');
  });
});

describe("the choice", () => {
  const all = () => runnerWith(...NFT, ...LEGACY);

  async function choose(host: TestNetns, changes: Partial<BackendOptions> = {}) {
    return await chooseBackend({
      variant: "auto",
      runDir: folder,
      hostProcess: `/proc/${host.pid}`,
      runner: all(),
      ...changes,
    });
  }

  test.each<[string, string[], string]>([
    ["nothing", [], "nft"],
    ["legacy rules", ["iptables-legacy -t nat -A POSTROUTING -j MASQUERADE"], "legacy"],
    ["legacy IPv6 rules", ["ip6tables-legacy -A INPUT -j ACCEPT"], "legacy"],
    ["nft rules", ["iptables-nft -A INPUT -j ACCEPT"], "nft"],
    ["legacy tables without rules", ["iptables-legacy -t nat -S", "iptables-legacy -t filter -S"], "nft"],
    [
      "legacy rules of an ambient agent",
      [
        "iptables-legacy -t nat -N ISTIO_POSTRT",
        "iptables-legacy -t nat -A ISTIO_POSTRT -j RETURN",
        "iptables-legacy -t nat -A POSTROUTING -j ISTIO_POSTRT",
      ],
      "nft",
    ],
    [
      "more legacy rules than nft rules",
      [
        "iptables-legacy -A INPUT -j ACCEPT",
        "iptables-legacy -A OUTPUT -j ACCEPT",
        "iptables-nft -A INPUT -j ACCEPT",
      ],
      "legacy",
    ],
    ["as many of both", ["iptables-legacy -A INPUT -j ACCEPT", "iptables-nft -A INPUT -j ACCEPT"], "nft"],
    [
      "legacy rules and a native firewall",
      [
        "iptables-legacy -A INPUT -j ACCEPT",
        "nft add table inet fw",
        "nft add chain inet fw in",
        "nft add rule inet fw in accept",
        "nft add rule inet fw in accept",
      ],
      "legacy",
    ],
  ])("follows a host with %s", async (_, commands, variant) => {
    using host = await TestNetns.make();
    for (const command of commands) await host.run(command);
    const backend = await choose(host);
    expect(backend.variant).toBe(variant);
    expect(toolsOf(backend)?.variant).toBe(variant);
    expect(Object.keys(backend.installed).sort()).toEqual(["legacy", "nft"]);
    expect(backend.reason).toMatch(/^the host has \d+ iptables rules in nf_tables and \d+ in x_tables$/);
  });

  test("leaves a host as it is", async () => {
    using host = await TestNetns.make();
    await choose(host);
    for (const list of ["ip_tables_names", "ip6_tables_names"]) {
      expect(readFileSync(join(host.procNetDir, list), "utf8")).toBe("");
    }
    expect(await host.run("nft list ruleset")).toBe("");
  });

  test("is kept for the boot, in a file of its own", async () => {
    using host = await TestNetns.make();
    // what an agent left that was killed over it
    writeFileSync(join(folder, `${BACKEND_FILE}.17-4026531836.tmp`), "half");
    await host.run("iptables-legacy -A INPUT -j ACCEPT");
    expect((await choose(host)).variant).toBe("legacy");
    await host.run("iptables-legacy -F INPUT");
    expect(await choose(host)).toMatchObject({ variant: "legacy", reason: "chosen earlier in this boot" });
    expect(readdirSync(folder).filter((name) => !name.startsWith("bin-"))).toEqual([BACKEND_FILE]);
    expect(statSync(join(folder, BACKEND_FILE)).mode & 0o777).toBe(0o600);
    const nextBoot = join(folder, "boot_id");
    writeFileSync(nextBoot, "another-boot\n");
    expect((await choose(host, { bootIdPath: nextBoot })).variant).toBe("nft");
  });

  test.each([
    "",
    "{",
    "null",
    "[]",
    '{"bootId":"b"}',
    '{"bootId":"b","variant":"ebtables"}',
    '{"bootId":"c","variant":"legacy"}',
    '{"bootId":1,"variant":"legacy"}',
  ])("ignores a kept decision that reads %j", async (content) => {
    using host = await TestNetns.make();
    const bootIdPath = join(folder, "boot_id");
    writeFileSync(bootIdPath, "b\n");
    writeFileSync(join(folder, BACKEND_FILE), content);
    expect((await choose(host, { bootIdPath })).variant).toBe("nft");
    expect(JSON.parse(readFileSync(join(folder, BACKEND_FILE), "utf8"))).toEqual({
      bootId: "b",
      variant: "nft",
    });
  });

  test("keeps nothing when the boot has no name", async () => {
    using host = await TestNetns.make();
    await choose(host, { bootIdPath: join(folder, "absent") });
    expect(existsSync(join(folder, BACKEND_FILE))).toBe(false);
  });

  test("is told to who only looks, and a new one is kept by nobody", async () => {
    using host = await TestNetns.make();
    await host.run("iptables-legacy -A INPUT -j ACCEPT");
    expect((await choose(host, { keeps: false })).variant).toBe("legacy");
    expect(existsSync(join(folder, BACKEND_FILE))).toBe(false);
    await choose(host);
    await host.run("iptables-legacy -F INPUT");
    expect(await choose(host, { keeps: false })).toMatchObject({
      variant: "legacy",
      reason: "chosen earlier in this boot",
    });
  });

  test("is the operator's when there is one, and is not kept", async () => {
    using host = await TestNetns.make();
    expect(await choose(host, { variant: "legacy" })).toMatchObject({
      variant: "legacy",
      reason: "set by FORCE_IPTABLES_BINARY",
    });
    expect(existsSync(join(folder, BACKEND_FILE))).toBe(false);
    expect((await choose(host)).variant).toBe("nft");
  });

  test("takes what is installed, whatever the host or an earlier decision says", async () => {
    using host = await TestNetns.make();
    await host.run("iptables-legacy -A INPUT -j ACCEPT");
    await choose(host);
    const backend = await choose(host, { runner: runnerWith(...NFT) });
    expect(backend).toMatchObject({ variant: "nft", reason: "iptables-legacy is not installed" });
    expect(Object.keys(backend.installed)).toEqual(["nft"]);
  });

  test.each([
    ["auto", [], /Cannot use iptables variant "legacy".*iptables-nft is not installed/],
    [
      "nft",
      LEGACY,
      /Cannot use iptables variant "nft" \(set by FORCE_IPTABLES_BINARY\).*agent image.*NATIVE_NFTABLES=true/,
    ],
    ["legacy", NFT, /Cannot use iptables variant "legacy"/],
  ] as const)("fails with the remedy when %s finds no programs", async (variant, programs, message) => {
    using host = await TestNetns.make();
    const attempt = choose(host, { variant, runner: runnerWith(...programs) });
    await expect(attempt).rejects.toMatchObject({
      code: "NO_IPTABLES",
      message: expect.stringMatching(message),
    });
  });

  test("a decision that cannot be kept, in a run dir that is full or read-only, keeps no agent from starting", async () => {
    using host = await TestNetns.make();
    const runDir = join(folder, "absent");
    expect((await choose(host, { runDir })).variant).toBe("nft");
    expect(existsSync(runDir)).toBe(false);
  });
});
