// SPDX-License-Identifier: Apache-2.0
// What stands before our rules, in the real kernel: each way past ztunnel by its name, and what others have in pods by none.
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { encodeAttribute } from "../../../src/linux/netlink/message.ts";
import { findBypasses } from "../../../src/netfilter/bypass/bypass.ts";
import type { OwnPlaces } from "../../../src/netfilter/bypass/bypass-walk.ts";
import { ask, batch, newRule } from "../../../src/netfilter/nft/nft-wire.ts";
import { TestNetns } from "../../redirection/test-netns.ts";

const chains = [
  { chain: "OUR_PRERT", hook: "PREROUTING" },
  { chain: "OUR_OUTPUT", hook: "OUTPUT" },
];
const tables = ["mangle", "nat", "raw"];
const where: OwnPlaces = {
  variant: "nft",
  own: ([4, 6] as const).flatMap((family) => tables.map((table) => ({ family, table, chains }))),
  inetTables: ["ours-whole"],
  marks: { mask: 0xfff, prerouting: [0x539], output: [0x539, 0x111] },
};
let netns: TestNetns;

beforeEach(async () => {
  netns = await TestNetns.make();
});
afterEach(() => netns[Symbol.dispose]());

/** Our chains, empty, and the jumps to them. */
async function layOut(variant: "nft" | "legacy"): Promise<void> {
  const text = tables
    .map(
      (table) =>
        `*${table}\n:OUR_PRERT -\n:OUR_OUTPUT -\n-A PREROUTING -j OUR_PRERT\n-A OUTPUT -j OUR_OUTPUT\nCOMMIT\n`,
    )
    .join("");
  for (const tool of ["iptables", "ip6tables"]) await netns.run(`${tool}-${variant}-restore`, text);
}

async function found(places: OwnPlaces = where): Promise<string[]> {
  const { bypasses, isComplete } = await findBypasses(netns.netns, places);
  const names = bypasses.map(({ kind, family, table, chain }) => `${kind} ${family} ${table} ${chain}`);
  return isComplete ? names : [...names, "and more"];
}

const chain = (hook: string, rules: string, family = "ip") =>
  `table ${family} z {\n chain c { ${hook}; ${rules}; }\n}\n`;
const route = "type route hook output priority -300";
const dstnat = (priority: number) => `type nat hook output priority ${priority}`;

/** Some 40 KiB, which is more than a list has room for. */
function unlistableRule(): Uint8Array {
  const match = Buffer.concat([
    encodeAttribute(1, Buffer.from("comment\0")),
    encodeAttribute(2, new Uint8Array(4)),
    encodeAttribute(3, new Uint8Array(256)),
  ]);
  const expression = Buffer.concat([encodeAttribute(1, Buffer.from("match\0")), encodeAttribute(2, match)]);
  return Buffer.concat(Array.from({ length: 120 }, () => encodeAttribute(1, expression)));
}

