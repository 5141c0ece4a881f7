// SPDX-License-Identifier: Apache-2.0
import { closeSync } from "node:fs";
import { createServer } from "node:net";
import { describe, expect, test } from "vitest";
import type { Place } from "../../src/enrolment/attachments.ts";
import { parseEnablementSelectors } from "../../src/kube/selectors.ts";
import { listeningSockets } from "../../src/linux/listening-sockets.ts";
import { socketInNetns } from "../../src/linux/native.ts";
import { Netns } from "../../src/linux/netns.ts";
import type { Drift } from "../../src/redirection/fingerprint.ts";
import type { SidecarDrift } from "../../src/redirection/sidecar-redirection.ts";
import { AgentState } from "../../src/status/agent-state.ts";
import { describeDesired, renderSelector } from "../../src/status/desired-report.ts";
import type { PodDetailReport, PodReport } from "../../src/status/state-report.ts";
import { holdNetns } from "../linux/held-netns.ts";
import { FakeAgent } from "./fake-agent.ts";

function listed(agent: FakeAgent, name: string): PodReport {
  const found = new AgentState(agent.facts()).pods().pods.find((pod) => pod.name === name);
  if (found === undefined) throw new Error(`"${name}" is not listed`);
  return found;
}

async function looked(agent: FakeAgent, name: string, ns = "shop"): Promise<PodDetailReport> {
  const report = await new AgentState(agent.facts()).pod(ns, name);
  if (report === undefined) throw new Error(`"${name}" is not known`);
  return report;
}

const intact = {
  intact: true,
  drift: [] as Drift[],
  skippedFamilies: [],
  fingerprints: new Map<4 | 6, string>(),
  routing: {
    v4: { rule: true, route: true, supported: true },
    v6: { rule: true, route: true, supported: true },
  },
};

describe("renderSelector", () => {
  test.each([
    ["[{}]", "every pod"],
    ["[{podSelector: {matchLabels: {a: b, c: d}}}]", "pods a=b,c=d"],
    [
      "[{namespaceSelector: {matchExpressions: [{key: a, operator: In, values: [b, c]}]}}]",
      "namespaces a in (b,c)",
    ],
    [
      "[{podSelector: {matchExpressions: [{key: a, operator: NotIn, values: [b]}]}, namespaceSelector: {matchLabels: {c: d}}}]",
      "pods a!=b, namespaces c=d",
    ],
    [
      "[{podSelector: {matchExpressions: [{key: a, operator: NotIn, values: [b, c]}]}}]",
      "pods a notin (b,c)",
    ],
    [
      "[{podSelector: {matchExpressions: [{key: a, operator: Exists}, {key: b, operator: DoesNotExist}]}}]",
      "pods a,!b",
    ],
  ])("renders %s as %s", (yaml, text) => {
    const [entry] = parseEnablementSelectors(yaml).selectors;
    expect(entry === undefined ? undefined : renderSelector(entry)).toBe(text);
  });
});

describe("describeDesired", () => {
  test.each([
    "host-network",
    "sidecar",
    "sidecar-served",
    "ztunnel",
    "agent",
    "excluded-namespace",
    "terminated",
    "agent-leaves",
    "not-selected",
  ] as const)("names exclusion %s in a sentence", (reason) => {
    const report = describeDesired({ wanted: false, reason }, []);
    expect(report).toMatchObject({ wanted: false, exclusion: reason, selector: null, redirect: null });
    expect(report.why).toMatch(/ /);
  });

  test("says that it is not known while the namespace is not", () => {
    expect(describeDesired(undefined, [])).toMatchObject({ wanted: null, exclusion: null });
  });
});

