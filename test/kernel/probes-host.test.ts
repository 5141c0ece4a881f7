// SPDX-License-Identifier: Apache-2.0
// The host's sets and rules in a namespace of the test's own, entered as the agent enters the host's: brought about,
// healed, owned, removed, and what that costs.
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ToolRunner } from "../../src/linux/run-tool.ts";
import { chooseBackend, type RedirectBackend } from "../../src/netfilter/variant.ts";
import type { Variant } from "../../src/netfilter/variant-tools.ts";
import { HostProbes } from "../../src/probes/host-probes.ts";
import type { HostProbesOptions } from "../../src/probes/host-probes-options.ts";
import { HostState, type HostStateOptions } from "../../src/probes/host-state.ts";
import { TestNetns, TOOL_PATH, withoutDates } from "../redirection/test-netns.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { foreignTable, nativeHostRules } from "../support/node/istio-native.ts";
import { patience } from "../support/node/patience.ts";

const variants = ["nft", "legacy"] as const;
/** Of rules at the first start: one batch for both families, or one run of the program for each. */
const writesOf = { nft: 1, legacy: 2 } as const;
const jumpFirst = /^-A POSTROUTING -j ISTIO_POSTRT$/m;
const ruleOf = {
  4: "-A ISTIO_POSTRT -p tcp -m owner --socket-exists -m set --match-set istio-inpod-probes-v4 dst -j SNAT --to-source 169.254.7.127",
  6: "-A ISTIO_POSTRT -p tcp -m owner --socket-exists -m set --match-set istio-inpod-probes-v6 dst -j SNAT --to-source fd16:9254:7127:1337:ffff:ffff:ffff:ffff",
};

let folder: string;
let host: TestNetns;
let running: HostProbes[];
let states: (string | undefined)[];
let warnings: string[];

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "ambient-probes-"));
  host = await TestNetns.make();
  running = [];
  states = [];
  warnings = [];
});
afterEach(async () => {
  for (const probes of running) await probes.stop();
  host[Symbol.dispose]();
  rmSync(folder, { recursive: true });
});

async function backendOf(variant: Variant | "native", runner = new ToolRunner()): Promise<RedirectBackend> {
  return await chooseBackend({ variant, runDir: folder, hostProcess: "/proc/self", runner });
}

async function hostOptions(
  variant: Variant | "native",
): Promise<HostStateOptions & Pick<HostProbesOptions, "hostNetnsPath">> {
  return {
    hostNetnsPath: `/proc/${host.pid}/ns/net`,
    backend: await backendOf(variant),
    probeSnatV4: "169.254.7.127",
    probeSnatV6: "FD16:9254:7127:1337:FFFF:FFFF:FFFF:FFFF",
    ipv6: true,
  };
}

/** As whoever leaves the node does it. @returns whether there was anything */
async function uninstall(variant: Variant | "native", probes: HostProbes): Promise<boolean> {
  await probes.stop();
  return await new HostState(await hostOptions(variant)).remove(host.netns);
}

async function probesOn(
  variant: Variant | "native",
  options: Partial<HostProbesOptions> = {},
): Promise<HostProbes> {
  const probes = new HostProbes({
    ...(await hostOptions(variant)),
    log: {
      debug() {},
      info() {},
      warn: (fields, message) => void warnings.push(`${message} ${JSON.stringify(fields)}`),
      error() {},
    },
    onstate: (fault) => void states.push(fault),
    intervalMs: 60_000,
    ...options,
  });
  running.push(probes);
  return probes;
}

/** Entries of a set as `address pod`, sorted. */
async function entries(family: 4 | 6 = 4): Promise<string[]> {
  const text = await host.run(`ipset save istio-inpod-probes-v${family}`);
  return [...text.matchAll(/^add \S+ (\S+)(?: comment "(.*)")?$/gm)]
    .map(([, address, comment]) => `${address} ${comment ?? "-"}`)
    .sort();
}