/** What is written, for iptables-restore or nft, and what is found. */
const ways: readonly [
  title: string,
  tool: "iptables" | "ip6tables" | "nft",
  text: string,
  kinds: string[],
][] = [
  ["accept before the jump", "iptables", "*nat\n-I OUTPUT 1 -p tcp -j ACCEPT", ["accepts ip nat OUTPUT"]],
  [
    "accept for one user",
    "iptables",
    "*nat\n-I OUTPUT 1 -m owner --uid-owner 7 -j ACCEPT",
    ["accepts ip nat OUTPUT"],
  ],
  ["accept of IPv6", "ip6tables", "*nat\n-I PREROUTING 1 -p tcp -j ACCEPT", ["accepts ip6 nat PREROUTING"]],
  ["return before the jump", "iptables", "*nat\n-I OUTPUT 1 -p tcp -j RETURN", ["accepts ip nat OUTPUT"]],
  [
    "redirect before the jump",
    "iptables",
    "*nat\n-I OUTPUT 1 -p tcp -j REDIRECT --to-ports 9",
    ["translates ip nat OUTPUT"],
  ],
  ["accept in mangle", "iptables", "*mangle\n-I OUTPUT 1 -p tcp -j ACCEPT", ["accepts ip mangle OUTPUT"]],
  [
    "chain that accepts",
    "iptables",
    "*nat\n:X -\n:Y -\n-A X -j Y\n-A Y -j ACCEPT\n-I OUTPUT 1 -j X",
    ["accepts ip nat OUTPUT"],
  ],
  ["goto an empty chain", "iptables", "*nat\n:X -\n-I OUTPUT 1 -g X", ["accepts ip nat OUTPUT"]],
  [
    "queries to other resolvers",
    "iptables",
    "*nat\n-I OUTPUT 1 -p udp --dport 53 -j ACCEPT",
    ["accepts ip nat OUTPUT"],
  ],
  [
    "our mark, before",
    "iptables",
    "*mangle\n-I OUTPUT 1 -p tcp -j MARK --set-mark 0x539",
    ["marks ip mangle OUTPUT"],
  ],
  [
    "our mark, behind our jump",
    "iptables",
    "*mangle\n-A OUTPUT -p tcp -j MARK --set-mark 0x111",
    ["marks ip mangle OUTPUT"],
  ],
  ["our mark, by bits", "iptables", "*mangle\n-A OUTPUT -j MARK --or-mark 0x539", ["marks ip mangle OUTPUT"]],
  [
    "our connection mark",
    "iptables",
    "*mangle\n-A OUTPUT -j CONNMARK --set-mark 0x111",
    ["marks ip mangle OUTPUT"],
  ],
  ["no tracking", "iptables", "*raw\n-A OUTPUT -p tcp -j CT --notrack", ["untracked ip raw OUTPUT"]],
  [
    "TPROXY",
    "iptables",
    "*mangle\n-A PREROUTING -p tcp -j TPROXY --on-port 9 --tproxy-mark 0",
    ["diverts ip mangle PREROUTING"],
  ],
  ["a queue", "iptables", "*mangle\n-A OUTPUT -p tcp -j NFQUEUE", ["queues ip mangle OUTPUT"]],
  ["copies", "iptables", "*mangle\n-A OUTPUT -p tcp -j TEE --gateway 10.0.0.1", ["diverts ip mangle OUTPUT"]],
  ["a table that marks", "nft", chain(route, "meta mark set 0x539"), ["marks ip z c"]],
  [
    "a table that marks by a map",
    "nft",
    chain(route, "meta mark set ip saddr map { 10.0.0.1 : 5 }"),
    ["marks ip z c"],
  ],
  [
    "a table of inet that marks by bits",
    "nft",
    chain("type filter hook output priority -101", "meta mark set mark and 0xfffff000 xor 0x539", "inet"),
    ["marks inet z c"],
  ],
  ["a connection mark of nft", "nft", chain(route, "ct mark set 0x111"), ["marks ip z c"]],
  [
    "a table that does not track",
    "nft",
    chain("type filter hook output priority -300", "notrack", "inet"),
    ["untracked inet z c"],
  ],
  ["an earlier nat", "nft", chain(dstnat(-101), "tcp dport 80 dnat to 10.0.0.1"), ["translates ip z c"]],
  [
    "nat of the same priority",
    "nft",
    chain(dstnat(-100), "tcp dport 80 redirect to :9"),
    ["translates ip z c"],
  ],
  [
    "addresses written",
    "nft",
    chain("type filter hook output priority -300", "ip daddr set 127.0.0.1"),
    ["translates ip z c"],
  ],
  [
    // elements of a map are not read: what leads into its chains cannot be counted
    "verdicts of a map",
    "nft",
    chain(route, "tcp dport vmap { 80 : jump m }").replace("z {", "z {\n chain m { meta mark set 0x539; }"),
    ["marks ip z c", "and more"],
  ],
  [
    "a mark before its condition",
    "nft",
    chain(route, "meta mark set 0x539 ip protocol icmp"),
    ["marks ip z c"],
  ],
  [
    "a mark at a device",
    "nft",
    chain("type filter hook ingress device d0 priority 0", "meta mark set 0x539", "netdev"),
    ["marks netdev z c"],
  ],
];