describe("pods in the list", () => {
  test("a captured pod has what its last run verified", () => {
    const agent = new FakeAgent();
    agent.add("web-0", { annotations: { "ambient.istio.io/redirection": "enabled" } });
    const pod = listed(agent, "web-0");
    expect(pod).toMatchObject({
      ns: "shop",
      uid: "uid-web-0",
      state: "enrolled",
      annotation: "enabled",
      lastError: null,
      desired: {
        wanted: true,
        why: "entry 2 of the enablement selectors matches: pods istio.io/dataplane-mode!=none, namespaces istio.io/dataplane-mode=ambient",
        selector: { index: 1 },
        redirect: { dnsCapture: true, ingressMode: false },
      },
      observed: {
        source: "last-run",
        unread: null,
        sockets: null,
        ztunnel: { inRoster: true, acknowledged: true, connection: 1 },
        probes: { member: true, addresses: ["10.1.0.9"] },
      },
    });
    expect(pod.observed?.families).toMatchObject([
      { family: 4, drift: [], ipRule: true, route: true },
      { family: 6, drift: [], ipRule: true, route: true },
    ]);
    for (const { fingerprint, wantedFingerprint } of pod.observed?.families ?? []) {
      expect(fingerprint).toMatch(/^[0-9a-f]{64}$/);
      expect(fingerprint).toBe(wantedFingerprint);
    }
    expect(pod.observed?.at).toBe(agent.history.of("uid-web-0").look?.at);
  });

  test("a pod captured while it ran has the connections that it had, one captured before it ran has none", () => {
    const agent = new FakeAgent();
    agent.add("web-0", { earlierConnections: 3 });
    agent.add("web-1", { earlierConnections: 0 });
    agent.add("web-2");
    const reports = ["web-0", "web-1", "web-2"].map((name) => listed(agent, name));
    expect(reports.map(({ earlierConnections }) => earlierConnections)).toEqual([3, 0, null]);
    expect(reports[0]?.desired.redirect?.establishedConnections).toBe("keep");
  });

  test("with AMBIENT_IPV6=false a pod with an IPv6 address says what becomes of it, and no other does", () => {
    const agent = new FakeAgent();
    agent.ipv6 = false;
    agent.add("web-0", { ips: ["10.1.0.9", "fd00::9"] });
    agent.add("web-1");
    expect(listed(agent, "web-0").observed?.families).toMatchObject([
      { family: 4, skipped: null, ipRule: true },
      {
        family: 6,
        skipped: expect.stringContaining("AMBIENT_IPV6=false"),
        drift: [],
        ipRule: null,
        route: null,
      },
    ]);
    expect(listed(agent, "web-1").observed?.families).toMatchObject([{ family: 4 }]);
  });

  test("a pod whose annotation is refused says so until it is written, after what keeps it from being captured", async () => {
    const agent = new FakeAgent();
    agent.add("web-0");
    const refusal = { at: "2026-01-01T00:00:00.000Z", message: "422: denied by policy", attempts: 4 };
    agent.refusals.set("uid-web-0", refusal);
    expect(listed(agent, "web-0")).toMatchObject({
      state: "enrolled",
      summary: "captured: its annotation is refused: 422: denied by policy",
      lastError: {
        ...refusal,
        message: "its annotation is refused: 422: denied by policy",
        remedy: expect.stringContaining("pods/status"),
      },
    });
    expect((await new AgentState(agent.facts()).node()).pods).toMatchObject({
      enrolled: 1,
      failing: [{ kind: "api", count: 1 }],
    });
    agent.history.failed("uid-web-0", { kind: "rules", message: "no rules", remedy: "write some" });
    expect(listed(agent, "web-0").lastError?.message).toBe("no rules");
    agent.refusals.clear();
    agent.history.end("uid-web-0", "enrolled", "enrolled");
    expect(listed(agent, "web-0").lastError).toBeNull();
  });

  test("what was verified in another namespace than the pod's present one is not shown", () => {
    const agent = new FakeAgent();
    agent.add("web-0");
    agent.history.looked("uid-web-0", { netnsKey: "4:1", skippedFamilies: [] });
    const { observed } = listed(agent, "web-0");
    expect(observed).toMatchObject({ families: [], unread: "no run has looked at it yet" });
  });

  test("a family that is left out has no fingerprint and says why", () => {
    const agent = new FakeAgent();
    agent.add("web-0");
    const netnsKey = agent.records.get("uid-web-0")?.sandbox?.netns.key ?? "";
    const skipped = { family: 6, part: "all", reason: "IPv6 is off in the namespace" } as const;
    agent.history.looked("uid-web-0", { netnsKey, skippedFamilies: [skipped] });
    expect(listed(agent, "web-0").observed?.families[1]).toMatchObject({
      skipped: "IPv6 is off in the namespace",
      fingerprint: null,
      ipRule: null,
      route: null,
    });
  });

  test("a pod that waits says for what, with the remedy", () => {
    const agent = new FakeAgent();
    agent.add("web-0", { state: "waiting" });
    agent.history.failed("uid-web-0", {
      kind: "ztunnel",
      message: "no ztunnel connection",
      remedy: "; check the ztunnel pod",
    });
    expect(listed(agent, "web-0")).toMatchObject({
      summary: "waits, untouched: no ztunnel connection",
      lastError: { message: "no ztunnel connection", remedy: "check the ztunnel pod", attempts: 1 },
    });
  });

  test("a pod outside has no observation and says why it is outside", () => {
    const agent = new FakeAgent();
    agent.add("a", { ns: "plain", state: "none" });
    agent.add("b", { hostNetwork: true, state: "outside" });
    expect(listed(agent, "a")).toMatchObject({
      observed: null,
      summary: expect.stringMatching(/^outside: no entry/),
    });
    expect(listed(agent, "b")).toMatchObject({ observed: null, desired: { exclusion: "host-network" } });
  });

  test("an ADD's pod is listed before the watch has it", () => {
    const agent = new FakeAgent();
    agent.add("new");
    agent.pods.clear();
    expect(listed(agent, "new").state).toBe("enrolled");
  });
});

