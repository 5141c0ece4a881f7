// SPDX-License-Identifier: Apache-2.0
// Programs and writes that a redirection takes: none for what is right, and few for many namespaces at once.
import { describe, expect, test } from "vitest";
import { ToolRunner } from "../../src/linux/run-tool.ts";
import {
  expectNothingLeftAfterwards,
  installedBackends,
  redirection,
  saveTool,
} from "../redirection/installed-backends.ts";
import { fixture, sortTables } from "../redirection/pod-text.ts";
import { TestNetns } from "../redirection/test-netns.ts";
import { DEFAULT_OPTIONS, FAMILIES, VARIANTS } from "../redirection/variants.ts";

const runner = new ToolRunner();
const { nft, legacy } = await installedBackends(runner);
await expectNothingLeftAfterwards();

describe("cost", () => {
  test.each([
    ["takes four processes", false],
    ["takes none where they were prepared", true],
  ])("the first pod of a variant %s, the next ones and a check take none", async (_, isPrepared) => {
    const startedAtFirst = runner.startedCount;
    const redirect = redirection(nft);
    const counts: number[] = [];
    if (isPrepared) {
      await redirect.prepare(DEFAULT_OPTIONS);
      expect(runner.startedCount - startedAtFirst).toBe(4);
    }
    for (let index = 0; index < 3; index++) {
      using pod = await TestNetns.make();
      const before = runner.startedCount;
      const { writes } = await redirect.apply(pod.netns, DEFAULT_OPTIONS, { isNew: true });
      counts.push(runner.startedCount - before);
      expect(writes).toBe(1);
      const checked = runner.startedCount;
      expect((await redirect.verify(pod.netns, DEFAULT_OPTIONS)).intact).toBe(true);
      expect(runner.startedCount).toBe(checked);
    }
    expect(counts).toEqual([isPrepared ? 0 : 4, 0, 0]);
  });

  test("a new pod takes two processes with iptables-legacy, and one that is not new after all becomes right too", async () => {
    using pod = await TestNetns.make();
    const redirect = redirection(legacy);
    await redirect.prepare(VARIANTS["no-dns"]!);
    const before = runner.startedCount;
    await redirect.apply(pod.netns, VARIANTS["no-dns"]!, { isNew: true });
    expect(runner.startedCount - before).toBe(2);
    await redirect.apply(pod.netns, DEFAULT_OPTIONS, { isNew: true });
    for (const family of FAMILIES) {
      const saved = await pod.save(saveTool(family, "legacy"));
      expect(sortTables(saved)).toBe(sortTables(fixture("default", { family, variant: "legacy" })));
    }
  });

  test("after a restart four processes serve all pods, and nothing is written", async () => {
    const pods = await Promise.all(Array.from({ length: 4 }, () => TestNetns.make()));
    try {
      const before = redirection(nft);
      for (const pod of pods) await before.apply(pod.netns, DEFAULT_OPTIONS);
      const after = redirection(nft);
      const started = runner.startedCount;
      for (const { netns } of pods) {
        expect(await after.apply(netns, DEFAULT_OPTIONS)).toMatchObject({
          changed: false,
          writes: 0,
        });
      }
      expect(runner.startedCount - started).toBe(4);
    } finally {
      for (const pod of pods) pod[Symbol.dispose]();
    }
  });

  test("one variant's good rules are not another's", async () => {
    using pod = await TestNetns.make();
    const redirect = redirection(nft);
    await redirect.apply(pod.netns, VARIANTS["no-dns"]!);
    await redirect.apply(pod.netns, DEFAULT_OPTIONS);
    expect((await redirect.verify(pod.netns, VARIANTS["no-dns"]!)).intact).toBe(false);
  });

  test("ten namespaces at once are all redirected", async () => {
    const redirect = redirection(nft);
    const pods = await Promise.all(Array.from({ length: 10 }, () => TestNetns.make()));
    try {
      const reports = await Promise.all(
        pods.map(({ netns }) => redirect.apply(netns, DEFAULT_OPTIONS, { isNew: true })),
      );
      expect(reports.map(({ writes }) => writes)).toEqual(pods.map(() => 1));
      for (const pod of pods) expect(await pod.save()).toBe(await pods[0]!.save());
      const gone = await Promise.all(pods.map(({ netns }) => redirect.remove(netns)));
      expect(gone.every(({ changed }) => changed)).toBe(true);
    } finally {
      for (const pod of pods) pod[Symbol.dispose]();
    }
  });

  test("two applies to one namespace at the same moment leave it right", async () => {
    using pod = await TestNetns.make();
    const redirect = redirection(nft);
    await Promise.all([
      redirect.apply(pod.netns, DEFAULT_OPTIONS),
      redirect.apply(pod.netns, DEFAULT_OPTIONS),
    ]);
    expect((await redirection(nft).verify(pod.netns, DEFAULT_OPTIONS)).drift).toEqual([]);
  });
});
