// SPDX-License-Identifier: Apache-2.0
// The dump of nf_tables rules against what iptables-nft and nft have written: equal rules must give equal bytes.
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { Socket } from "node:net";
import { afterEach, beforeEach, expect, test } from "vitest";
import { socketInNetns } from "../../../src/linux/native.ts";
import {
  deleteInetTables,
  dumpNftRuleset,
  emptyInetChains,
  haveOneGeneration,
  listInetTables,
  type NftTable,
} from "../../../src/linux/netlink/nftables.ts";
import { type HeldNetns, holdNetns } from "../held-netns.ts";

/** Rules in the manner of the redirection, plus matches and targets with state of their own in the kernel. */
const RULES = `*mangle
:ISTIO_PRERT - [0:0]
:ISTIO_OUTPUT - [0:0]
-A PREROUTING -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_PRERT -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff
-A ISTIO_OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
COMMIT
*nat
:ISTIO_PRERT - [0:0]
:ISTIO_OUTPUT - [0:0]
-A PREROUTING -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_PRERT -i eth7 -p tcp -j REDIRECT --to-ports 15001
-A ISTIO_PRERT -i eth7 -p tcp -j RETURN
-A ISTIO_PRERT -s 169.254.7.127 -p tcp -m tcp -j ACCEPT
-A ISTIO_PRERT ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT -d 169.254.7.127 -p tcp -m tcp -j ACCEPT
-A ISTIO_OUTPUT ! -o lo -p udp -m mark ! --mark 0x539/0xfff -m udp --dport 53 -j REDIRECT --to-port 15053
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -p tcp --dport 53 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15053
-A ISTIO_OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -j ACCEPT
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001
COMMIT
*raw
:ISTIO_PRERT - [0:0]
:ISTIO_OUTPUT - [0:0]
-A PREROUTING -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -p udp -m mark --mark 0x539/0xfff -m udp --dport 53 -j CT --zone 1
-A ISTIO_PRERT -p udp -m mark ! --mark 0x539/0xfff -m udp --sport 53 -j CT --zone 1
COMMIT
`;
const STATEFUL_RULES = `*filter
-A OUTPUT -m limit --limit 100/min --limit-burst 3 -j ACCEPT
-A OUTPUT -m statistic --mode nth --every 3 --packet 0 -j ACCEPT
-A OUTPUT -m comment --comment "some words"
-A OUTPUT -m owner --uid-owner 0 -j ACCEPT
COMMIT
`;
const RULES_V6 = RULES.replaceAll("127.0.0.1/32", "::1/128").replaceAll(
  "169.254.7.127",
  "fd16:9254:7127:1337:ffff:ffff:ffff:ffff",
);

let one: HeldNetns;
let two: HeldNetns;
let oneFd: number;
let twoFd: number;

beforeEach(async () => {
  [one, two] = await Promise.all([holdNetns(), holdNetns()]);
  oneFd = openSync(one.path, "r");
  twoFd = openSync(two.path, "r");
});

afterEach(async () => {
  closeSync(oneFd);
  closeSync(twoFd);
  await Promise.all([one[Symbol.asyncDispose](), two[Symbol.asyncDispose]()]);
});

async function apply(target: HeldNetns): Promise<void> {
  await target.feed(RULES, "iptables-nft-restore", "--noflush");
  await target.feed(RULES_V6, "ip6tables-nft-restore", "--noflush");
}

/** TCP and UDP, with and without ztunnel's mark, IPv4 and IPv6, over loopback and to another machine. */
async function makeTraffic(netnsFd: number): Promise<void> {
  for (const [family, host, marks] of [
    [4, "127.0.0.1", [0, 0x539]],
    [4, "127.0.0.2", [0, 0x539]],
    [6, "::1", [0, 0x539]],
    // Nobody answers there: only what is redirected to this machine comes to an end soon.
    [4, "10.9.0.2", [0]],
  ] as const) {
    for (const mark of marks) {
      const fd = socketInNetns(netnsFd, { family, type: "stream", mark });
      const socket = new Socket({ fd, manualStart: true } as ConstructorParameters<typeof Socket>[0]);
      await new Promise<unknown>((resolve) => {
        socket
          .on("error", () => {})
          .on("close", resolve)
          .connect({ host, port: 80 });
      });
      const datagrams = createSocket(family === 4 ? "udp4" : "udp6");
      datagrams.bind({ fd: socketInNetns(netnsFd, { family, type: "dgram", port: 0, mark }) });
      for (const port of [53, 54]) {
        await new Promise<unknown>((resolve) => datagrams.send("x", port, host, resolve));
      }
      datagrams.close();
    }
  }
}