function natOf(variant: Variant, family: 4 | 6 = 4): Promise<string> {
  return host.save(`${family === 4 ? "iptables" : "ip6tables"}-${variant}-save -t nat`);
}

async function expectWhole(variant: Variant): Promise<void> {
  for (const family of [4, 6] as const) {
    const lines = (await natOf(variant, family)).split("\n");
    expect(lines.filter((line) => line.startsWith("-A POSTROUTING"))[0]).toMatch(jumpFirst);
    expect(lines.filter((line) => line.endsWith("ISTIO_POSTRT"))).toHaveLength(1);
    expect(lines.filter((line) => line.startsWith("-A ISTIO_POSTRT"))).toEqual([ruleOf[family]]);
  }
}

async function eventually(
  what: string,
  isSo: () => boolean | Promise<boolean>,
  withinMs = 5_000,
): Promise<void> {
  const endMs = performance.now() + withinMs;
  while (!(await isSo())) {
    if (performance.now() > endMs) throw new Error(`Not within ${withinMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** What others keep on a host: kube-proxy's shape, firewall rules, sets of theirs. */
async function addForeigners(variant: Variant): Promise<void> {
  const rules = `*nat
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A POSTROUTING -s 10.0.0.0/8 ! -d 10.0.0.0/8 -j MASQUERADE
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 443 -j DNAT --to-destination 10.0.0.9:6443
COMMIT
*filter
-A INPUT -m set --match-set others src -j DROP
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
`;
  await host.run("ipset restore", "create others hash:net family inet\nadd others 192.0.2.0/24\n");
  await host.run(`iptables-${variant}-restore --noflush`, rules);
}

/** Everything on the host that is not ours, as printed. */
async function foreignState(variant: Variant): Promise<string> {
  const texts = [await host.save(`iptables-${variant}-save`), await host.run("ipset save others")];
  return texts
    .join("")
    .split("\n")
    .filter((line) => !line.includes("ISTIO_POSTRT"))
    .map((line) => line.replace(/\[\d+:\d+\]/, ""))
    .join("\n");
}

describe.each(variants)("with iptables-%s", (variant) => {
  test("sets and rules come into being at start, each family written once", async () => {
    await addForeigners(variant);
    const before = await foreignState(variant);
    const probes = await probesOn(variant);
    await probes.start();
    await expectWhole(variant);
    expect(await entries()).toEqual([]);
    expect(states).toEqual([undefined]);
    expect(probes.counts).toMatchObject({
      setWrites: 1,
      ruleWrites: writesOf[variant],
      failures: 0,
      restored: 0,
    });
    expect(await foreignState(variant)).toBe(before);
  });

  test("a host that is right is not written by the next agent", async () => {
    const first = await probesOn(variant);
    await first.start();
    await first.set("a", ["10.0.0.1"]);
    await first.stop();
    const handles = await host.handles();
    const second = await probesOn(variant);
    await second.start();
    await second.restore(new Map([["a", ["10.0.0.1"]]]));
    expect(second.counts).toMatchObject({ setWrites: 0, ruleWrites: 0 });
    expect(await host.handles()).toBe(handles);
    expect(await second.verify()).toEqual([]);
  });

  test.each([
    ["iptables -t nat -F", `iptables-${variant} -t nat -F`],
    ["iptables -t nat -F of IPv6", `ip6tables-${variant} -t nat -F`],
    ["a flush of our chain", `iptables-${variant} -t nat -F ISTIO_POSTRT`],
    ["a lost jump", `iptables-${variant} -t nat -D POSTROUTING -j ISTIO_POSTRT`],
    ["a rule that pushes in first", `iptables-${variant} -t nat -I POSTROUTING -s 10.9.0.0/16 -j RETURN`],
    ["a second jump", `iptables-${variant} -t nat -A POSTROUTING -j ISTIO_POSTRT`],
    ["a foreign rule in our chain", `iptables-${variant} -t nat -I ISTIO_POSTRT -j RETURN`],
    ["ipset flush", "ipset flush"],
    ["ipset flush of IPv6", "ipset flush istio-inpod-probes-v6"],
    ["ipset del", "ipset del istio-inpod-probes-v4 10.0.0.1"],
    // ipset 7.22 reads past the end of its own arguments for a comment that stands there, and ends with SIGSEGV; its input is read well
    ["an entry renamed", "ipset restore -exist", "add istio-inpod-probes-v4 10.0.0.1 comment other\n"],
  ])("%s is healed by the timer, and counted", async (_name, command, input = "") => {
    const probes = await probesOn(variant, { intervalMs: 200 });
    await probes.start();
    await probes.set("a", ["10.0.0.1", "fd00::1"]);
    await host.run(command, input);
    await eventually("healed", () => probes.counts.restored > 0);
    await eventually("looked at again", async () => (await probes.verify()).length === 0);
    await expectWhole(variant);
    expect(await entries(4)).toEqual(["10.0.0.1 a"]);
    expect(await entries(6)).toEqual(["fd00::1 a"]);
    expect(probes.counts).toMatchObject({ restored: 1, failures: 0 });
    expect(warnings).toEqual([expect.stringContaining("somebody changed the host's rules or sets")]);
    expect(states).toEqual([undefined]);
  });

  test("nothing can destroy or rename a set that the rule names; after everything was torn down it is all back", async () => {
    const probes = await probesOn(variant);
    await probes.start();
    await probes.set("a", ["10.0.0.1", "fd00::1"]);
    await expect(host.run("ipset destroy istio-inpod-probes-v4")).rejects.toThrow(/in use/);
    await expect(host.run("ipset rename istio-inpod-probes-v4 x")).rejects.toThrow(/in use/);
    for (const tool of ["iptables", "ip6tables"]) {
      await host.run(`${tool}-${variant} -t nat -F`);
      await host.run(`${tool}-${variant} -t nat -X`);
    }
    await eventually("the sets are free", () =>
      host.run("ipset destroy").then(
        () => true,
        () => false,
      ),
    );
    // another set takes the number that ours had
    await host.run("ipset create squatter hash:ip family inet");
    await probes.start();
    await expectWhole(variant);
    expect(await entries(4)).toEqual(["10.0.0.1 a"]);
    expect(await entries(6)).toEqual(["fd00::1 a"]);
  });

  test("a full restore of a foreign ruleset is healed, and the ruleset stays as it was restored", async () => {
    await addForeigners(variant);
    const ruleset = await host.save(`iptables-${variant}-save`);
    const probes = await probesOn(variant, { intervalMs: 200 });
    await probes.start();
    await probes.set("a", ["10.0.0.1"]);
    const before = await foreignState(variant);
    await host.run(`iptables-${variant}-restore`, ruleset);
    await eventually("healed", () => probes.counts.restored > 0);
    await eventually("looked at again", async () => (await probes.verify()).length === 0);
    await expectWhole(variant);
    expect(await foreignState(variant)).toBe(before);
  });

  test("a rule of ours names our sets, whatever numbers they have, and no other", async () => {
    const others = Array.from({ length: 9 }, (_, i) => `create other-${i} hash:ip family inet`);
    await host.run("ipset restore", `${others.join("\n")}\n`);
    for (const free of [3, 7]) await host.run(`ipset destroy other-${free}`);
    const probes = await probesOn(variant);
    await probes.start();
    await expectWhole(variant);
    expect(probes.counts.ruleWrites).toBe(writesOf[variant]);
    // equal but for the set
    const forged = ruleOf[4]
      .replace("-A", "-R")
      .replace("POSTRT", "POSTRT 1")
      .replace("istio-inpod-probes-v4", "other-1");
    await host.run(`iptables-${variant} -t nat ${forged}`);
    expect(await probes.verify()).toMatchObject([{ family: 4, kind: "wrong-rules" }, { family: 4 }]);
    await probes.start();
    await expectWhole(variant);
    expect(await probes.verify()).toEqual([]);
  });

  test("all of it goes at uninstall, and nothing else", async () => {
    await addForeigners(variant);
    const before = withoutCounters(await host.save(`iptables-${variant}-save`));
    const setsBefore = await host.run("ipset save");
    const probes = await probesOn(variant);
    await probes.start();
    await probes.set("a", ["10.0.0.1", "fd00::1"]);
    await host.run(`iptables-${variant} -t nat -A OUTPUT -d 10.0.0.1 -j ISTIO_POSTRT`).catch(() => {});
    await uninstall(variant, probes);
    expect(withoutCounters(await host.save(`iptables-${variant}-save`))).toBe(before);
    expect(await natOf(variant, 6)).not.toContain("ISTIO");
    expect(await host.run("ipset save")).toBe(setsBefore);
    await expect(probes.set("b", ["10.0.0.2"])).rejects.toMatchObject({ code: "STOPPED" });
    expect(await uninstall(variant, await probesOn(variant))).toBe(false);
  });

  test("the chain that an agent left in the other variant goes when ours stands", async () => {
    const other = variant === "nft" ? "legacy" : "nft";
    const earlier = await probesOn(other);
    await earlier.start();
    await earlier.set("a", ["10.0.0.1"]);
    await earlier.stop();
    const probes = await probesOn(variant);
    await probes.start();
    await expectWhole(variant);
    for (const family of [4, 6] as const) expect(await natOf(other, family)).not.toContain("ISTIO");
    expect(await entries()).toEqual(["10.0.0.1 a"]);
  });

  test("the table of an istio-cni with NATIVE_NFTABLES goes when ours stands, and on uninstall", async () => {
    await host.run("nft -f -", nativeHostRules + foreignTable);
    const probes = await probesOn(variant);
    await probes.start();
    await expectWhole(variant);
    expect(await host.run("nft list tables inet")).toBe("table inet firewall\n");
    await host.run("nft -f -", nativeHostRules);
    expect(await uninstall(variant, probes)).toBe(true);
    expect(await host.run("nft list tables inet")).toBe("table inet firewall\n");
    expect(await host.run("nft list table inet firewall")).toBe(foreignTable);
  });

  test("looking again costs at most 10 ms of processor time, 110 pods and 300 foreign rules about", async () => {
    await addForeigners(variant);
    const many = Array.from(
      { length: 300 },
      (_, i) => `-A KUBE-SERVICES -d 10.97.${i >> 8}.${i & 255} -j RETURN`,
    );
    await host.run(`iptables-${variant}-restore --noflush`, `*nat\n${many.join("\n")}\nCOMMIT\n`);
    const probes = await probesOn(variant);
    await probes.start();
    await probes.restore(fleet(110));
    for (let i = 0; i < 20; i++) await probes.start();
    const started = childrenTicks();
    const costs: number[] = [];
    for (let sample = 0; sample < 9; sample++) costs.push(await cpuMsOf(20, () => probes.start()));
    const medianMs = costs.sort((a, b) => a - b)[4] as number;
    const processMs = ((childrenTicks() - started) * 10) / (9 * 20);
    console.log(`${variant}: ${medianMs.toFixed(1)} ms own, ${processMs.toFixed(1)} ms of processes`);
    expect(probes.counts).toMatchObject({ setWrites: 2, ruleWrites: writesOf[variant] });
    expect(processMs).toBe(0);
    expect(medianMs).toBeLessThan(10 * patience());
  });

  test("looking again starts no process, also when others have changed their rules", async () => {
    await addForeigners(variant);
    const runner = new ToolRunner();
    const started: string[] = [];
    const run = runner.run.bind(runner);
    runner.run = (call) => {
      started.push(call.argv.join(" "));
      return run(call);
    };
    const probes = await probesOn(variant, { backend: await backendOf(variant, runner) });
    await probes.start();
    await probes.set("a", ["10.0.0.1", "fd00::1"]);
    await probes.start();
    started.length = 0;
    await probes.start();
    await host.run(`iptables-${variant} -t nat -A KUBE-SERVICES -d 10.96.0.2/32 -j RETURN`);
    await host.run(`iptables-${variant} -t nat -N AAA`);
    await host.run(`ip6tables-${variant} -t nat -A POSTROUTING -j RETURN`);
    await probes.start();
    expect(started).toEqual([]);
    await host.run(`iptables-${variant} -t nat -A ISTIO_POSTRT -j RETURN`);
    await probes.start();
    // nf_tables take a batch from us
    expect(started.length).toBe(variant === "nft" ? 0 : 1);
    await expectWhole(variant);
  });
});

/** Processor time of this process, all threads, per call. Load of others on the machine does not count. */
async function cpuMsOf(calls: number, work: () => Promise<void>): Promise<number> {
  const before = process.cpuUsage();
  for (let i = 0; i < calls; i++) await work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000 / calls;
}

/** Processor time of the children that have ended, in hundredths of a second. */
function childrenTicks(): number {
  const stat = readFileSync("/proc/self/stat", "latin1");
  const fields = stat
    .slice(stat.lastIndexOf(")") + 2)
    .split(" ")
    .map(Number);
  return fields[13]! + fields[14]!;
}

function withoutCounters(text: string): string {
  return withoutDates(text).replaceAll(/\[\d+:\d+\]/g, "");
}

function fleet(count: number): Map<string, string[]> {
  return new Map(
    Array.from({ length: count }, (_, i) => [`pod-${i}`, [`10.1.0.${i + 1}`, `fd00:1::${i + 1}`]]),
  );
}

describe("members", () => {
  test("of 110 pods come with one run of ipset", async () => {
    const probes = await probesOn("nft");
    const list = fleet(110);
    await probes.restore(list);
    expect(probes.counts).toMatchObject({ setWrites: 1, ruleWrites: 1 });
    expect(await entries(4)).toHaveLength(110);
    expect(await entries(6)).toHaveLength(110);
  });

  test("set at once share runs of ipset", async () => {
    const probes = await probesOn("nft");
    await probes.start();
    await Promise.all([...fleet(60)].map(([uid, addresses]) => probes.set(uid, addresses)));
    expect(await entries(4)).toHaveLength(60);
    // the first has a run of its own, the others share the next
    expect(probes.counts.setWrites).toBeLessThanOrEqual(3);
    expect(states).toEqual([undefined]);
  });

  test("set again cost nothing", async () => {
    const probes = await probesOn("nft");
    await probes.set("a", ["10.0.0.1"]);
    const { counts } = probes;
    await probes.set("a", ["10.0.0.1"]);
    expect(probes.counts).toEqual(counts);
  });

  test("of a reused address belong to the newer pod, and the older one's removal leaves them", async () => {
    const probes = await probesOn("nft");
    await probes.set("old", ["10.0.0.1", "fd00::1"]);
    await probes.set("new", ["10.0.0.1"]);
    expect([await entries(4), await entries(6)]).toEqual([["10.0.0.1 new"], ["fd00::1 old"]]);
    await probes.set("old", ["10.0.0.1", "fd00::1"]);
    expect(await entries(4)).toEqual(["10.0.0.1 new"]);
    await probes.remove("old");
    expect([await entries(4), await entries(6)]).toEqual([["10.0.0.1 new"], []]);
    await probes.remove("old");
    await probes.remove("never-there");
    expect(await entries(4)).toEqual(["10.0.0.1 new"]);
  });

  test("follow addresses that change", async () => {
    const probes = await probesOn("nft");
    await probes.set("a", ["10.0.0.1", "fd00::1"]);
    await probes.set("a", ["10.0.0.2", "fd00::1"]);
    expect([await entries(4), await entries(6)]).toEqual([["10.0.0.2 a"], ["fd00::1 a"]]);
    await probes.set("a", []);
    expect([await entries(4), await entries(6)]).toEqual([[], []]);
  });

  test("of an earlier agent stay until their pod is removed, or is known to be outside", async () => {
    const first = await probesOn("nft");
    await first.restore(
      new Map([
        ["a", ["10.0.0.1"]],
        ["b", ["10.0.0.2"]],
        ["c", ["10.0.0.3"]],
      ]),
    );
    await first.stop();
    let isOutside = false;
    const probes = await probesOn("nft", { isOutside: () => isOutside });
    await probes.start();
    await probes.restore(new Map([["a", ["10.0.0.7"]]]));
    expect(await entries()).toEqual(["10.0.0.2 b", "10.0.0.3 c", "10.0.0.7 a"]);
    await probes.remove("b");
    expect(await entries()).toEqual(["10.0.0.3 c", "10.0.0.7 a"]);
    isOutside = true;
    await probes.start();
    expect(await entries()).toEqual(["10.0.0.7 a"]);
    isOutside = false;
    await host.run("ipset restore", "add istio-inpod-probes-v4 10.0.0.9 comment stranger\n");
    await probes.start();
    expect(await entries()).toEqual(["10.0.0.7 a", "10.0.0.9 stranger"]);
  });

  test("of a pod that nobody named survive in a set that has to be exchanged under its rule", async () => {
    await host.run(
      "ipset restore",
      "create istio-inpod-probes-v4 hash:ip family inet timeout 600 comment\n" +
        "add istio-inpod-probes-v4 10.0.0.9 comment stranger\n",
    );
    const probes = await probesOn("nft");
    await probes.set("a", ["10.0.0.1"]);
    expect(await entries()).toEqual(["10.0.0.1 a", "10.0.0.9 stranger"]);
    expect(await host.run("ipset list -t")).not.toMatch(/timeout|-new/);
    expect(await probes.verify()).toEqual([]);
  });
});

describe("IPv6", () => {
  test("is left alone when it is switched off", async () => {
    const probes = await probesOn("nft", { ipv6: false });
    await probes.set("a", ["10.0.0.1", "fd00::1"]);
    expect(await entries(4)).toEqual(["10.0.0.1 a"]);
    expect(await natOf("nft", 6)).not.toContain("ISTIO");
    await expect(entries(6)).rejects.toThrow(/does not exist/);
    expect(await probes.verify()).toEqual([]);
  });

  test("works on a host whose interfaces have it disabled", async () => {
    await host.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.lo.disable_ipv6=1");
    const probes = await probesOn("nft");
    await probes.set("a", ["10.0.0.1", "fd00::1"]);
    expect(states).toEqual([undefined]);
    expect(await entries(4)).toEqual(["10.0.0.1 a"]);
  });
});

describe("a fault", () => {
  test("is reported with its reason, tried again, and gone when its cause is", async () => {
    await host.run("ipset create istio-inpod-probes-v4 hash:net family inet");
    const probes = await probesOn("nft", { intervalMs: 100 });
    await probes.start();
    expect(states).toEqual([expect.stringMatching(/"istio-inpod-probes-v4".*hash:net.*ipset destroy/)]);
    await expect(probes.set("a", ["10.0.0.1"])).rejects.toMatchObject({ code: "FOREIGN_SET" });
    await host.run("ipset destroy istio-inpod-probes-v4");
    await eventually("no fault", () => probes.fault === undefined);
    expect(states.at(-1)).toBeUndefined();
    expect(await entries()).toEqual(["10.0.0.1 a"]);
    await expectWhole("nft");
  });

  test("names ipset when it is not installed", async () => {
    for (const tool of [
      "nsenter",
      ...["", "6"].flatMap((v) => [`ip${v}tables-nft-save`, `ip${v}tables-nft-restore`]),
    ]) {
      symlinkSync(
        execFileSync("which", [tool], { env: { PATH: TOOL_PATH }, encoding: "utf8" }).trim(),
        join(folder, tool),
      );
    }
    const probes = await probesOn("nft", {
      backend: await backendOf("nft", new ToolRunner({ path: folder })),
    });
    await probes.start();
    expect(states).toEqual([expect.stringMatching(/without ipset.*the agent's image must hold ipset/)]);
    expect(probes.counts.failures).toBe(1);
  });

  test("is one when the host's namespace cannot be opened", async () => {
    const probes = await probesOn("nft", { hostNetnsPath: "/proc/0/ns/net" });
    await probes.start();
    expect(states).toEqual([expect.stringMatching(/"\/proc\/0\/ns\/net".*no such file/)]);
    await expect(probes.verify()).rejects.toMatchObject({ code: "FAILED" });
  });

  test("of the probe address is refused before anything starts", async () => {
    await expect(probesOn("nft", { probeSnatV4: "169.254.7" })).rejects.toThrow(RangeError);
  });
});

describe("stop", () => {
  test("leaves everything, ends the timer and answers who waits", async () => {
    const clock = new FakeClock();
    const probes = await probesOn("nft", { intervalMs: 50, clock });
    await probes.start();
    const first = probes.set("a", ["10.0.0.1"]);
    // the moment in which pods are gathered
    clock.advance(20);
    await first;
    // past it again: the next run begins at once
    clock.advance(20);
    const waiting = probes.set("b", ["10.0.0.2"]);
    const late = probes.set("c", ["10.0.0.3"]);
    const stopping = probes.stop();
    await expect(late).rejects.toMatchObject({ code: "STOPPED" });
    await waiting;
    await stopping;
    const { reasserted } = probes.counts;
    await host.run("iptables-nft -t nat -F POSTROUTING");
    expect(clock.pendingCount).toBe(0);
    clock.advance(200);
    expect(probes.counts.reasserted).toBe(reasserted);
    expect(await natOf("nft")).not.toMatch(jumpFirst);
    expect(await entries()).toEqual(["10.0.0.1 a", "10.0.0.2 b"]);
  });
});

describe("PROBE_MATCH=kubelet", () => {
  test("without a kubelet falls back to any socket, with a warning", async () => {
    const probes = await probesOn("nft", { match: "kubelet" });
    await probes.start();
    await expectWhole("nft");
    expect(warnings).toEqual([expect.stringContaining("no kubelet process was found")]);
  });
});

describe("native nftables", () => {
  const table = "table inet istio-ambient-nat";
  const native = (options: Partial<HostProbesOptions> = {}) => probesOn("native", options);
  const ruleset = () => host.run("nft list ruleset");
  /** Whether a rule of a form would change a probe's source address. */
  const passes = async (variant: Variant | "native"): Promise<boolean> => {
    if (variant !== "native")
      return (
        (await natOf(variant)).includes(ruleOf[4]) &&
        (await entries().catch((): string[] => [])).includes("10.0.0.1 a")
      );
    const text = await ruleset();
    return text.includes("snat ip to 169.254.7.127") && text.includes('10.0.0.1 comment "a"');
  };

  test("come into being, are mended, and go, without a program", async () => {
    const path = mkdtempSync(join(folder, "empty-"));
    const backend = await backendOf("native", new ToolRunner({ path }));
    const probes = await native({ backend });
    await probes.start();
    await probes.set("a", ["10.0.0.1", "fd00::1"]);
    expect(states).toEqual([undefined]);
    expect(await probes.verify()).toEqual([]);
    const before = probes.counts.ruleWrites;
    await host.run("nft flush chain inet istio-ambient-nat postrouting");
    await host.run(
      'nft add element inet istio-ambient-nat istio-inpod-probes-v4 { 10.0.0.9 comment "theirs" }',
    );
    expect((await probes.verify()).map(({ kind }) => kind)).toEqual(["wrong-rules"]);
    await probes.set("b", ["10.0.0.2"]);
    expect(probes.counts).toMatchObject({ restored: 1, ruleWrites: before + 1, setWrites: 0 });
    const text = await ruleset();
    for (const [address, pod] of [
      ["10.0.0.1", "a"],
      ["10.0.0.2", "b"],
      ["fd00::1", "a"],
      ["10.0.0.9", "theirs"],
    ])
      expect(text).toContain(`${address} comment "${pod}"`);
    await probes.remove("b");
    expect(await ruleset()).not.toContain("10.0.0.2");
    expect(await uninstall("native", probes)).toBe(true);
    expect(await ruleset()).toBe("");
    expect(backend.runner.startedCount).toBe(0);
  });

  test("know the kubelet by its user", async () => {
    const procRoot = join(folder, "proc");
    mkdirSync(join(procRoot, "7/ns"), { recursive: true });
    mkdirSync(join(procRoot, "1/ns"), { recursive: true });
    symlinkSync(`/proc/${host.pid}/ns/net`, join(procRoot, "7/ns/net"));
    const fields = Array.from({ length: 50 }, () => "1").join(" ");
    const files = {
      comm: "kubelet\n",
      cgroup: "0::/kubelet.service\n",
      stat: `7 (kubelet) S ${fields}\n`,
      status: "Uid:\t0\t1234\t0\t0\n",
    };
    for (const [name, text] of Object.entries(files)) writeFileSync(join(procRoot, "7", name), text);
    const probes = await native({ match: "kubelet", procRoot });
    await probes.start();
    expect(await ruleset()).toMatch(/meta skuid \d+ ip daddr @istio-inpod-probes-v4/);
    expect(warnings.join()).toMatch(/native nftables cannot ask for its cgroup/);
  });

  test.each(["nft", "legacy"] as const)(
    "from iptables-%s and back there is a probe rule at every moment, and every entry",
    async (variant) => {
      const former = await probesOn(variant);
      await former.start();
      await former.set("a", ["10.0.0.1", "fd00::1"]);
      await former.stop();
      let looks = 0;
      let gaps = 0;
      // what goes is asked for first: where it has gone already, the other stands
      const watch = async (work: Promise<void>, order: readonly (Variant | "native")[]) => {
        let isDone = false;
        const ended = work.finally(() => {
          isDone = true;
        });
        while (!isDone) {
          looks++;
          let found = false;
          for (const each of order) found ||= await passes(each);
          if (!found) gaps++;
        }
        await ended;
      };
      // an agent that has not heard of any pod yet
      const next = await native();
      await watch(next.start(), [variant, "native"]);
      expect(await host.run("ipset list -n")).toBe("");
      expect(await natOf(variant)).not.toContain("ISTIO_POSTRT");
      expect(await natOf(variant, 6)).not.toContain("ISTIO_POSTRT");
      expect(await ruleset()).toContain('10.0.0.1 comment "a"');
      expect(await ruleset()).toContain('fd00::1 comment "a"');
      await next.stop();
      let isOutside = false;
      const back = await probesOn(variant, { isOutside: () => isOutside });
      await watch(back.start(), ["native", variant]);
      expect(await ruleset()).not.toContain(table);
      expect(await entries()).toEqual(["10.0.0.1 a"]);
      expect(await entries(6)).toEqual(["fd00::1 a"]);
      await expectWhole(variant);
      expect(looks).toBeGreaterThan(2);
      expect(gaps).toBe(0);
      isOutside = true;
      await back.start();
      expect(await entries()).toEqual([]);
    },
  );

  test("what an agent of iptables left is carried over, but for what is known to be out of date", async () => {
    const former = await probesOn("nft");
    await former.start();
    for (const [uid, address] of [
      ["a", "10.0.0.1"],
      ["b", "10.0.0.2"],
      ["c", "10.0.0.3"],
    ] as const)
      await former.set(uid, [address]);
    await former.stop();
    const next = await native({ isOutside: (uid) => uid === "b" });
    const started = next.start();
    await next.set("c", ["10.0.0.4"]);
    await started;
    const text = await ruleset();
    expect(["1", "2", "3", "4"].map((last) => text.includes(`10.0.0.${last} comment`))).toEqual([
      true,
      false,
      false,
      true,
    ]);
  });

  test("a table that sleeps or is another's does not keep iptables from being used", async () => {
    await host.run("nft -f -", `add table inet istio-ambient-nat { flags dormant ; }\n`);
    const probes = await probesOn("nft");
    await probes.start();
    expect(states).toEqual([undefined]);
    expect(await ruleset()).not.toContain(table);
  });
});
