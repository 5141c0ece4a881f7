// SPDX-License-Identifier: Apache-2.0
// The one verdict, as a table: what is there against what should be, and every finding by its name.
import { execFileSync } from "node:child_process";
import { describe, expect, test } from "vitest";
import { checkCapture, judgeCapture, type WantedCapture } from "../../src/check/capture.ts";
import type { SeenCapture } from "../../src/check/look.ts";
import { ZTUNNEL_SOCKETS } from "../../src/linux/listening-sockets.ts";
import { Netns } from "../../src/linux/netns.ts";
import type { Family } from "../../src/netfilter/family.ts";
import type { Verification } from "../../src/redirection/redirection-call.ts";
import { RedirectionError, type RedirectionErrorCode } from "../../src/redirection/redirection-error.ts";
import { routingDrift } from "../../src/redirection/routing-drift.ts";
import type { ChainName } from "../../src/redirection/rules.ts";
import { defaultSidecarOptions, type SidecarOptions } from "../../src/redirection/sidecar-options.ts";
import type { SidecarDrift } from "../../src/redirection/sidecar-redirection.ts";
import { toldSidecar } from "../../src/redirection/told-sidecar.ts";
import { holdNetns } from "../linux/held-netns.ts";
import { compareStates, desiredState, type RedirectState } from "../redirection/saved-state.ts";

const redirect = {
  dnsCapture: true,
  ingressMode: false,
  virtualInterfaces: [],
  probeSnatV4: "169.254.7.127",
  probeSnatV6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff",
};
const desired = (family: Family) => desiredState(redirect, family);
const there = { rule: true, route: true, supported: true };
const absent = { rule: false, route: false, supported: true };
const NOTHING: RedirectState = new Map();

/** What `verify` says of a namespace with these rules. */
function rules(
  states: Partial<Record<Family, RedirectState>>,
  { v4 = there, v6 = there, families = [4, 6] as readonly Family[] } = {},
): SeenCapture["rules"] {
  const routing = { v4, v6 };
  const drift = [
    ...routingDrift(routing, { loUp: true }),
    ...families.flatMap((family) =>
      compareStates(states[family] ?? desired(family), desired(family), family),
    ),
  ];
  const value: Verification = {
    intact: drift.length === 0,
    drift,
    skippedFamilies: [],
    routing,
    fingerprints: new Map(families.map((family) => [family, ""])),
  };
  return { value };
}

/** The wanted state of IPv4 with the rules of ISTIO_OUTPUT in nat replaced. */
function withRules(change: (rules: readonly string[]) => readonly string[]): RedirectState {
  const nat = desired(4).get("nat");
  if (nat === undefined) throw new Error("no table nat");
  const chains = new Map(nat.chains).set("ISTIO_OUTPUT", change(nat.chains.get("ISTIO_OUTPUT") ?? []));
  return new Map(desired(4)).set("nat", { ...nat, chains });
}

/** The wanted state without ISTIO_PRERT in mangle and the jump to it. */
function withoutChain(family: Family): RedirectState {
  const mangle = desired(family).get("mangle");
  if (mangle === undefined) throw new Error("no table mangle");
  const without = <T>(map: ReadonlyMap<ChainName, T>) =>
    new Map([...map].filter(([chain]) => chain !== "ISTIO_PRERT"));
  const { chains, jumps } = mangle;
  return new Map(desired(family)).set("mangle", {
    ...mangle,
    chains: without(chains),
    jumps: without(jumps),
  });
}

/** Of ztunnel's ports all are open but these. */
function sockets(...closed: string[]): SeenCapture["sockets"] {
  const value = ZTUNNEL_SOCKETS.map(({ port, protocol }) => ({
    port,
    protocol,
    listening: !closed.includes(`${protocol}/${port}`),
  }));
  return { value };
}

/** A pod that is captured as it should be, but for these answers. */
function seen(but: Partial<SeenCapture> = {}): SeenCapture {
  return {
    key: "4:1",
    rules: rules({}),
    sidecar: {},
    sockets: sockets(),
    addresses: { value: ["10.1.0.9"] },
    touched: { value: true },
    elsewhere: { value: [] },
    strangers: { value: [] },
    bypasses: { value: { bypasses: [], isComplete: true } },
    ...but,
  };
}

/** Of pods without a sidecar nobody asks. */
const sidecars = { verify: () => Promise.reject(new Error("not asked")) };
const failing = (error: Error) => ({ redirection: { verify: () => Promise.reject(error) }, sidecars });
const wanted: WantedCapture = {
  redirect,
  annotation: "enabled",
  ips: ["10.1.0.9"],
  held: { agent: "4:1", ztunnel: "4:1" },
};

