// SPDX-License-Identifier: Apache-2.0
// The self-test against the real kernel: all right in both variants, quick, without a trace; what is missing has its name.
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { loadCliConfig } from "../../src/cli/process-io.ts";
import { readBackend } from "../../src/diagnose/kernel-eyes.ts";
import { tryNatively } from "../../src/diagnose/native-features.ts";
import { runSelfTest } from "../../src/diagnose/self-test.ts";
import { SelfTestWatch } from "../../src/diagnose/self-test-watch.ts";
import { openNetnsCount } from "../../src/linux/netns.ts";
import { ToolRunner } from "../../src/linux/run-tool.ts";
import { createLoggers } from "../../src/log/logger.ts";
import { chooseBackend, type RedirectBackend } from "../../src/netfilter/variant.ts";
import { TestNetns } from "../redirection/test-netns.ts";

const isRoot = process.getuid?.() === 0;
const TOOLS = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "self-test-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

function configOf() {
  for (const name of ["run", "net.d", "bin"]) mkdirSync(join(folder, name), { recursive: true });
  return loadCliConfig({
    HOST_ROOT: "/",
    CNI_AGENT_RUN_DIR: join(folder, "run"),
    ZTUNNEL_UDS_ADDRESS: join(folder, "run/ztunnel.sock"),
    MOUNTED_CNI_NET_DIR: join(folder, "net.d"),
    MOUNTED_CNI_BIN_DIR: join(folder, "bin"),
  });
}

/**
 * A folder of programs in which one of them refuses rules that hold certain words, as a kernel without the module does, or takes
 * a second for what it does, as the first rules do on a busy node that loads modules for them.
 */
async function crippled(options: {
  words?: string;
  without?: string;
  slow?: string;
}): Promise<RedirectBackend> {
  const path = join(folder, "tools");
  mkdirSync(path);
  const names = ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"].flatMap((tool) => [
    `${tool}-save`,
    `${tool}-restore`,
  ]);
  for (const name of [...names, "ipset", "nsenter"]) {
    const real = TOOLS.map((dir) => join(dir, name)).find((place) => existsSync(place));
    if (name === options.without || real === undefined) continue;
    if (name === options.slow) {
      writeFileSync(join(path, name), `#!/bin/sh\n/bin/sleep 1\nexec ${real} "$@"\n`, { mode: 0o755 });
      continue;
    }
    if (options.words === undefined || name !== "iptables-nft-restore") symlinkSync(real, join(path, name));
    else {
      const script = `#!/bin/sh\ntext=$(/bin/cat)\ncase "$text" in *"${options.words}"*) echo "unknown option \\"${options.words}\\"" >&2; exit 2;; esac\nprintf '%s\\n' "$text" | ${real} "$@"\n`;
      writeFileSync(join(path, name), script);
      chmodSync(join(path, name), 0o755);
    }
  }
  const runner = new ToolRunner({ path });
  return await chooseBackend({ variant: "nft", runDir: folder, hostProcess: "/proc/self", runner });
}

