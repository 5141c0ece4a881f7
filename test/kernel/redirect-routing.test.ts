// SPDX-License-Identifier: Apache-2.0
// A redirection's routing in the real kernel: IPv6 that is off, and a loopback device that is down.
import { describe, expect, test, vi } from "vitest";
import { ToolRunner } from "../../src/linux/run-tool.ts";
import {
  expectNothingLeftAfterwards,
  installedBackends,
  redirection,
} from "../redirection/installed-backends.ts";
import { routes } from "../redirection/pod-text.ts";
import { TestNetns } from "../redirection/test-netns.ts";
import { DEFAULT_OPTIONS } from "../redirection/variants.ts";

const { nft } = await installedBackends(new ToolRunner());
await expectNothingLeftAfterwards();

describe("IPv6", () => {
  test("is skipped and reported when it is off in the namespace, and caught up with when it is on again", async () => {
    using pod = await TestNetns.make();
    const redirect = redirection(nft);
    const set = (value: number) =>
      pod.run(`sysctl -qw net.ipv6.conf.all.disable_ipv6=${value} net.ipv6.conf.lo.disable_ipv6=${value}`);
    await set(1);
    const report = await redirect.apply(pod.netns, DEFAULT_OPTIONS);
    expect(report).toMatchObject({ writes: 1, skippedFamilies: [{ family: 6, part: "all" }] });
    expect(await redirect.verify(pod.netns, DEFAULT_OPTIONS)).toMatchObject({
      intact: true,
      skippedFamilies: [{ family: 6 }],
    });
    expect(await pod.save("ip6tables-nft-save")).not.toContain("ISTIO");
    await set(0);
    expect((await redirect.verify(pod.netns, DEFAULT_OPTIONS)).intact).toBe(false);
    expect(await redirect.apply(pod.netns, DEFAULT_OPTIONS)).toMatchObject({
      changed: true,
      writes: 1,
      skippedFamilies: [],
    });
  });

  test("keeps its rules when only the loopback device has none", async () => {
    using pod = await TestNetns.make();
    await pod.run("ip link add eth0 type veth peer name eth1");
    await pod.run("ip addr add fd00::5/64 dev eth0 nodad");
    await pod.run("sysctl -qw net.ipv6.conf.lo.disable_ipv6=1");
    const redirect = redirection(nft);
    expect(await redirect.apply(pod.netns, DEFAULT_OPTIONS)).toMatchObject({
      writes: 1,
      skippedFamilies: [{ family: 6, part: "routing" }],
    });
    expect(await pod.save("ip6tables-nft-save")).toContain("--to-ports 15001");
    expect(await redirect.apply(pod.netns, DEFAULT_OPTIONS)).toMatchObject({ changed: false, writes: 0 });
  });

  test.each([false, true])("is left alone when it is switched off (a new namespace: %s)", async (isNew) => {
    using pod = await TestNetns.make();
    const redirect = redirection(nft, { ipv6: false });
    const report = await redirect.apply(pod.netns, DEFAULT_OPTIONS, { isNew });
    expect(report).toMatchObject({ writes: 1, skippedFamilies: [] });
    expect(report.repaired.filter(({ family }) => family === 6)).toEqual([]);
    expect(await pod.save("ip6tables-nft-save")).toBe("");
    expect((await routes(pod)).match(/32764/g)).toHaveLength(1);
    expect((await redirect.verify(pod.netns, DEFAULT_OPTIONS)).intact).toBe(true);
  });

  test("is expected of a new namespace as the last one had it, and what was expected wrongly is put right", async () => {
    const redirect = redirection(nft);
    const enrol = async (has6: boolean) => {
      using pod = await TestNetns.make();
      if (!has6) await pod.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.lo.disable_ipv6=1");
      const report = await redirect.apply(pod.netns, DEFAULT_OPTIONS, { isNew: true });
      const skipped = report.skippedFamilies.map(({ family }) => family);
      const rules6 = (await pod.save("ip6tables-nft-save")).includes("ISTIO");
      const state = await redirect.verify(pod.netns, DEFAULT_OPTIONS);
      expect(await redirect.apply(pod.netns, DEFAULT_OPTIONS)).toMatchObject({ changed: false, writes: 0 });
      return {
        skipped,
        rules6,
        intact: state.intact,
        families: [...new Set(report.repaired.map(({ family }) => family))].sort(),
      };
    };
    const with6 = { skipped: [], rules6: true, intact: true, families: [4, 6] };
    const without6 = { skipped: [6], rules6: false, intact: true, families: [4] };
    const pods = [true, false, false, true, true];
    for (const has6 of pods) expect(await enrol(has6)).toEqual(has6 ? with6 : without6);
  });

  test("cannot be wanted without its programs", () => {
    const backend = { ...nft, installed: { nft: { ...nft.installed.nft!, 6: undefined } } };
    expect(() => redirection(backend)).toThrow("AMBIENT_IPV6=false");
    expect(() => redirection(backend, { ipv6: false })).not.toThrow();
  });
});