/** Written the same way; nothing is found. */
const harmless: readonly [title: string, tool: "iptables" | "ip6tables" | "nft", text: string][] = [
  ["accept behind the jump", "iptables", "*nat\n-A OUTPUT -p tcp -j ACCEPT"],
  ["accept in raw", "iptables", "*raw\n-I OUTPUT 1 -p tcp -j ACCEPT"],
  [
    "drop, log, count",
    "iptables",
    "*nat\n-I OUTPUT 1 -p tcp -j LOG\n-I OUTPUT 1 -p tcp\nCOMMIT\n*mangle\n-I OUTPUT 1 -j DROP",
  ],
  ["rules of filter", "iptables", "*filter\n-A OUTPUT -j MARK --set-mark 0x539\n-A OUTPUT -j ACCEPT"],
  ["the loopback device", "iptables", "*nat\n-I OUTPUT 1 -o lo -j ACCEPT\n-I PREROUTING 1 -i lo -j ACCEPT"],
  ["loopback addresses", "iptables", "*nat\n-I OUTPUT 1 -d 127.0.0.0/8 -j ACCEPT"],
  ["a loopback address of IPv6", "ip6tables", "*nat\n-I OUTPUT 1 -d ::1/128 -j ACCEPT"],
  ["ICMP", "iptables", "*nat\n-I OUTPUT 1 -p icmp -j ACCEPT"],
  [
    "UDP that is no query",
    "iptables",
    "*nat\n-I OUTPUT 1 -p udp --dport 4789 -j ACCEPT\n-I PREROUTING 1 -p udp -j ACCEPT",
  ],
  [
    "Docker's resolver",
    "iptables",
    "*nat\n:DOCKER_OUTPUT -\n:DOCKER_POSTROUTING -\n-I OUTPUT 1 -d 127.0.0.11/32 -j DOCKER_OUTPUT\n" +
      "-A POSTROUTING -d 127.0.0.11/32 -j DOCKER_POSTROUTING\n" +
      "-A DOCKER_OUTPUT -d 127.0.0.11/32 -p tcp -m tcp --dport 53 -j DNAT --to-destination 127.0.0.11:41999\n" +
      "-A DOCKER_OUTPUT -d 127.0.0.11/32 -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.11:36257\n" +
      "-A DOCKER_POSTROUTING -s 127.0.0.11/32 -p tcp -m tcp --sport 41999 -j SNAT --to-source :53",
  ],
  [
    "a VPN's marks",
    "iptables",
    "*mangle\n-A PREROUTING -m conntrack --ctstate ESTABLISHED -j CONNMARK --restore-mark --nfmask 0xff0000 --ctmask 0xff0000\n" +
      "-A OUTPUT -m conntrack --ctstate NEW -j CONNMARK --save-mark --nfmask 0xff0000 --ctmask 0xff0000\n-A OUTPUT -j MARK --set-mark 0x40000/0xff0000",
  ],
  [
    "marks that are not ours",
    "iptables",
    "*mangle\n-I OUTPUT 1 -j MARK --set-mark 0xca6c\n-A OUTPUT -j CONNMARK --save-mark\n-A OUTPUT -j CONNMARK --restore-mark",
  ],
  [
    "MSS, TTL and service class",
    "iptables",
    "*mangle\n-A OUTPUT -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1300\n-A OUTPUT -j DSCP --set-dscp 10\n-A OUTPUT -j TTL --ttl-set 64",
  ],
  [
    "a firewall of inet",
    "nft",
    chain(
      "type filter hook output priority -300; policy drop",
      "ct state established accept; tcp dport 80 accept; counter",
      "inet",
    ),
  ],
  ["a later table", "nft", chain("type filter hook output priority 0", "meta mark set 0x539")],
  ["notrack that is too late", "nft", chain("type filter hook output priority -199", "notrack")],
  ["accept in another nat", "nft", chain(dstnat(-150), "accept")],
  ["a later nat", "nft", chain(dstnat(-99), "dnat to 10.0.0.1")],
  ["masquerading", "nft", chain("type nat hook postrouting priority 100", "masquerade")],
  ["a sleeping table", "nft", chain(route, "meta mark set 0x539").replace("z {", "z {\n flags dormant;")],
  ["a table of ours", "nft", chain(route, "meta mark set 0x539", "inet").replace(" z ", " ours-whole ")],
  ["a device's own filter", "nft", chain("type filter hook ingress device d0 priority 0", "drop", "netdev")],
  [
    "the loopback device at ingress",
    "nft",
    chain("type filter hook ingress device lo priority 0", "meta mark set 0x539", "netdev"),
  ],
  [
    "WireGuard's marks",
    "nft",
    chain("type filter hook prerouting priority -150", "meta l4proto udp meta mark set ct mark"),
  ],
  [
    "time to live of nft",
    "nft",
    chain(route, "ip ttl set 64; ip dscp set cs1; tcp option maxseg size set 1300"),
  ],
  ["a forward chain", "nft", chain("type filter hook forward priority -300", "meta mark set 0x539")],
];

