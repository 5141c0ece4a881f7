// SPDX-License-Identifier: Apache-2.0
// What changes in a redirected pod's rules and routing is named, and put right, in the real kernel.
import { describe, expect, test } from "vitest";
import { ToolRunner } from "../../src/linux/run-tool.ts";
import {
  expectNothingLeftAfterwards,
  installedBackends,
  redirection,
} from "../redirection/installed-backends.ts";
import { routes, sortTables } from "../redirection/pod-text.ts";
import { TestNetns } from "../redirection/test-netns.ts";
import { DEFAULT_OPTIONS, VARIANTS } from "../redirection/variants.ts";

const runner = new ToolRunner();
const { nft } = await installedBackends(runner);
await expectNothingLeftAfterwards();

const PLANTED: readonly [string, string[], object[]][] = [
  [
    "a rule is deleted",
    ["iptables-nft -t nat -D ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -j ACCEPT"],
    [
      {
        kind: "missing-rule",
        family: 4,
        table: "nat",
        chain: "ISTIO_OUTPUT",
        detail: "-A ISTIO_OUTPUT ! -d 127.0.0.1 -o lo -j ACCEPT",
      },
    ],
  ],
  [
    "a rule is added",
    ["ip6tables-nft -t mangle -I ISTIO_PRERT -j RETURN"],
    [
      {
        kind: "extra-rule",
        family: 6,
        table: "mangle",
        chain: "ISTIO_PRERT",
        detail: expect.stringMatching(/^-A ISTIO_PRERT \(a rule of \d+ bytes that is not ours\)$/),
      },
    ],
  ],
  [
    "rules change places",
    [
      "iptables-nft -t nat -D ISTIO_OUTPUT 1",
      "iptables-nft -t nat -A ISTIO_OUTPUT -d 169.254.7.127/32 -p tcp -m tcp -j ACCEPT",
    ],
    [{ kind: "reordered", family: 4, table: "nat", chain: "ISTIO_OUTPUT" }],
  ],
  [
    "a chain is emptied",
    ["iptables-nft -t raw -F ISTIO_PRERT"],
    [{ kind: "missing-rule", family: 4, table: "raw", chain: "ISTIO_PRERT" }],
  ],
  [
    "a chain is removed",
    [
      "ip6tables-nft -t raw -D OUTPUT -j ISTIO_OUTPUT",
      "ip6tables-nft -t raw -F ISTIO_OUTPUT",
      "ip6tables-nft -t raw -X ISTIO_OUTPUT",
    ],
    [
      { kind: "missing-chain", family: 6, table: "raw", chain: "ISTIO_OUTPUT" },
      { kind: "missing-jump", family: 6, table: "raw", chain: "OUTPUT" },
    ],
  ],
  [
    "a jump is deleted",
    ["iptables-nft -t mangle -D OUTPUT -j ISTIO_OUTPUT"],
    [
      {
        kind: "missing-jump",
        family: 4,
        table: "mangle",
        chain: "OUTPUT",
        detail: "OUTPUT does not jump to ISTIO_OUTPUT",
      },
    ],
  ],
  [
    "a jump is doubled",
    ["iptables-nft -t nat -I PREROUTING -j ISTIO_PRERT", "iptables-nft -t nat -I PREROUTING -j ISTIO_PRERT"],
    [
      {
        kind: "duplicate-jump",
        family: 4,
        table: "nat",
        chain: "PREROUTING",
        detail: "PREROUTING jumps to ISTIO_PRERT 3 times",
      },
    ],
  ],
  [
    "a jump gets a condition",
    ['iptables-nft -t nat -I PREROUTING -p tcp -m comment --comment "x" -g ISTIO_PRERT'],
    [{ kind: "extra-rule", family: 4, table: "nat", chain: "PREROUTING" }],
  ],
  [
    "all tables are flushed",
    ["nft flush ruleset"],
    [4, 6].flatMap((family) =>
      ["mangle", "nat", "raw"].flatMap((table) => [
        { kind: "missing-chain", family, table, chain: "ISTIO_PRERT" },
        { kind: "missing-jump", family, table, chain: "PREROUTING" },
        { kind: "missing-chain", family, table, chain: "ISTIO_OUTPUT" },
        { kind: "missing-jump", family, table, chain: "OUTPUT" },
      ]),
    ),
  ],
  [
    "the ip rule is deleted",
    ["ip rule del pref 32764"],
    [{ kind: "missing-ip-rule", family: 4, table: "100" }],
  ],
  [
    "the route is deleted",
    ["ip -6 route flush table 100"],
    [{ kind: "missing-route", family: 6, table: "100" }],
  ],
];