describe("a namespace in which nothing was seen a moment ago", () => {
  test("is written route first, with what its routing has; one that is not so after all becomes right too", async () => {
    using pod = await TestNetns.make();
    const redirect = redirection(nft);
    const first = await redirect.apply(pod.netns, DEFAULT_OPTIONS, { isUntouched: true });
    expect(first).toMatchObject({ changed: true, writes: 1 });
    const whole = await pod.save();
    await pod.run("iptables-nft -t nat -F ISTIO_OUTPUT");
    await pod.run("ip rule delete fwmark 0x111/0xfff");
    const again = await redirect.apply(pod.netns, DEFAULT_OPTIONS, { isUntouched: true });
    expect(again.changed).toBe(true);
    expect(await pod.save()).toBe(whole);
    expect((await redirect.verify(pod.netns, DEFAULT_OPTIONS)).intact).toBe(true);
  });

  test("gets nothing while its loopback device is down, however often it is tried", async () => {
    using pod = await TestNetns.make();
    const redirect = redirection(nft);
    await pod.run("sysctl -qw net.ipv6.conf.lo.disable_ipv6=1");
    await pod.run("ip link set lo down");
    for (const isUntouched of [true, false])
      await expect(redirect.apply(pod.netns, DEFAULT_OPTIONS, { isUntouched })).rejects.toMatchObject({
        code: "ENETDOWN",
      });
    expect(await pod.run("ip rule show")).not.toContain("0x111");
    expect(await pod.save()).not.toContain("ISTIO");
  });
});

test("a running pod's loopback device is brought up where that is asked for, and what ended with it is put back", async () => {
  using pod = await TestNetns.make();
  const redirect = redirection(nft);
  await redirect.apply(pod.netns, DEFAULT_OPTIONS);
  const lists = ["-o address show lo", "route show table all", "-6 route show table all", "rule", "-6 rule"];
  const state = () => Promise.all(lists.map((list) => pod.run(`ip ${list}`)));
  const whole = await state();
  await pod.run("ip link set lo down");
  expect(await redirect.verify(pod.netns, DEFAULT_OPTIONS)).toMatchObject({
    intact: false,
    drift: [{ kind: "loopback-down" }, { kind: "missing-route", family: 6 }],
  });
  await expect(redirect.apply(pod.netns, DEFAULT_OPTIONS)).rejects.toMatchObject({ code: "ENETDOWN" });
  const report = await redirect.apply(pod.netns, DEFAULT_OPTIONS, { raisesLoopback: true });
  expect(report).toMatchObject({ changed: true, writes: 0 });
  expect(report.repaired.map(({ kind, family, detail }) => `${kind} ${family} ${detail}`)).toEqual([
    "loopback-down 4 the device lo is down",
    "missing-route 6 no route local default dev lo table 100",
  ]);
  expect(await state()).toEqual(whole);
  expect(await redirect.apply(pod.netns, DEFAULT_OPTIONS, { raisesLoopback: true })).toMatchObject({
    changed: false,
  });
});

test("a new namespace whose loopback device comes up late is waited for, and has everything then", async () => {
  using pod = await TestNetns.make();
  await pod.run("ip link set lo down");
  const redirect = redirection(nft);
  const applying = redirect.apply(pod.netns, DEFAULT_OPTIONS, { isNew: true });
  await expect.poll(() => pod.save()).toContain("ISTIO_PRERT");
  const settled = vi.fn();
  void applying.finally(settled).catch(() => {});
  expect(await pod.run("ip -6 route show table 100").catch(() => "")).not.toContain("local default");
  expect(settled).not.toHaveBeenCalled();
  await pod.run("ip link set lo up");
  expect(await applying).toMatchObject({ changed: true, skippedFamilies: [] });
  expect(await redirect.verify(pod.netns, DEFAULT_OPTIONS)).toMatchObject({ intact: true });
  expect(await redirect.apply(pod.netns, DEFAULT_OPTIONS)).toMatchObject({ changed: false, writes: 0 });
});