async function write(tool: string, text: string, variant = "nft"): Promise<void> {
  if (tool === "nft") {
    await netns.run("ip link add d0 type veth peer name d1");
    await netns.run("nft -f -", text);
  } else await netns.run(`${tool}-${variant}-restore --noflush`, `${text}\nCOMMIT\n`);
}

describe("with iptables-nft", () => {
  beforeEach(() => layOut("nft"));

  test("nothing stands before our rules alone", async () => {
    expect(await found()).toEqual([]);
  });

  test.each(ways)("%s is named", async (_, tool, text, kinds) => {
    await write(tool, text);
    expect(await found()).toEqual(kinds);
  });

  test.each(harmless)("%s is not named", async (_, tool, text) => {
    await write(tool, text);
    expect(await found()).toEqual([]);
  });

  test("which of two chains of nat with one priority is first is the kernel's: the later one", async () => {
    await netns.run("nft -f -", chain(dstnat(-100), "tcp dport 7 counter redirect to :9"));
    await netns.run("iptables-nft -t nat -A OUR_OUTPUT -p tcp --dport 7 -j REDIRECT --to-ports 10");
    await netns.run("ip addr add 10.9.9.9/32 dev lo");
    await netns.run("bash", "timeout 2 bash -c ': </dev/tcp/10.9.9.9/7'; true");
    expect(await netns.run("nft list table ip z")).toContain("counter packets 1 ");
    expect(await netns.run("iptables-nft -t nat -nvL OUR_OUTPUT")).toMatch(/^ +0 +0 REDIRECT/m);
    expect(await found()).toEqual(["translates ip z c"]);
  });
});

describe("with iptables-legacy", () => {
  beforeEach(() => layOut("legacy"));
  const legacy: OwnPlaces = { ...where, variant: "legacy" };

  test("a table of more than 4 MiB is not read, which is said", async () => {
    await netns.run("iptables-legacy-restore --noflush", `*nat\n:X -\n${"-A X\n".repeat(30_000)}COMMIT\n`);
    expect(await found(legacy)).toEqual(["and more"]);
  });

  test("nothing stands before our rules alone", async () => {
    expect(await found(legacy)).toEqual([]);
  });

  test.each(ways)("%s is named", async (_, tool, text, kinds) => {
    await write(tool, text, "legacy");
    expect(await found(legacy)).toEqual(kinds);
  });

  test.each(harmless)("%s is not named", async (_, tool, text) => {
    await write(tool, text, "legacy");
    expect(await found(legacy)).toEqual([]);
  });
});

describe("of the other variant", () => {
  test("rules of iptables-legacy are seen beside those of iptables-nft, and looking makes no table", async () => {
    await layOut("nft");
    expect(await found()).toEqual([]);
    expect(await netns.run("cat /proc/net/ip_tables_names")).toBe("");
    await write("iptables", "*mangle\n-A OUTPUT -j MARK --set-mark 0x539", "legacy");
    expect(await found()).toEqual(["marks ip mangle OUTPUT"]);
  });
});