describe("a look at one pod", () => {
  test("shows drift, routing and sockets as they are", async () => {
    await using held = await holdNetns();
    using netns = Netns.open(held.path);
    const agent = new FakeAgent();
    agent.add("web-0", { netns });
    const drift: Drift[] = [
      { kind: "missing-jump", family: 4, table: "nat", chain: "OUTPUT", detail: "OUTPUT does not jump" },
      { kind: "missing-route", family: 6, table: "100", chain: "", detail: "no route" },
    ];
    agent.verify = () =>
      Promise.resolve({
        ...intact,
        intact: false,
        drift,
        routing: { ...intact.routing, v6: { rule: true, route: false, supported: true } },
        fingerprints: new Map([[4 as const, "0".repeat(64)]]),
      });
    // whose it is says the field, not the sentence
    const another = {
      kind: "missing-member",
      family: 4,
      detail: "of pod uid-web-0",
      uid: "uid-web-1",
    } as const;
    // an old address that still names the pod lacks nothing
    agent.probeDrift.push(another, { ...another, kind: "stale-member", uid: "uid-web-0" });
    expect((await looked(agent, "web-0")).observed).toMatchObject({ probes: { member: true } });
    agent.probeDrift.push({ ...another, uid: "uid-web-0", detail: "an entry is missing" });
    const { observed } = await looked(agent, "web-0");
    expect(observed).toMatchObject({
      source: "kernel",
      netns: netns.key,
      unread: null,
      probes: { member: false },
      families: [
        { family: 4, fingerprint: "0".repeat(64), ipRule: true, route: true },
        { family: 6, ipRule: true, route: false },
      ],
    });
    expect(observed?.families.map((family) => family.drift.map(({ kind }) => kind))).toEqual([
      ["missing-jump"],
      ["missing-route"],
    ]);
    // only routing differs: the rules are the wanted ones
    expect(observed?.families[1]?.fingerprint).toBe(observed?.families[1]?.wantedFingerprint);
    expect(observed?.sockets?.every(({ listening }) => !listening)).toBe(true);
  });

  test("says what it could not read, and the rest all the same", async () => {
    const agent = new FakeAgent();
    await using held = await holdNetns();
    using netns = Netns.open(held.path);
    agent.add("web-0", { netns });
    agent.verify = () => Promise.reject(new Error("Cannot run iptables-nft-save: no such file"));
    const { observed } = await looked(agent, "web-0");
    expect(observed).toMatchObject({
      unread: "Cannot run iptables-nft-save: no such file",
      families: [],
      ztunnel: { acknowledged: true },
    });
    expect(observed?.sockets).toHaveLength(5);
  });

  test("asks once for those who ask at the same time, and about four pods at a time", async () => {
    await using held = await holdNetns();
    using netns = Netns.open(held.path);
    const agent = new FakeAgent();
    for (let i = 0; i < 10; i++) agent.add(`web-${i}`, { netns });
    let running = 0;
    let most = 0;
    let calls = 0;
    agent.verify = async () => {
      calls++;
      most = Math.max(most, ++running);
      await new Promise(setImmediate);
      running--;
      return intact;
    };
    const state = new AgentState(agent.facts());
    const names = Array.from({ length: 30 }, (_, index) => `web-${index % 10}`);
    const reports = await Promise.all(names.map((name) => state.pod("shop", name)));
    expect(reports.map((report) => report?.name)).toEqual(names);
    expect(calls).toBe(10);
    expect(most).toBeLessThanOrEqual(4);
  });

  test("gives up on a namespace that does not answer, and tells the verification", async () => {
    await using held = await holdNetns();
    using netns = Netns.open(held.path);
    const agent = new FakeAgent();
    agent.add("web-0", { netns });
    let signal: AbortSignal | undefined;
    agent.verify = (_netns, _options, call) => {
      signal = call?.signal;
      return new Promise(() => {});
    };
    const { observed } = await looked(agent, "web-0");
    expect(observed?.unread).toBe("it did not answer within 3000 ms");
    expect(signal?.aborted).toBe(true);
  });

  test("of a closed namespace reads nothing", async () => {
    const agent = new FakeAgent();
    agent.add("web-0");
    agent.verify = () => Promise.reject(new Error("must not be asked"));
    expect((await looked(agent, "web-0")).observed).toMatchObject({ sockets: null, families: [] });
  });

  test("has the pod's log lines and all its changes", async () => {
    const agent = new FakeAgent();
    agent.add("web-0");
    agent.history.end("uid-web-0", "pending", "failed");
    agent.ring.note({ level: "info", scope: "cni", fields: { uid: "uid-web-0" }, message: "said" });
    const report = await looked(agent, "web-0");
    expect(report.log.map(({ message }) => message)).toEqual(["said"]);
    expect(report.transitions.map(({ to }) => to)).toEqual(["enrolled", "pending"]);
  });
});