describe("drift in the kernel", () => {
  const redirect = () => redirection(nft);

  test.each(PLANTED)("is named and repaired when %s", async (_, commands, drift) => {
    using pod = await TestNetns.make();
    const redirected = redirect();
    await redirected.apply(pod.netns, DEFAULT_OPTIONS);
    const good = sortTables(
      (await pod.save()) + (await pod.save("ip6tables-nft-save")) + (await routes(pod)),
    );
    for (const command of commands) await pod.run(command);
    const verification = await redirected.verify(pod.netns, DEFAULT_OPTIONS);
    expect(verification.intact).toBe(false);
    for (const each of drift) expect(verification.drift).toContainEqual(expect.objectContaining(each));
    expect(verification.drift).toHaveLength(drift.length);
    const report = await redirected.apply(pod.netns, DEFAULT_OPTIONS);
    expect(report.changed).toBe(true);
    expect(report.repaired).toEqual(verification.drift);
    expect((await redirected.verify(pod.netns, DEFAULT_OPTIONS)).intact).toBe(true);
    expect(
      sortTables((await pod.save()) + (await pod.save("ip6tables-nft-save")) + (await routes(pod))),
    ).toBe(good);
  });

  test("raw tables are unexpected once DNS is not captured", async () => {
    using pod = await TestNetns.make();
    await redirect().apply(pod.netns, DEFAULT_OPTIONS);
    const { drift } = await redirect().verify(pod.netns, VARIANTS["no-dns"]!);
    expect(drift.filter(({ kind }) => kind === "unexpected-table")).toMatchObject([
      { family: 4, table: "raw" },
      { family: 6, table: "raw" },
    ]);
  });

  test("a rule in other bytes, though it says the same, becomes ours without a process", async () => {
    using pod = await TestNetns.make();
    const redirected = redirect();
    await redirected.apply(pod.netns, DEFAULT_OPTIONS);
    const good = await pod.save();
    await pod.run(
      "iptables-nft -t nat -R ISTIO_OUTPUT 1 -d 169.254.7.127 -p tcp -m comment --comment probes -j ACCEPT",
    );
    await redirected.apply(pod.netns, DEFAULT_OPTIONS);
    const started = runner.startedCount;
    await pod.run("iptables-nft -t nat -F ISTIO_OUTPUT");
    expect(await redirected.apply(pod.netns, DEFAULT_OPTIONS)).toMatchObject({ changed: true, writes: 1 });
    expect(runner.startedCount).toBe(started);
    expect(await pod.save()).toBe(good);
  });

  test("a table that iptables cannot show is as good as any", async () => {
    using pod = await TestNetns.make();
    await redirect().apply(pod.netns, DEFAULT_OPTIONS);
    await pod.run("iptables-nft -t nat -F ISTIO_OUTPUT");
    await pod.run("nft add rule ip nat PREROUTING meta hour 5-6 accept");
    expect((await redirect().apply(pod.netns, DEFAULT_OPTIONS)).repaired.length).toBe(6);
    expect((await redirect().verify(pod.netns, DEFAULT_OPTIONS)).intact).toBe(true);
    expect(await pod.run("nft list chain ip nat PREROUTING")).toContain("meta hour");
  });

  test("what only its doer can end is a fault that names it", async () => {
    using pod = await TestNetns.make();
    await redirect().apply(pod.netns, DEFAULT_OPTIONS);
    await pod.run("nft add table ip nat { flags dormant ; }");
    const fault = { name: "RedirectionError", code: "TABLE_DORMANT" };
    await expect(redirect().verify(pod.netns, DEFAULT_OPTIONS)).rejects.toMatchObject(fault);
    await expect(redirect().apply(pod.netns, DEFAULT_OPTIONS)).rejects.toMatchObject(fault);
  });

  test("a rule of another chain that leads into ours is taken away, and nothing else of that chain", async () => {
    using pod = await TestNetns.make();
    const redirected = redirect();
    await redirected.apply(pod.netns, DEFAULT_OPTIONS);
    await pod.run("iptables-nft -t nat -N THEIRS");
    await pod.run("iptables-nft -t nat -A THEIRS -p icmp -j RETURN");
    await pod.run("iptables-nft -t nat -A THEIRS -j ISTIO_OUTPUT");
    const report = await redirected.apply(pod.netns, DEFAULT_OPTIONS);
    expect(report.repaired).toMatchObject([{ kind: "extra-rule", chain: "THEIRS" }]);
    expect(report).not.toHaveProperty("fallback");
    expect(await pod.save()).toContain("-A THEIRS -p icmp -j RETURN");
    expect((await redirected.verify(pod.netns, DEFAULT_OPTIONS)).intact).toBe(true);
    await pod.run("iptables-nft -t nat -A THEIRS -j ISTIO_OUTPUT");
    expect(await redirected.open(pod.netns)).toEqual({ changed: true });
    expect(await pod.save()).not.toContain("-A THEIRS -j");
    await pod.run("iptables-nft -t nat -A THEIRS -j ISTIO_OUTPUT");
    expect(await redirected.remove(pod.netns)).toEqual({ changed: true });
    expect(await pod.save()).not.toContain("ISTIO");
  });
});