describe("what is too much", () => {
  beforeEach(() => layOut("nft"));

  test("rules before our jump beyond any bound cannot be told, and take no time", async () => {
    const rule = (index: number) =>
      `add rule ip nat OUTPUT ip daddr 10.${(index >> 8) & 255}.${index & 255}.1 counter`;
    await netns.run("iptables-nft -t nat -D OUTPUT 1");
    await netns.run("nft -f -", Array.from({ length: 20_000 }, (_, index) => rule(index)).join("\n"));
    await netns.run("iptables-nft -t nat -A OUTPUT -j OUR_OUTPUT");
    expect(await found()).toEqual(["and more"]);
  });

  test("rules elsewhere cost nothing", async () => {
    const rules = Array.from({ length: 20_000 }, (_, index) => `add rule inet junk c meta mark set ${index}`);
    await netns.run("nft -f -", ["add table inet junk", "add chain inet junk c", ...rules].join("\n"));
    expect(await found()).toEqual([]);
  });

  test("tables without chains cost nothing, chains without end cannot be told", async () => {
    const names = Array.from({ length: 6_000 }, (_, index) => `${"t".repeat(100)}${index}`);
    await netns.run("nft -f -", names.map((name) => `add table inet ${name}`).join("\n"));
    expect(await found()).toEqual([]);
    await netns.run(
      "nft -f -",
      ["add table ip z", ...names.map((name) => `add chain ip z ${name}`)].join("\n"),
    );
    expect(await found()).toEqual(["and more"]);
  });

  test("rules that change without end cannot be told, and end by themselves", async () => {
    await netns.run("nft -f -", chain(route, "counter"));
    const churn = netns.run(
      "timeout 2 sh",
      "while :; do nft 'add chain inet z d; delete chain inet z d'; nft 'add rule ip z c counter'; done",
    );
    await Promise.all([churn.catch(() => {}), found(), found()]);
    expect(await found()).toEqual([]);
  });

  test.each(["c", "X"])("a rule that is too long to be listed is noticed in %s", async (name) => {
    await netns.run("nft -f -", chain(route, "jump X").replace("z {", "z {\n chain X { }"));
    expect(await found()).toEqual([]);
    const place = { family: 4, table: "z", chain: name } as const;
    const answers = await ask(netns.netns.fd, batch([newRule(place, { expressions: unlistableRule() })]));
    expect(answers.map(({ error }) => error)).toEqual([undefined, undefined, undefined]);
    expect(await found()).toEqual(["and more"]);
  });

  test("a chain that others lead into as well is read in full", async () => {
    const text = chain(route, "jump X").replace(
      "z {",
      "z {\n chain X { counter; }\n chain Y { jump X; ip protocol icmp jump X; }",
    );
    await netns.run("nft -f -", text);
    expect(await found()).toEqual([]);
  });

  test("nf_tables of which is known what was found are not read again, x_tables are", async () => {
    const { nft } = await findBypasses(netns.netns, where);
    await netns.run("nft -f -", chain(route, "meta mark set 0x539"));
    await netns.run("iptables-legacy -t mangle -I OUTPUT -j MARK --set-mark 0x539");
    const again = await findBypasses(netns.netns, where, nft);
    expect(again.nft).toBe(nft);
    expect(again.bypasses.map(({ table }) => table)).toEqual(["mangle"]);
    const { bypasses } = await findBypasses(netns.netns, where);
    expect(bypasses.map(({ table }) => table)).toEqual(["z", "mangle"]);
  });

  test("names are printed in a few printable characters", async () => {
    const name = `e\u001b[2Jx${"y".repeat(60)}`;
    await netns.run(`iptables-nft -t nat -N ${name.slice(0, 25)}`);
    await netns.run(`iptables-nft -t nat -A ${name.slice(0, 25)} -j ACCEPT`);
    await netns.run(`iptables-nft -t nat -I OUTPUT 1 -j ${name.slice(0, 25)}`);
    const { bypasses } = await findBypasses(netns.netns, where);
    expect(bypasses.map(({ detail }) => detail)).toEqual([
      expect.stringContaining("rule 1, by way of chain e\\x1b[2Jx"),
    ]);
    expect(bypasses[0]?.detail).toMatch(/^[ -~]{1,300}$/);
  });
});
