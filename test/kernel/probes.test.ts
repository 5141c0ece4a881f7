// SPDX-License-Identifier: Apache-2.0
// Kubelet probes with real packets, on a node of its own: what passes a ztunnel that refuses all inbound traffic, and what
// does not.
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";
import { patience } from "../support/node/patience.ts";

type Inside = typeof import("./probes.inside.ts");

const families = [4, 6] as const;
const snat = { 4: "169.254.7.127", 6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff" } as const;
const refused = expect.stringMatching(/^(ECONNRESET|socket hang up|EPIPE)$/);

let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "probes.inside.ts"));
});
afterEach(async () => {
  await node.call.reset();
});
afterAll(async () => {
  await node?.stop();
});

describe.each(families)("over IPv%i", (family) => {
  test("an HTTP probe passes a ztunnel that refuses everything, as long as the pod's addresses are in the set", async () => {
    expect(await node.call.httpProbe(family)).toEqual({
      before: expect.stringMatching(/\.1$|:1$/),
      captured: refused,
      refused: 1,
      passing: snat[family],
      refusedLater: 1,
      removed: refused,
    });
  });

  test("a TCP probe finds the app's port open and others closed", async () => {
    expect(await node.call.tcpProbe(family)).toEqual({
      open: "connected",
      closed: "ECONNREFUSED",
      refused: 0,
    });
  });

  test("forwarded connections do not bypass ztunnel, through a DNAT or straight, from this bridge or another", async () => {
    const seen = await node.call.forwarded(family);
    // the way works until the pod is captured
    expect(seen.plainService).toHaveLength(2);
    expect(seen.plainDirect).toEqual(seen.sources);
    for (const source of seen.plainService ?? []) expect(source).toMatch(/^(10|fd10)[.:]/);
    expect(seen.service).toEqual([refused, refused]);
    expect(seen.direct).toEqual([refused, refused]);
    expect(seen.refused).toEqual(["4"]);
    expect(seen.host).toEqual([snat[family]]);
  });

  test("the synthetic check tells a probe that passes from one that ztunnel has and one that gets nowhere", async () => {
    const { without, whole, dropped } = await node.call.syntheticCheck(family);
    expect(without).toMatchObject({ outcome: "captured", seenSource: undefined });
    expect(whole).toMatchObject({ outcome: "bypassed", seenSource: snat[family] });
    expect(dropped).toMatchObject({
      outcome: "unreachable",
      message: expect.stringContaining("no answer within 500 ms"),
    });
  });
});

test("an exec probe inside the pod passes", async () => {
  expect(await node.call.execProbe()).toEqual(["4 0", "6 0", "4 0", "6 0"]);
});

test("a host that masquerades what it forwards does not make it a probe", async () => {
  expect(await node.call.masqueraded()).toEqual([refused, snat[4]]);
});

const reload =
  "iptables-save | grep -v ISTIO | iptables-restore; ip6tables-save | grep -v ISTIO | ip6tables-restore";

test.each([
  ["iptables -t nat -F", ["iptables", "-t", "nat", "-F"]],
  ["ipset flush", ["ipset", "flush"]],
])("after %s a probe passes again within 5 s", async (_name, command) => {
  const { broken, afterMs } = await node.call.healed(command);
  expect(broken).toEqual(refused);
  expect(afterMs).toBeLessThan(5_500 * patience());
});

test.each([
  ["a reload of the host's own ruleset", ["sh", "-c", reload]],
  [
    "another program's rule that comes first",
    ["iptables", "-t", "nat", "-I", "POSTROUTING", "-j", "MASQUERADE"],
  ],
])("after %s the next look lets probes pass again", async (_name, command) => {
  const { broken, afterMs } = await node.call.healed(command, { intervalMs: 1_000 });
  expect(broken).toEqual(refused);
  expect(afterMs).toBeLessThan(2_500 * patience());
});