describe("listeningSockets", () => {
  test("sees what listens in that namespace, in either family, and nothing else", async () => {
    await using held = await holdNetns();
    using netns = Netns.open(held.path);
    const servers = [
      { family: 6, type: "stream", port: 15006 },
      { family: 4, type: "stream", port: 15001, address: "127.0.0.1" },
    ] as const;
    const opened = servers.map(({ ...options }) => {
      const fd = socketInNetns(netns.fd, { ...options, backlog: 1 });
      return createServer().listen({ fd });
    });
    // not TCP, which is asked about for this port too
    const udp = socketInNetns(netns.fd, { family: 4, type: "dgram", port: 15053, address: "127.0.0.1" });
    try {
      const seen = await listeningSockets(netns.fd);
      expect(seen.filter(({ listening }) => listening)).toEqual([
        { port: 15001, protocol: "tcp", listening: true },
        { port: 15006, protocol: "tcp", listening: true },
        { port: 15053, protocol: "udp", listening: true },
      ]);
    } finally {
      for (const server of opened) server.close();
      closeSync(udp);
    }
  });
});

describe("250 pods", () => {
  test("are listed well within a second and do not hold up the event loop", () => {
    const agent = new FakeAgent();
    for (let i = 0; i < 250; i++) agent.add(`pod-${i}`);
    const state = new AgentState(agent.facts());
    JSON.stringify(state.pods());
    const times = Array.from({ length: 5 }, () => {
      const startMs = performance.now();
      JSON.stringify(state.pods());
      return performance.now() - startMs;
    });
    expect(Math.min(...times)).toBeLessThan(100);
  });
});