function kinds(what: SeenCapture, but: Partial<WantedCapture> = {}): string[] {
  return [...new Set(judgeCapture(what, { ...wanted, ...but }).map(({ kind }) => kind))];
}

const error = (code: RedirectionErrorCode) => ({ error: new RedirectionError(code, "as it is") });
const gone = rules({ 4: NOTHING, 6: NOTHING }, { v4: absent, v6: absent });
const moved = rules({ 4: NOTHING, 6: NOTHING });
const legacy = { value: ["iptables-legacy (IPv4)"] };

describe("rules", () => {
  test.each<[string, (rules: readonly string[]) => readonly string[], string[]]>([
    ["nothing else", (rules) => rules, []],
    ["a rule less", (rules) => rules.slice(1), ["missing-rule"]],
    ["a rule more", (rules) => [...rules, "-j ACCEPT"], ["extra-rule"]],
    ["another order", (rules) => rules.toReversed(), ["reordered"]],
    ["no rule at all", () => [], ["missing-rule"]],
    ["rules of somebody else", () => ["-p tcp -j RETURN"], ["foreign-chain"]],
    ["one of ours among them", (rules) => ["-j RETURN", rules[0] ?? ""], ["missing-rule", "extra-rule"]],
  ])("%s", (_what, change, names) => {
    expect(kinds(seen({ rules: rules({ 4: withRules(change) }) }))).toEqual(names);
  });

  test("a foreign chain is one finding, with its rules and its place", () => {
    const state = withRules(() => ["-p tcp -j RETURN", "-j ACCEPT"]);
    expect(judgeCapture(seen({ rules: rules({ 4: state }) }), wanted)).toEqual([
      {
        kind: "foreign-chain",
        detail:
          "ISTIO_OUTPUT holds none of our rules, but -A ISTIO_OUTPUT -p tcp -j RETURN, -A ISTIO_OUTPUT -j ACCEPT",
        at: { family: 4, table: "nat", chain: "ISTIO_OUTPUT" },
      },
    ]);
  });
});

describe("a pod of the mesh", () => {
  test.each<[string, Partial<SeenCapture>, Partial<WantedCapture>, string[]]>([
    ["is as it should be", {}, {}, []],
    ["nothing there, and annotated", { rules: gone }, {}, ["annotation-without-capture"]],
    ["nothing there, and not annotated", { rules: gone }, { annotation: null }, ["not-captured"]],
    ["nothing there, annotation unknown", { rules: gone }, { annotation: undefined }, ["not-captured"]],
    ["only rules are gone", { rules: moved }, {}, ["missing-chain", "missing-jump"]],
    [
      "one family is gone",
      { rules: rules({ 6: NOTHING }, { v6: absent }) },
      {},
      ["missing-ip-rule", "missing-route", "missing-chain", "missing-jump"],
    ],
    [
      "all that IPv4 alone has is gone",
      { rules: rules({ 4: NOTHING }, { v4: absent, v6: { ...absent, supported: false }, families: [4] }) },
      {},
      ["annotation-without-capture"],
    ],
    [
      "one chain of each family is gone, and the routing",
      { rules: rules({ 4: withoutChain(4), 6: withoutChain(6) }, { v4: absent, v6: absent }) },
      {},
      ["missing-ip-rule", "missing-route", "missing-chain", "missing-jump"],
    ],
    ["ip rule missing", { rules: rules({}, { v4: { ...there, rule: false } }) }, {}, ["missing-ip-rule"]],
    ["route missing", { rules: rules({}, { v6: { ...there, route: false } }) }, {}, ["missing-route"]],
    ["moved to the other variant", { rules: moved, elsewhere: legacy }, {}, ["wrong-backend"]],
    [
      "moved, and not annotated",
      { rules: moved, elsewhere: legacy },
      { annotation: null },
      ["wrong-backend"],
    ],
    ["in both variants", { elsewhere: legacy }, {}, ["wrong-backend"]],
    ["a stranger's chain beside ours", { strangers: { value: ["a chain"] } }, {}, ["foreign-chain"]],
    ["rules cannot be read", { rules: error("UNREADABLE_TABLE") }, {}, ["unreadable-rules"]],
    ["a table sleeps", { rules: error("TABLE_DORMANT") }, {}, ["dormant-table"]],
    ["the kernel was not asked in time", { rules: { error: new Error("late") } }, {}, []],
    ["a port closed", { sockets: sockets("tcp/15008") }, {}, ["ztunnel-sockets"]],
    ["DNS closed", { sockets: sockets("udp/15053") }, {}, ["ztunnel-sockets"]],
    [
      "DNS closed and not captured",
      {
        sockets: sockets("udp/15053", "tcp/15053"),
        rules: { value: { ...(rules({}).value as Verification), drift: [] } },
      },
      { redirect: { ...redirect, dnsCapture: false } },
      [],
    ],
    ["not annotated", {}, { annotation: null }, ["capture-without-annotation"]],
    ["still annotated as pending", {}, { annotation: "pending" }, ["capture-without-annotation"]],
    [
      "pending, and ztunnel is",
      { sockets: sockets("tcp/15008") },
      { annotation: "pending" },
      ["ztunnel-sockets"],
    ],
    ["annotation unknown", {}, { annotation: undefined }, []],
    ["the agent holds another namespace", {}, { held: { agent: "4:2", ztunnel: null } }, ["netns-swapped"]],
    ["ztunnel was given another", {}, { held: { agent: null, ztunnel: "4:2" } }, ["netns-swapped"]],
    ["none of its addresses", { addresses: { value: ["10.1.0.8"] } }, {}, ["netns-swapped"]],
    ["one of its addresses", {}, { ips: ["fd00::9", "10.1.0.9"] }, []],
    ["another spelling of its address", { addresses: { value: ["fd00::9"] } }, { ips: ["fd00:0::9"] }, []],
    ["no address known", { addresses: { value: [] } }, { ips: [] }, []],
    ["addresses not read", { addresses: {} }, {}, []],
    ["a swapped namespace is all that is said", { rules: gone }, { ips: ["10.1.0.8"] }, ["netns-swapped"]],
    ["how is not known", { rules: {} }, { redirect: "unknown" }, []],
  ])("%s", (_what, there, should, names) => {
    expect(kinds(seen(there), should)).toEqual(names);
  });
});