describe("the watch over the probes' way", () => {
  const both = (...words: string[]) => [
    ["iptables", ...words],
    ["ip6tables", ...words],
  ];

  test("finds that probes pass, and leaves nothing in the pod and nothing with ztunnel", async () => {
    const { state, reports, log, seenByZtunnel, before, after } = await node.call.watched();
    expect(state).toEqual({ outcome: "bypassed", atMs: expect.closeTo(Date.now(), -4) });
    expect(reports).toEqual([]);
    expect(log).toEqual([expect.stringMatching(/^kubelet probes pass ztunnel: /)]);
    expect(seenByZtunnel).toBe(0);
    expect(before.acknowledged).toBe("yes");
    expect(before.sockets).toContain(":15006");
    expect(after).toEqual(before);
  });

  test.each([
    [
      "a rule of others hides the host's",
      "captured",
      both("-t", "nat", "-I", "ISTIO_POSTRT", "-j", "RETURN"),
    ],
    ["IPv6's rule alone is gone", "captured", [["ip6tables", "-t", "nat", "-F", "ISTIO_POSTRT"]]],
    ["the sets are empty", "captured", [["ipset", "flush"]]],
    [
      "packets pass the host's chain by on another way",
      "unreachable",
      [
        ["ip", "route", "add", "unreachable", "V4/32"],
        ["ip", "-6", "route", "add", "unreachable", "V6/128"],
      ],
    ],
    ["one family has no way", "unreachable", [["ip", "route", "add", "blackhole", "V4/32"]]],
  ] as const)("says what to do when %s, and leaves the enrolment alone", async (_name, outcome, disturb) => {
    const { state, reports, log, before, after } = await node.call.watched(disturb);
    expect(state.outcome).toBe(outcome);
    const remedy = expect.stringContaining("set bpf.hostLegacyRouting=true");
    expect(reports).toEqual([
      {
        uid: expect.any(String),
        outcome,
        message: expect.stringMatching(/^A probe from the host to /),
        remedy,
      },
    ]);
    expect(log).toEqual([
      expect.stringMatching(/^kubelet probes do not pass ztunnel on this node: .*hostLegacy/),
    ]);
    expect(before.acknowledged).toBe("yes");
    expect(after).toEqual(before);
  });

  test.each([
    [["ovn-k8s-cni-overlay"], "use local gateway mode (routingViaHost: true)"],
    [["calico", "portmap"], "before 3.29; upgrade"],
    [["aws-cni"], "POD_SECURITY_GROUP_ENFORCING_MODE=standard"],
    [["bridge"], "look for a setting of the CNI plugin"],
  ])("names the remedy for %s", async (types, remedy) => {
    const { reports } = await node.call.watched([["ipset", "flush"]], types);
    expect(reports.map((report) => report.remedy)).toEqual([expect.stringContaining(remedy)]);
  });

  test("looks at one pod, again after a while when probes do not pass, and again when there is a reason to", async () => {
    const seen = await node.call.watchedAgain();
    expect(seen).toMatchObject({
      first: "captured",
      reportsAtFirst: 1,
      // two looks in each family
      refusedAtFirst: 4,
      mended: "bypassed",
      reportsAtMended: 1,
      stillMended: "bypassed",
      doubted: "captured",
      reports: 2,
    });
    expect(seen.sinceFirstMs).toBeGreaterThanOrEqual(400);
  });

  test("does not report what heals by itself", async () => {
    expect(await node.call.watchedHealing()).toEqual({ found: "bypassed", reports: [] });
  });

  test("finds nothing out from a pod that has ended, and takes the next", async () => {
    const { log, ...seen } = await node.call.watchedDeparting();
    expect(seen).toEqual({ gone: "unknown", next: "bypassed", reports: [] });
    expect(log).toContainEqual(
      expect.stringMatching(/^could not find out whether kubelet probes pass.*EADDRNOTAVAIL/),
    );
  });

  test("gives up at once when it is stopped, and leaves nothing", async () => {
    const { ms, ...seen } = await node.call.watchedStopping();
    expect(seen).toEqual({
      state: { outcome: "unknown", atMs: undefined },
      leftSockets: false,
      leftHandles: 0,
    });
    expect(ms).toBeLessThan(1_000 * patience());
  });

  test("says once that it cannot look when only the kubelet's connections count", async () => {
    expect(await node.call.watchedKubelet()).toEqual({
      state: { outcome: "unknown", atMs: undefined },
      log: [expect.stringContaining("PROBE_MATCH=kubelet")],
    });
  });
});

describe("PROBE_MATCH=kubelet", () => {
  test("lets the kubelet pass and no other host process, also when the kubelet comes back in a new cgroup", async () => {
    const seen = await node.call.kubeletOnly();
    if (seen.match !== "cgroup")
      throw new Error(`this machine has no cgroup v2 to test with: ${JSON.stringify(seen)}`);
    expect(seen).toMatchObject({ kubelet: snat[4], other: refused, unprivileged: "ECONNRESET" });
    expect(seen).toMatchObject({ stale: refused, restarted: "true", restored: "0" });
  });

  test("names the host's cgroup when the agent has a cgroup namespace of its own", async () => {
    const { isRight, rule } = await node.call.kubeletFromOwnCgroupNs();
    expect(isRight).toBe(true);
    expect(rule).toMatch(/ -m cgroup --path "?ambient-cni-[^/]+\/kubelet\.service"? /);
  });

  test("falls back to the kubelet's user where it is in no cgroup of its own", async () => {
    const seen = await node.call.kubeletInRoot();
    expect(seen).toMatchObject({ match: "uid", kubelet: snat[4], other: "ECONNRESET" });
    expect(seen.warnings).toEqual([
      expect.stringContaining("every host process of user 0 counts as kubelet"),
    ]);
  });
});