describe("a pod with a sidecar that is served", () => {
  const sidecar = { dnsCapture: true, dualStack: false, dropInvalid: false };
  const rule: SidecarDrift = {
    kind: "missing-rule",
    family: 4,
    table: "nat",
    chain: "ISTIO_OUTPUT",
    detail: "-j ISTIO_REDIRECT",
  };
  const setback = {
    kind: "rules",
    message: "table nat cannot be read",
    remedy: "; see who writes there",
  } as const;

  test("stands as sidecar, with how it is redirected and what its ADD saw", () => {
    const agent = new FakeAgent();
    agent.add("web-0", {
      sidecar,
      annotations: { "traffic.sidecar.istio.io/includeInboundPorts": "80,443" },
    });
    const pod = listed(agent, "web-0");
    expect(pod).toMatchObject({
      state: "sidecar",
      lastError: null,
      annotation: null,
      desired: {
        wanted: false,
        exclusion: "sidecar-served",
        redirect: null,
        sidecar: { mode: "REDIRECT", proxyUid: 1337, dnsCapture: true, includeInboundPorts: [80, 443] },
      },
      observed: {
        source: "last-run",
        containerId: "d".repeat(64),
        families: [{ family: 4, drift: [], ipRule: null, route: null, fingerprint: null }],
        unread: null,
        ztunnel: { inRoster: false, acknowledged: false },
        probes: { member: null, addresses: [] },
      },
      transitions: [{ from: "outside", to: "sidecar", ms: 1.5, steps: [] }],
    });
    expect(pod.summary).toMatch(/^redirected to its sidecar, verified at \d{4}-/);
  });

  test.each(["unverified", "failed"] as const)("that stands as %s says why, and what to do", (state) => {
    const agent = new FakeAgent();
    agent.add("web-0", { sidecar });
    agent.sidecarRecords.failed("uid-web-0", { state, ...setback }, 3);
    const pod = listed(agent, "web-0");
    expect(pod).toMatchObject({
      state,
      lastError: { message: "table nat cannot be read", remedy: "see who writes there", attempts: 1 },
      observed: { families: [], unread: "table nat cannot be read" },
      transitions: [{ from: "sidecar", to: state }],
    });
    expect(pod.summary).toMatch(/its sidecar.*: table nat cannot be read$/);
  });

  test("before the first look of a new agent it is half-way", () => {
    const agent = new FakeAgent();
    agent.add("web-0", { sidecar });
    agent.forgetSidecars();
    expect(listed(agent, "web-0")).toMatchObject({
      state: "pending",
      observed: { families: [], unread: "no look has been there yet" },
    });
  });

  test("whose rules another program wrote is outside, as before", () => {
    const agent = new FakeAgent();
    agent.add("web-0", { sidecar });
    agent.forgetSidecars();
    agent.places.clear();
    expect(listed(agent, "web-0")).toMatchObject({
      state: "outside",
      observed: null,
      desired: { exclusion: "sidecar-served", sidecar: null },
    });
  });

  test("is looked at in the kernel when it is asked for alone", async () => {
    const agent = new FakeAgent();
    await using held = await holdNetns();
    using netns = Netns.open(held.path);
    agent.add("web-0", { sidecar, netns });
    expect((await looked(agent, "web-0")).observed).toMatchObject({
      source: "kernel",
      netns: netns.key,
      families: [{ family: 4, drift: [] }],
      unread: null,
    });
    agent.sidecarDrift = [rule, { ...rule, family: 6 }];
    const { observed } = await looked(agent, "web-0");
    expect(observed?.families.map(({ family, drift }) => [family, drift.map(({ kind }) => kind)])).toEqual([
      [4, ["missing-rule"]],
      [6, ["missing-rule"]],
    ]);
    agent.places.set("uid-web-0", { ...(agent.places.get("uid-web-0") as Place), netnsKey: "4:1" });
    expect((await looked(agent, "web-0")).observed).toMatchObject({
      families: [],
      unread: "its network namespace is not there",
    });
  });
});