function digest(tables: readonly NftTable[]): string {
  return createHash("sha256")
    .update(
      JSON.stringify(tables, (_, value) =>
        value instanceof Uint8Array ? Buffer.from(value).toString("hex") : value,
      ),
    )
    .digest("hex");
}

function rulesOf(tables: readonly NftTable[], family: string, table: string, chain: string) {
  const found = tables.find((candidate) => candidate.family === family && candidate.table === table);
  return found?.chains.find(({ name }) => name === chain)?.rules ?? [];
}

test("an empty namespace has no table", async () => {
  expect(await dumpNftRuleset(oneFd)).toEqual([]);
});

test("tables, chains, hooks and jumps come as iptables-nft has made them", async () => {
  await apply(one);
  const tables = await dumpNftRuleset(oneFd);
  expect(tables.map(({ family, table }) => `${family} ${table}`).toSorted()).toEqual([
    "ip mangle",
    "ip nat",
    "ip raw",
    "ip6 mangle",
    "ip6 nat",
    "ip6 raw",
  ]);
  const nat = tables.find(({ family, table }) => family === "ip6" && table === "nat");
  const chains = nat?.chains.map(({ rules, ...chain }) => ({ ...chain, rules: rules.length })) ?? [];
  expect(chains.toSorted((a, b) => (a.name < b.name ? -1 : 1))).toEqual([
    { name: "ISTIO_OUTPUT", rules: 6 },
    { name: "ISTIO_PRERT", rules: 4 },
    { name: "OUTPUT", type: "nat", hook: "output", priority: -100, policy: "accept", rules: 1 },
    { name: "PREROUTING", type: "nat", hook: "prerouting", priority: -100, policy: "accept", rules: 1 },
  ]);
  expect(rulesOf(tables, "ip6", "nat", "OUTPUT").map(({ jumpTarget }) => jumpTarget)).toEqual([
    "ISTIO_OUTPUT",
  ]);
  expect(rulesOf(tables, "ip", "raw", "PREROUTING").map(({ jumpTarget }) => jumpTarget)).toEqual([
    "ISTIO_PRERT",
  ]);
  expect(
    rulesOf(tables, "ip", "nat", "ISTIO_OUTPUT").every(({ jumpTarget }) => jumpTarget === undefined),
  ).toBe(true);
});

test("two namespaces with the same rules are equal byte for byte, also after traffic and with moved counters", async () => {
  await Promise.all([apply(one), apply(two)]);
  const before = await dumpNftRuleset(oneFd);
  expect(await dumpNftRuleset(twoFd)).toEqual(before);
  await one.run("ip", "link", "add", "eth7", "up", "type", "veth", "peer", "name", "end");
  await one.run("ip", "addr", "add", "10.9.0.1/24", "dev", "eth7");
  await makeTraffic(oneFd);
  const counted = `${await one.run("iptables-nft-save", "-c")}${await one.run("ip6tables-nft-save", "-c")}`;
  for (const target of ["CONNMARK", "CT", "REDIRECT", "ACCEPT"]) {
    expect(counted).toMatch(new RegExp(`^\\[[1-9]\\d*:[1-9]\\d*\\] -A ISTIO_.* -j ${target}`, "m"));
  }
  expect(await dumpNftRuleset(oneFd)).toEqual(before);
  expect(digest(await dumpNftRuleset(oneFd))).toBe(digest(await dumpNftRuleset(twoFd)));
});

test("matches with state in the kernel are equal before and after traffic", async () => {
  await one.feed(STATEFUL_RULES, "iptables-nft-restore");
  await two.feed(STATEFUL_RULES, "iptables-nft-restore");
  const before = await dumpNftRuleset(oneFd);
  expect(before.flatMap(({ chains }) => chains.flatMap(({ rules }) => rules))).toHaveLength(4);
  await makeTraffic(oneFd);
  expect(await dumpNftRuleset(oneFd)).toEqual(before);
  expect(await dumpNftRuleset(twoFd)).toEqual(before);
});

test("rules written again, with new handles, are equal to what they were", async () => {
  await apply(one);
  const before = await dumpNftRuleset(oneFd);
  const handles = await one.run("nft", "-a", "list", "ruleset");
  await one.run("iptables-nft", "-t", "nat", "-F", "ISTIO_OUTPUT");
  expect(await dumpNftRuleset(oneFd)).not.toEqual(before);
  await one.feed(RULES.replaceAll(/^-A (PREROUTING|OUTPUT).*\n/gm, ""), "iptables-nft-restore", "--noflush");
  const rules = (tables: NftTable[]) => rulesOf(tables, "ip", "nat", "ISTIO_OUTPUT");
  expect(rules(await dumpNftRuleset(oneFd))).toEqual(rules(before));
  expect(await one.run("nft", "-a", "list", "ruleset")).not.toBe(handles);
});