describe("a look at a real namespace", () => {
  test.each<[string, Error, string[], string[]]>([
    ["that somebody made unreadable", error("TABLE_OWNED").error, ["unreadable-rules"], []],
    ["that cannot be asked", new Error("no answer"), [], ["no answer"]],
  ])("%s", async (_what, failure, names, unseen) => {
    using netns = await Netns.makeTemporary();
    const report = await checkCapture(netns, { redirect }, failing(failure));
    expect(report.findings.map(({ kind }) => kind)).toEqual(names);
    expect(report.unseen.map(({ message }) => message)).toEqual(unseen);
    expect(report.seen.sockets.value?.map(({ listening }) => listening)).toEqual(Array(5).fill(false));
  });

  test("that does not answer in time, and is told to stop", async () => {
    using netns = await Netns.makeTemporary();
    let wasTold: AbortSignal | undefined;
    const report = await checkCapture(
      netns,
      { redirect },
      {
        redirection: {
          verify: (_netns, _options, { signal } = {}) => {
            wasTold = signal;
            return new Promise(() => {});
          },
        },
        sidecars,
        limitMs: 20,
      },
    );
    expect(report.unseen.map(({ message }) => message)).toEqual(["it did not answer within 20 ms"]);
    expect(wasTold?.aborted).toBe(true);
  });

  test.each([
    ["nft", "legacy"],
    ["legacy", "nft"],
    ["nft", "native"],
    ["legacy", "native"],
  ] as const)("that has our chains in iptables-%s, while %s is in use", async (other, variant) => {
    await using held = await holdNetns();
    using netns = Netns.open(held.path);
    const lock = { env: { ...process.env, XTABLES_LOCKFILE: held.path } };
    const tool = `ip6tables-${other}`;
    execFileSync("nsenter", [`--net=${held.path}`, tool, "-t", "nat", "-N", "ISTIO_OUTPUT"], lock);
    const search = { variant };
    const means = { redirection: { verify: async () => rules({}).value as Verification }, sidecars, search };
    const { findings, unseen } = await checkCapture(netns, { redirect }, means);
    expect(unseen).toEqual([]);
    expect(findings).toContainEqual({
      kind: "wrong-backend",
      detail: `our chains are in iptables-${other} (IPv6), and also where this node keeps them`,
    });
  });

  test("of a pod outside the mesh, with and without what only a search finds", async () => {
    using netns = await Netns.makeTemporary();
    const { redirection } = failing(new Error("not asked"));
    const search = { variant: "nft" } as const;
    const wanted = { redirect: "outside", annotation: "enabled" } as const;
    const [shallow, searched] = [
      await checkCapture(netns, wanted, { redirection, sidecars }),
      await checkCapture(netns, wanted, { redirection, sidecars, search }),
    ];
    expect([shallow.findings, shallow.unseen]).toEqual([[], []]);
    expect(searched.findings.map(({ kind }) => kind)).toEqual(["annotation-without-capture"]);
    expect(searched.unseen).toEqual([]);
  });
});