describe.skipIf(!isRoot)("the self-test, as root", () => {
  test.each(["nft", "legacy", "native"] as const)(
    "passes with %s, quickly, and leaves nothing",
    async (variant) => {
      const backend = await readBackend({ hostRoot: "/", runDir: folder, variant });
      const before = { netns: openNetnsCount(), own: readlinkSync("/proc/self/ns/net") };
      const startMs = performance.now();
      const found = await runSelfTest({ config: configOf(), backend });
      const ms = performance.now() - startMs;
      expect(found.filter(({ level }) => level !== "ok")).toEqual([]);
      expect(found.map(({ id }) => id)).toEqual([
        "capabilities",
        "kernel",
        "run-dir",
        "ztunnel-dir",
        "cni-net-dir",
        "cni-bin-dir",
      ]);
      // 40 ms on an idle machine
      expect(ms).toBeLessThan(1500);
      expect({ netns: openNetnsCount(), own: readlinkSync("/proc/self/ns/net") }).toEqual(before);
    },
  );

  test.each([
    ["-m mark", ["kernel-mark-match"]],
    ["CONNMARK", ["kernel-connmark"]],
    ["REDIRECT", ["kernel-redirect"]],
    ["--zone", ["kernel-ct-zone"]],
    ["*raw", ["kernel-table-raw", "kernel-ct-zone"]],
    ["-m owner", ["kernel-owner-match"]],
    ["-m set", ["kernel-set-match"]],
    ["--to-source", ["kernel-rules"]],
  ])("names a kernel without %s, with the module", async (words, ids) => {
    const backend = await crippled({ words });
    const found = (await runSelfTest({ config: configOf(), backend })).filter(({ level }) => level !== "ok");
    expect(found.map(({ id }) => id)).toEqual(ids);
    for (const { level, what, fix } of found) {
      expect(level).toBe("fail");
      expect(what).toContain("IPv4");
      expect(fix).toMatch(/modprobe|dmesg/);
    }
  });

  test("takes no program for native nftables, and names what is refused", async () => {
    const path = join(folder, "empty");
    mkdirSync(path);
    const runner = new ToolRunner({ path });
    const backend = await chooseBackend({
      variant: "native",
      runDir: folder,
      hostProcess: "/proc/self",
      runner,
    });
    const found = await runSelfTest({ config: configOf(), backend });
    expect(found.filter(({ level }) => level !== "ok")).toEqual([]);
    expect(found.find(({ id }) => id === "kernel")?.what).toContain("with native nftables, IPv4 and IPv6");
    expect(runner.startedCount).toBe(0);
    using pod = await TestNetns.make();
    // the owner's socket keeps such a table from everybody else. Source: nft(8), flag owner
    const owner = spawn("nsenter", [`--net=/proc/${pod.pid}/ns/net`, "nft", "-i"], {
      stdio: ["pipe", "ignore", "ignore"],
    });
    const ended = once(owner, "exit");
    owner.stdin.write("add table inet istio-ambient-mangle { flags owner; }\n");
    await expect.poll(() => pod.run("nft list tables inet")).toContain("istio-ambient-mangle");
    const { probeSnatV4, probeSnatV6 } = configOf();
    const refused = await tryNatively(pod.netns, { families: [4, 6], probeSnatV4, probeSnatV6 });
    owner.kill();
    await ended;
    expect(refused.map(({ id }) => id)).toContain("kernel-nf-tables");
    expect(refused.map(({ id }) => id)).not.toContain("kernel-probes");
    expect(refused[0]).toMatchObject({ level: "fail", fix: expect.stringContaining("modprobe nf_tables") });
    expect(await tryNatively(pod.netns, { families: [4, 6], probeSnatV4, probeSnatV6 })).toEqual([]);
  });

  test.each([
    [
      "mangle",
      { level: "warn", id: "kernel-nft-tproxy", fix: expect.stringContaining("modprobe nft_tproxy") },
    ],
    ["nat", { level: "fail", id: "kernel-sidecars", fix: expect.stringContaining("modprobe nft_ct") }],
  ])("says which sidecars cannot start where table %s of theirs is refused", async (table, finding) => {
    using pod = await TestNetns.make();
    const owner = spawn("nsenter", [`--net=/proc/${pod.pid}/ns/net`, "nft", "-i"], {
      stdio: ["pipe", "ignore", "ignore"],
    });
    const ended = once(owner, "exit");
    owner.stdin.write(`add table inet istio-proxy-${table} { flags owner; }\n`);
    await expect.poll(() => pod.run("nft list tables inet")).toContain(table);
    const { probeSnatV4, probeSnatV6 } = configOf();
    const found = await tryNatively(pod.netns, { families: [4, 6], probeSnatV4, probeSnatV6 });
    owner.kill();
    await ended;
    expect(found).toMatchObject([finding]);
  });

  test.each([
    ["iptables-nft-restore", "the kernel takes the rules for IPv4"],
    ["ip6tables-nft-restore", "the kernel takes the rules for IPv6"],
    ["ipset", "sets of addresses can be made"],
  ])("does not take a slow %s for the kernel's refusal", async (slow, what) => {
    const backend = await crippled({ slow });
    const found = await runSelfTest({ config: configOf(), backend, toolTimeoutMs: 400 });
    const rest = found.filter(({ level }) => level !== "ok");
    // beside other work the other programs may take as long
    for (const finding of rest) expect(finding).toMatchObject({ id: "kernel-unknown", level: "warn" });
    const said = new RegExp(`^it is not known whether ${what}: .*no end after 400 ms$`);
    expect(rest.map((finding) => finding.what)).toContainEqual(expect.stringMatching(said));
  });

  test("is repeated with more patience while the kernel's answer is not known, and keeps nobody from the mesh meanwhile", async () => {
    const backend = await crippled({ slow: "iptables-nft-restore" });
    const lines: { level: string; msg: string }[] = [];
    const write = (line: string): void => void lines.push(JSON.parse(line));
    const states: (string | undefined)[] = [];
    const watch = new SelfTestWatch({
      ...{ config: configOf(), backend, toolTimeoutMs: 400, retryMs: 1 },
      log: createLoggers({ level: "info", scopes: {} }, { destination: { write } }).scope("agent"),
      onstate: (fault) => void states.push(fault),
    });
    await watch.start();
    await expect.poll(() => states.length).toBe(2);
    watch.stop();
    expect(states).toEqual([undefined, undefined]);
    const said = lines.filter(({ msg }) => msg.startsWith("self-test: "));
    expect(said.map(({ level }) => level).sort()).toEqual(["info", ...said.slice(1).map(() => "warn")]);
    expect(said.length).toBeGreaterThan(1);
    expect(said.at(-1)?.level).toBe("info");
    expect(said.at(-1)?.msg).toContain("were tried in a namespace of their own");
  });

  test("stays patient while something else is missing", async () => {
    const backend = await crippled({ slow: "iptables-nft-restore" });
    const config = configOf();
    rmSync(join(folder, "bin"), { recursive: true });
    const infos: string[] = [];
    const write = (line: string): void => {
      const { level, msg } = JSON.parse(line) as { level: string; msg: string };
      if (level === "info") infos.push(msg);
    };
    let tests = 0;
    const watch = new SelfTestWatch({
      ...{ config, backend, toolTimeoutMs: 400, retryMs: 1 },
      log: createLoggers({ level: "info", scopes: {} }, { destination: { write } }).scope("agent"),
      onstate: (fault) => {
        expect(fault).toContain(join(folder, "bin"));
        tests += 1;
      },
    });
    await watch.start();
    await expect.poll(() => tests).toBe(4);
    watch.stop();
    expect(infos).toEqual([expect.stringContaining("were tried in a namespace of their own")]);
  });

  test("names a missing ipset", async () => {
    const found = await runSelfTest({ config: configOf(), backend: await crippled({ without: "ipset" }) });
    expect(found.filter(({ level }) => level !== "ok")).toMatchObject([
      { id: "kernel-ipset", level: "fail" },
    ]);
  });

  test("without capabilities says which, and does not fail itself", async () => {
    const script = `
      const { runSelfTest } = await import(${JSON.stringify(join(import.meta.dirname, "../../src/diagnose/self-test.ts"))});
      const { readBackend } = await import(${JSON.stringify(join(import.meta.dirname, "../../src/diagnose/kernel-eyes.ts"))});
      const config = JSON.parse(process.argv[1]);
      const backend = await readBackend({ hostRoot: "/", runDir: config.runDir, variant: "nft" });
      console.log(JSON.stringify(await runSelfTest({ config, backend })));`;
    const argv = [
      "--bounding-set=-sys_admin,-net_admin",
      "--inh-caps=-all",
      process.execPath,
      "--input-type=module",
      "-e",
      script,
    ];
    const { excludeNamespaces: _, ...config } = configOf();
    const { stdout } = await promisify(execFile)("setpriv", [...argv, JSON.stringify(config)]);
    const found = JSON.parse(stdout) as { id: string; level: string; what: string }[];
    expect(found.filter(({ level }) => level !== "ok")).toMatchObject([
      { id: "capabilities", level: "fail", what: expect.stringMatching(/NET_ADMIN.*SYS_ADMIN/) },
      { id: "kernel", level: "warn" },
    ]);
  });
});
