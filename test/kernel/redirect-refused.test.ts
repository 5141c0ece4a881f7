// SPDX-License-Identifier: Apache-2.0
// What keeps a redirection from being written: the namespace, the options, and programs that fail.
import { execFileSync } from "node:child_process";
import { chmodSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { NOBODYS_LOCK } from "../../src/linux/lock-files.ts";
import { Netns } from "../../src/linux/netns.ts";
import { ToolRunner } from "../../src/linux/run-tool.ts";
import type { RedirectBackend } from "../../src/netfilter/variant.ts";
import { PodRedirection } from "../../src/redirection/pod-redirection.ts";
import type { RedirectOptions } from "../../src/redirection/rules.ts";
import {
  childCommands,
  expectNothingLeftAfterwards,
  installedBackends,
  redirection,
} from "../redirection/installed-backends.ts";
import { routes } from "../redirection/pod-text.ts";
import { TestNetns, TOOL_PATH } from "../redirection/test-netns.ts";
import { DEFAULT_OPTIONS } from "../redirection/variants.ts";
import { patience } from "../support/node/patience.ts";

const runner = new ToolRunner();
const { nft, legacy } = await installedBackends(runner);
await expectNothingLeftAfterwards();

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
