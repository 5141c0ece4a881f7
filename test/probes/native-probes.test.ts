// SPDX-License-Identifier: Apache-2.0
// The host's probe rule in pure nf_tables, in a namespace of the test's own: what istio-cni writes, brought about, mended, used.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { readImports } from "../../scripts/check-imports.ts";
import type { Netns } from "../../src/linux/netns.ts";
import { findNativeTables, removeNativeTables } from "../../src/netfilter/native/native-tables.ts";
import { ask, batch, newRule } from "../../src/netfilter/nft/nft-wire.ts";
import type { WantedHost } from "../../src/probes/host-form.ts";
import { MATCH_ANY, type ProbeMatch } from "../../src/probes/kubelet-match.ts";
import { NativeProbes } from "../../src/probes/native-probes.ts";
import type { HostMembers } from "../../src/probes/set-members.ts";
import { unlistableRule } from "../netfilter/unlistable-rule.ts";
import { TestNetns } from "../redirection/test-netns.ts";
import { addresses, PodNetwork, readAll } from "../support/ztunnel/pod-network.ts";

const snat = { 4: "169.254.7.127", 6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff" } as const;
const ofUser = (uid: number): ProbeMatch => ({ kind: "uid", uid, args: [], key: `${uid}` });
const rules: Pick<WantedHost, "families" | "match"> = { families: [4, 6], match: ofUser(1000) };
const table = "inet istio-ambient-nat";
const comment = "UUID of the pods that are part of ambient mesh";

/** What istio-cni tells nft. Source: istio/istio cni/pkg/nftables/nftables.go, host_sets.go; testdata/hostprobe_ipv6.golden. */
const istios = `add table ${table}
add set ${table} istio-inpod-probes-v4 { type ipv4_addr; comment "${comment}"; }
add set ${table} istio-inpod-probes-v6 { type ipv6_addr; comment "${comment}"; }
add element ${table} istio-inpod-probes-v4 { 10.0.0.1 comment "uid-1" }
add element ${table} istio-inpod-probes-v6 { fd00::1 comment "uid-1" }
add chain ${table} postrouting { type nat hook postrouting priority 100 ; }
add rule ${table} postrouting meta l4proto tcp skuid 1000 ip daddr @istio-inpod-probes-v4 counter snat to ${snat[4]}
add rule ${table} postrouting meta l4proto tcp skuid 1000 ip6 daddr @istio-inpod-probes-v6 counter snat to ${snat[6]}
`;

function members(
  v4: Record<string, string>,
  v6: Record<string, string> = {},
  stale: string[] = [],
): HostMembers {
  return {
    owners: { 4: new Map(Object.entries(v4)), 6: new Map(Object.entries(v6)) },
    isStale: (text) => stale.includes(text),
  };
}

const one = members({ "10.0.0.1": "uid-1" }, { "fd00::1": "uid-1" });
const host = hostOf(rules);
let node: TestNetns;

/** A host that is looked at, and written where something differs. */
function hostOf(wanted: Pick<WantedHost, "families" | "match">) {
  const probes = new NativeProbes(snat);
  const look = async (netns: Netns, members: HostMembers) => {
    const { drift: findings, write } = await probes.observe(netns, { ...wanted, members, rules: true });
    return { findings, write };
  };
  const apply = async (netns: Netns, members: HostMembers) => {
    const { findings, write } = await look(netns, members);
    if (findings.length > 0) await write();
    return { findings, writes: findings.length > 0 ? 1 : 0 };
  };
  return { look, apply, entries: (netns: Netns) => probes.entries(netns, wanted.families) };
}

beforeEach(async () => {
  node = await TestNetns.make();
});
afterEach(() => node[Symbol.dispose]());

const list = (of = node) => of.run("nft --stateless list ruleset");
const expressions = async (of: TestNetns) =>
  (await of.run("nft --stateless --debug=netlink list ruleset")).replaceAll(/^(inet \S+ \S+) \d+$/gm, "$1");

test("is what istio-cni writes, in text and expressions", async () => {
  using istio = await TestNetns.make();
  await istio.run("nft -f -", istios);
  expect(await host.apply(node.netns, one)).toMatchObject({ writes: 1 });
  expect(await list()).toBe(await list(istio));
  expect(await expressions(node)).toBe(await expressions(istio));
  const look = await host.look(istio.netns, one);
  expect(look.findings).toEqual([]);
  expect((await host.entries(istio.netns)).get(4)).toEqual(new Map([["10.0.0.1", "uid-1"]]));
  expect(await host.apply(istio.netns, one)).toMatchObject({ writes: 0 });
});

test.each<[string, Partial<WantedHost>]>([
  ["any socket", { match: MATCH_ANY }],
  ["root's sockets", { match: ofUser(0) }],
  ["IPv4 alone", { families: [4] }],
])("nft makes the same of the text it lists, %s", async (_, options) => {
  const other = hostOf({ ...rules, ...options });
  await other.apply(node.netns, one);
  using again = await TestNetns.make();
  await again.run("nft -f -", await list());
  expect(await expressions(again)).toBe(await expressions(node));
  expect((await other.look(again.netns, one)).findings).toEqual([]);
});

test("members come and go one by one, and the rest of the table stays as it is", async () => {
  await host.apply(node.netns, one);
  const chain = () => node.run(`nft -a list chain ${table} postrouting`);
  const before = await chain();
  const next = members({ "10.0.0.1": "uid-9", "10.0.0.2": "uid-2" }, {}, ["uid-1"]);
  const { findings } = await host.look(node.netns, next);
  expect(findings.map(({ kind, family, uid }) => [kind, family, uid])).toEqual([
    ["wrong-owner", 4, "uid-9"],
    ["missing-member", 4, "uid-2"],
    ["stale-member", 6, "uid-1"],
  ]);
  expect(await host.apply(node.netns, next)).toMatchObject({ findings, writes: 1 });
  const now = await host.entries(node.netns);
  expect(now.get(4)).toEqual(next.owners[4]);
  expect(now.get(6)).toEqual(new Map());
  expect(await list()).toContain('10.0.0.1 comment "uid-9"');
  expect(await chain()).toBe(before);
  expect(await host.apply(node.netns, next)).toMatchObject({ writes: 0 });
});

test("an entry of a pod that was never heard of stays", async () => {
  await node.run("nft -f -", istios);
  expect(await host.apply(node.netns, members({}))).toMatchObject({ findings: [], writes: 0 });
});

test("a thousand members of both families are written and read", async () => {
  const uid = (index: number) => `${index}-${"a".repeat(30)}`;
  const many = (prefix: string, format: (index: number) => string) =>
    Object.fromEntries(Array.from({ length: 1000 }, (_, index) => [prefix + format(index), uid(index)]));
  const all = members(
    many("10.1.", (index) => `${index >> 8}.${index & 255}`),
    many("fd00::", (index) => (index + 1).toString(16)),
  );
  expect(await host.apply(node.netns, all)).toMatchObject({ writes: 1 });
  const look = await host.look(node.netns, all);
  expect(look.findings).toEqual([]);
  expect((await host.entries(node.netns)).get(6)?.size).toBe(1000);
  expect(
    await host.apply(
      node.netns,
      members(
        {},
        {},
        Array.from({ length: 1000 }, (_, at) => uid(at)),
      ),
    ),
  ).toMatchObject({ writes: 1 });
  expect(await list()).not.toContain("elements");
});

describe("damage is named and mended in one write, with the members of others kept", () => {
  test.each<[string, string[], object[]]>([
    ["a flushed chain", [`flush chain ${table} postrouting`], [{ kind: "wrong-rules" }]],
    ["a rule of others", [`insert rule ${table} postrouting accept`], [{ kind: "wrong-rules" }]],
    [
      "a lost chain",
      [`flush chain ${table} postrouting`, `delete chain ${table} postrouting`],
      [{ kind: "missing-chain" }],
    ],
    ["a chain of others", [`add chain ${table} theirs`], [{ kind: "leftover" }]],
    ["a dropping policy", [`add chain ${table} postrouting { policy drop ; }`], [{ kind: "wrong-rules" }]],
    [
      "a set that expires",
      [
        `flush chain ${table} postrouting`,
        `delete set ${table} istio-inpod-probes-v6`,
        `add set ${table} istio-inpod-probes-v6 { type ipv6_addr ; timeout 1h ; }`,
      ],
      [{ kind: "wrong-rules" }, { kind: "wrong-set", family: 6 }, { kind: "missing-member", family: 6 }],
    ],
  ])("%s", async (_, commands, findings) => {
    const all = members({ "10.0.0.1": "uid-1", "10.0.0.7": "uid-7" }, { "fd00::1": "uid-1" });
    await host.apply(node.netns, all);
    const right = await list();
    for (const command of commands) await node.run("nft -f -", command);
    expect((await host.look(node.netns, one)).findings).toMatchObject(findings);
    expect(await host.apply(node.netns, one)).toMatchObject({ writes: 1 });
    expect(await list()).toBe(right);
  });
});

test("a rule that is too long to be listed is noticed", async () => {
  await host.apply(node.netns, one);
  const place = { family: "inet", table: "istio-ambient-nat", chain: "postrouting" } as const;
  await ask(node.netns.fd, batch([newRule(place, { expressions: unlistableRule() })]));
  expect((await host.look(node.netns, one)).findings).toMatchObject([{ kind: "wrong-rules" }]);
  expect(await host.apply(node.netns, one)).toMatchObject({ writes: 1 });
  expect((await host.look(node.netns, one)).findings).toEqual([]);
});

test("a set of ranges is none of plain addresses", async () => {
  await node.run("nft -f -", istios.replace("type ipv4_addr;", "type ipv4_addr; flags interval;"));
  expect((await host.look(node.netns, one)).findings).toMatchObject([
    { kind: "wrong-set", family: 4 },
    { kind: "missing-member", family: 4 },
  ]);
  expect(await host.apply(node.netns, one)).toMatchObject({ writes: 1 });
  expect(await list()).not.toContain("interval");
});

/** As at uninstall and at a change of mode; @returns how many there were */
async function removeOurs(): Promise<number> {
  const tables = await findNativeTables(node.netns.fd);
  await removeNativeTables(node.netns.fd, tables);
  return tables.length;
}

test("a table that was put to sleep is a fault, what others have is not touched, and removal takes all that is ours", async () => {
  const theirs = "table inet theirs {\n\tchain input {\n\t\ttcp dport 22 accept\n\t}\n}\n";
  await node.run("nft -f -", theirs);
  await host.apply(node.netns, one);
  await node.run(`nft add table ${table} { flags dormant ; }`);
  await expect(host.apply(node.netns, one)).rejects.toMatchObject({ code: "TABLE_DORMANT" });
  expect([await removeOurs(), await removeOurs()]).toEqual([1, 0]);
  expect(await list()).toBe(theirs);
});

test("a batch that the kernel does not take leaves nothing", async () => {
  await expect(host.apply(node.netns, members({ "fd00::1": "of another family" }))).rejects.toMatchObject({
    code: "BATCH_REFUSED",
  });
  expect(await list()).toBe("");
});

test("sockets of the host, and they alone, come to members from the address of probes", async () => {
  await using network = await PodNetwork.create();
  const { netns } = network;
  const any = hostOf({ ...rules, match: MATCH_ANY });
  await any.apply(netns.node, members({ [addresses.b[4]]: "b" }, { [addresses.b[6]]: "b" }));
  for (const place of ["a", "b"] as const)
    await network.listen(place, 8080, (client) =>
      client.end(client.remoteAddress?.replace("::ffff:", "") ?? ""),
    );
  const seenFrom = async (from: "node" | "a", address: string) => {
    const socket = await network.dial(from, { address, port: 8080 });
    const answer = (await readAll(socket)).toString();
    socket.destroy();
    return answer;
  };
  for (const family of [4, 6] as const) {
    expect(await seenFrom("node", addresses.b[family])).toBe(snat[family]);
    // no member
    expect(await seenFrom("node", addresses.a[family])).toBe(addresses.node[family]);
  }
  // forwarded by the node, whose sockets have no part in it
  await network.exec("node", ["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
  await network.exec("a", ["ip", "route", "add", `${addresses.b[4]}/32`, "via", addresses.node[4]]);
  const watch =
    "table inet watch { chain forward { type filter hook forward priority 0; tcp dport 8080 counter; }; }";
  await network.exec("node", ["nft", "-f", "-"], watch);
  expect(await seenFrom("a", addresses.b[4])).toBe(addresses.a[4]);
  expect(await network.exec("node", ["nft", "list", "table", "inet", "watch"])).toMatch(/packets [1-9]/);
  const count = await network.exec("node", [
    "nft",
    "list",
    "chain",
    "inet",
    "istio-ambient-nat",
    "postrouting",
  ]);
  expect(count.match(/packets 1 bytes/g)).toHaveLength(2);
  // a user that no socket here belongs to
  const nobody = hostOf({ ...rules, match: ofUser(54321) });
  await nobody.apply(netns.node, members({ [addresses.b[4]]: "b" }, {}));
  expect(await seenFrom("node", addresses.b[4])).toBe(addresses.node[4]);
});

test("no file of it can start a process", () => {
  const source = join(import.meta.dirname, "../../src");
  const reached = new Set(["probes/native-probes.ts"]);
  const imports = readImports(source);
  // what the other form takes is named there, in types alone
  const types = "probes/host-form.ts";
  expect(readFileSync(join(source, types), "utf8")).not.toMatch(/^import (?!type )/m);
  for (const file of reached)
    for (const { from, to } of imports) if (from === file && to !== types) reached.add(to);
  for (const file of reached)
    expect(readFileSync(join(source, file), "utf8"), file).not.toContain("child_process");
});