test.each([
  { what: "a rule is deleted", change: ["-t", "nat", "-D", "ISTIO_OUTPUT", "1"] },
  { what: "a rule is added at the end", change: ["-t", "nat", "-A", "ISTIO_OUTPUT", "-j", "RETURN"] },
  { what: "a rule is put first", change: ["-t", "nat", "-I", "ISTIO_PRERT", "-j", "RETURN"] },
  {
    what: "a port is changed",
    change: [
      "-t",
      "nat",
      "-R",
      "ISTIO_PRERT",
      "1",
      "-i",
      "eth7",
      "-p",
      "tcp",
      "-j",
      "REDIRECT",
      "--to-ports",
      "15002",
    ],
  },
  { what: "a jump is deleted", change: ["-t", "nat", "-D", "OUTPUT", "-j", "ISTIO_OUTPUT"] },
  { what: "a jump is made twice", change: ["-t", "raw", "-A", "OUTPUT", "-j", "ISTIO_OUTPUT"] },
  { what: "a rule comes before a jump", change: ["-t", "mangle", "-I", "OUTPUT", "-j", "ACCEPT"] },
  { what: "a policy is changed", change: ["-t", "mangle", "-P", "OUTPUT", "DROP"] },
  { what: "a chain is added", change: ["-t", "mangle", "-N", "ANOTHER"] },
])("the dump differs when $what", async ({ change }) => {
  await apply(one);
  const before = digest(await dumpNftRuleset(oneFd));
  await one.run("iptables-nft", ...change);
  expect(digest(await dumpNftRuleset(oneFd))).not.toBe(before);
});

test("rules come in their order", async () => {
  const ports = Array.from({ length: 300 }, (_, i) => `-A OUTPUT -p tcp -m mark --mark ${i + 1} -j ACCEPT`);
  await one.feed(`*filter\n${ports.join("\n")}\nCOMMIT\n`, "iptables-nft-restore");
  const rules = rulesOf(await dumpNftRuleset(oneFd), "ip", "filter", "OUTPUT");
  expect(rules).toHaveLength(300);
  expect(new Set(rules.map(({ expressions }) => Buffer.from(expressions).toString("hex"))).size).toBe(300);
  await one.run("iptables-nft", "-D", "OUTPUT", "1");
  expect(rulesOf(await dumpNftRuleset(oneFd), "ip", "filter", "OUTPUT")).toEqual(rules.slice(1));
});

test("native tables come with jump and goto targets, and other families not at all", async () => {
  const ruleset = `
    table inet istio-ambient-nat {
      chain extra { counter accept; }
      chain last { tcp dport 53 redirect to :15053; }
      chain output {
        type nat hook output priority -100; policy accept;
        meta mark 1 jump extra
        counter goto last
      }
    }
    table arp other { chain input { type filter hook input priority 0; }; }
  `;
  await one.feed(ruleset, "nft", "-f", "-");
  const tables = await dumpNftRuleset(oneFd);
  expect(tables.map(({ family, table }) => [family, table])).toEqual([["inet", "istio-ambient-nat"]]);
  expect(rulesOf(tables, "inet", "istio-ambient-nat", "output").map(({ jumpTarget }) => jumpTarget)).toEqual([
    "extra",
    "last",
  ]);
  await two.feed(ruleset, "nft", "-f", "-");
  await makeTraffic(oneFd);
  expect(await dumpNftRuleset(twoFd)).toEqual(tables);
  expect(await dumpNftRuleset(oneFd)).toEqual(tables);
});

test("a table of family inet is deleted with its chains and sets, whether it is there or not, and no other is", async () => {
  const table = (family: string) => `
    table ${family} doomed {
      set addresses { type ipv4_addr; elements = { 10.0.0.1 comment "a" } }
      chain extra { ip daddr @addresses accept; }
      chain output { type filter hook output priority 0; jump extra; }
    }`;
  await one.feed(table("inet") + table("ip") + table("inet").replace("doomed", "other"), "nft", "-f", "-");
  await two.feed(table("inet"), "nft", "-f", "-");
  expect((await listInetTables(oneFd)).sort()).toEqual(["doomed", "other"]);
  await deleteInetTables(oneFd, ["absent", "doomed"]);
  const left = (await dumpNftRuleset(oneFd)).map((each) => `${each.family} ${each.table}`);
  expect(left.sort()).toEqual(["inet other", "ip doomed"]);
  await deleteInetTables(oneFd, ["doomed"]);
  expect(await dumpNftRuleset(oneFd)).toHaveLength(2);
  expect(await listInetTables(twoFd)).toEqual(["doomed"]);
});