describe("a pod outside the mesh", () => {
  test.each<[string, SeenCapture["touched"], string | null | undefined, string[]]>([
    ["is left alone", { value: false }, null, []],
    ["has something of ours", { value: true }, null, ["unwanted-capture"]],
    ["has something of ours and says so", { value: true }, "enabled", ["unwanted-capture"]],
    ["says what is not so", { value: false }, "enabled", ["annotation-without-capture"]],
    ["was not looked into", {}, "enabled", []],
  ])("%s", (_what, touched, annotation, names) => {
    expect(kinds(seen({ touched, rules: {} }), { redirect: "outside", annotation })).toEqual(names);
  });
});

describe("a pod with a sidecar", () => {
  const sidecar = defaultSidecarOptions({ mode: "TPROXY" });
  const { own, wanted: tables } = toldSidecar(sidecar, [4, 6]);
  const drift = (kind: SidecarDrift["kind"], at: Partial<SidecarDrift> = {}): SidecarDrift => ({
    kind,
    family: 4,
    table: "nat",
    chain: "ISTIO_OUTPUT",
    detail: "-j ISTIO_REDIRECT",
    ...at,
  });
  const allChains = (families: readonly Family[]) =>
    own.flatMap(({ family, table, chains }) =>
      families.includes(family) && tables.some((each) => each.family === family && each.table === table)
        ? chains.map(({ chain }) => drift("missing-chain", { family, table, chain }))
        : [],
    );
  const served = (but: Partial<SeenCapture>, more: Partial<WantedCapture> = {}) =>
    kinds(seen({ rules: {}, bypasses: {}, sockets: {}, touched: { value: false }, ...but }), {
      redirect: "outside",
      sidecar,
      annotation: null,
      held: { agent: "4:1", ztunnel: null },
      ...more,
    });

  test.each<[string, Partial<SeenCapture>, string[]]>([
    ["whose rules are right", { sidecar: { value: [] } }, []],
    [
      "that lacks a rule and its address",
      { sidecar: { value: [drift("missing-rule"), drift("missing-address")] } },
      ["missing-rule", "missing-address"],
    ],
    [
      "that has nothing of it, not even the route",
      { sidecar: { value: [drift("missing-routing"), ...allChains([4])] } },
      ["no-sidecar-rules"],
    ],
    [
      "that has nothing of it in both families",
      { sidecar: { value: allChains([4, 6]) } },
      ["no-sidecar-rules"],
    ],
    ["that lacks all but a chain", { sidecar: { value: allChains([4]).slice(1) } }, ["missing-chain"]],
    ["whose rules cannot be judged", { sidecar: error("UNREADABLE_TABLE") }, ["unreadable-rules"]],
    ["whose table sleeps", { sidecar: error("TABLE_DORMANT") }, ["dormant-table"]],
    ["that could not be asked", { sidecar: { error: new Error("no answer") } }, []],
    [
      "in which ztunnel has a part all the same",
      { sidecar: { value: [] }, touched: { value: true } },
      ["unwanted-capture"],
    ],
    ["that runs elsewhere", { key: "4:2", sidecar: { value: [] } }, ["netns-swapped"]],
  ])("%s", (_what, but, names) => {
    expect(served(but)).toEqual(names);
  });

  test("that is annotated as captured", () => {
    expect(served({ sidecar: { value: [] } }, { annotation: "enabled" })).toEqual([
      "annotation-without-capture",
    ]);
  });

  test("is asked for nothing of ztunnel's, and its difference has its place", async () => {
    using netns = await Netns.makeTemporary();
    const { redirection } = failing(new Error("not asked"));
    const verify = async (_netns: Netns, options: SidecarOptions) => {
      expect(options).toBe(sidecar);
      return [drift("missing-rule", { family: 6 })];
    };
    const { findings, unseen } = await checkCapture(
      netns,
      { redirect: "outside", sidecar },
      { redirection, sidecars: { verify }, search: { variant: "nft" } },
    );
    expect(unseen).toEqual([]);
    expect(findings).toEqual([
      {
        kind: "missing-rule",
        detail: "-j ISTIO_REDIRECT",
        at: { family: 6, table: "nat", chain: "ISTIO_OUTPUT" },
      },
    ]);
  });
});