test("a table that somebody holds is not deleted, nor is another in the same step, and the kernel's refusal is told", async () => {
  // the owner's socket keeps such a table from everybody else. Source: nft(8), flag owner
  const owner = spawn("nsenter", [`--net=${two.path}`, "nft", "-i"], { stdio: ["pipe", "ignore", "ignore"] });
  const ended = once(owner, "exit");
  try {
    owner.stdin.write("add table inet held { flags owner; }\n");
    await two.run("nft", "add table inet free");
    await expect.poll(async () => (await listInetTables(twoFd)).sort()).toEqual(["free", "held"]);
    const deleting = deleteInetTables(twoFd, ["free", "held"]);
    await expect(deleting).rejects.toMatchObject({ name: "NetlinkError", code: "EPERM" });
    expect((await listInetTables(twoFd)).sort()).toEqual(["free", "held"]);
  } finally {
    owner.kill("SIGKILL");
    await ended;
  }
});

test("chains are emptied together or not at all, and stay with their hooks", async () => {
  const rules = `table inet t { chain hooked { type nat hook output priority -100; accept; drop; }
    chain plain { accept; }; chain kept { drop; }; }\ntable ip t { chain plain { accept; }; }`;
  await one.feed(rules, "nft", "-f", "-");
  const counts = async () =>
    (await dumpNftRuleset(oneFd)).flatMap(({ family, chains }) =>
      chains.map(({ name, hook = "", rules: list }) => `${family} ${name} ${hook} ${list.length}`),
    );
  const before = ["inet hooked output 2", "inet plain  1", "inet kept  1", "ip plain  1"];
  expect(await counts()).toEqual(before);
  const table = "t";
  await emptyInetChains(oneFd, []);
  await expect(
    emptyInetChains(oneFd, [
      { table, chain: "plain" },
      { table, chain: "absent" },
    ]),
  ).rejects.toMatchObject({ name: "NetlinkError", code: "ENOENT" });
  expect(await counts()).toEqual(before);
  for (let time = 0; time < 2; time++) {
    await emptyInetChains(oneFd, [
      { table, chain: "plain" },
      { table, chain: "hooked" },
    ]);
    expect(await counts()).toEqual(["inet hooked output 0", "inet plain  0", "inet kept  1", "ip plain  1"]);
  }
});

test("chains of the same name in different tables keep their own rules", async () => {
  await one.feed(
    "table ip a { chain c { accept; }; }\ntable ip b { chain c { drop; accept; }; }\ntable ip6 a { chain c { }; }",
    "nft",
    "-f",
    "-",
  );
  const tables = await dumpNftRuleset(oneFd);
  expect(tables.map(({ family, table, chains }) => [family, table, chains[0]?.rules.length])).toEqual([
    ["ip", "a", 1],
    ["ip", "b", 2],
    ["ip6", "a", 0],
  ]);
});

test("a dump is of one generation when rules are replaced all the time", async () => {
  // Each generation has one chain of its own name with one rule: lists of two generations do not fit together.
  const next = (n: number) =>
    `add table ip t\nadd chain ip t c${n}\nadd rule ip t c${n} accept\n${n > 0 ? `flush chain ip t c${n - 1}\ndelete chain ip t c${n - 1}` : ""}`;
  await one.feed(next(0), "nft", "-f", "-");
  let generation = 0;
  const writer = (async () => {
    while (generation < 60) await one.feed(next(++generation), "nft", "-f", "-");
  })();
  const seen = new Set<string>();
  const reader = async () => {
    while (generation < 60) {
      const [table] = await dumpNftRuleset(oneFd);
      expect(table?.chains.map(({ rules }) => rules.length)).toEqual([1]);
      seen.add(table?.chains[0]?.name ?? "");
    }
  };
  await Promise.all([writer, reader(), reader(), reader()]);
  expect(seen.size).toBeGreaterThan(20);
});

test.each([
  { generations: [[], [], []], one: true },
  { generations: [[7], [7, 7], [7, 7, 7]], one: true },
  { generations: [[0x107], [0x107], []], one: true },
  { generations: [[7], [7, 7], [7, 8]], one: false },
  { generations: [[7], [8], [8]], one: false },
  { generations: [[0x107], [0x207], []], one: false },
])("answers with generations $generations fit together: $one", ({ generations, one: expected }) => {
  const answers = generations.map((list) => ({
    error: 0,
    reason: undefined,
    interrupted: false,
    messages: list.map((generation) => ({
      type: 0,
      flags: 0,
      sequence: 1,
      // struct nfgenmsg: family, version, u16 in network order
      body: Uint8Array.of(2, 0, generation >> 8, generation & 0xff, 9, 9, 9, 9),
    })),
  }));
  expect(haveOneGeneration(answers)).toBe(expected);
});
