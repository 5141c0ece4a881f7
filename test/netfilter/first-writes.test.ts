// SPDX-License-Identifier: Apache-2.0
// Rules of a new pod, written with the bytes of the last one: the same in the kernel, and any other answer than the last is judged.
import { describe, expect, test } from "vitest";
import { ToolRunner } from "../../src/linux/run-tool.ts";
import type { Family } from "../../src/netfilter/family.ts";
import { FirstWrites } from "../../src/netfilter/first-writes.ts";
import { type Ask, getTable, NEW_GENERATION } from "../../src/netfilter/nft/nft-wire.ts";
import { NATIVE_LAYOUT } from "../../src/redirection/native-rules.ts";
import { PodEngines } from "../../src/redirection/pod-engines.ts";
import { REDIRECT_TABLES, wantedRedirection } from "../../src/redirection/told-redirection.ts";
import {
  expectNothingLeftAfterwards,
  HOST_NETNS,
  installedBackends,
} from "../redirection/installed-backends.ts";
import { TestNetns } from "../redirection/test-netns.ts";
import { DEFAULT_OPTIONS, FAMILIES, VARIANTS } from "../redirection/variants.ts";

const { nft } = await installedBackends(new ToolRunner());
await expectNothingLeftAfterwards();

const tables = { own: REDIRECT_TABLES, layout: NATIVE_LAYOUT, families: FAMILIES };
const wantedOf = (name: string, families: readonly Family[] = FAMILIES) =>
  wantedRedirection(VARIANTS[name] ?? DEFAULT_OPTIONS, { families, known: FAMILIES });
const ruleset = (pod: TestNetns) => pod.run("nft --stateless list ruleset");

describe.each(["nft", "native"] as const)("by engine %s", (variant) => {
  const { engine } = new PodEngines({ backend: { ...nft, variant }, hostNetns: HOST_NETNS }, tables);

  async function writeFirst(pod: TestNetns, wanted = wantedOf("default")) {
    return await engine.apply({ netns: pod.netns }, wanted, { isNew: true });
  }

  test("the second pod with the same rules has what the first has, and each set of rules its own", async () => {
    for (const name of Object.keys(VARIANTS).slice(0, 4)) {
      using first = await TestNetns.make();
      using second = await TestNetns.make();
      using single = await TestNetns.make();
      await writeFirst(first, wantedOf(name));
      expect(await writeFirst(second, wantedOf(name))).toMatchObject({ writes: 1 });
      await writeFirst(single, wantedOf(name, [4]));
      expect(await ruleset(second)).toBe(await ruleset(first));
      expect(await ruleset(single)).not.toBe(await ruleset(first));
      for (const pod of [first, second])
        expect(await engine.verify({ netns: pod.netns }, wantedOf(name))).toMatchObject({ findings: [] });
    }
  });

  test("a pod that is not as new as it was said to be is looked at, and keeps what others have", async () => {
    using first = await TestNetns.make();
    using used = await TestNetns.make();
    await writeFirst(first);
    await used.run("iptables-nft -t nat -A OUTPUT -d 10.1.2.3/32 -j RETURN");
    await used.run("nft add table inet istio-ambient-nat");
    expect(await writeFirst(used)).toMatchObject({ writes: 1 });
    expect(await used.run("iptables-nft-save -t nat")).toContain("-A OUTPUT -d 10.1.2.3/32 -j RETURN");
    expect(await engine.verify({ netns: used.netns }, wantedOf("default"))).toMatchObject({ findings: [] });
  });
});

describe("what is remembered", () => {
  const rules = {};
  const families: readonly Family[] = [4];
  const request = getTable({ family: 4, table: "nat" });

  /** A write that asks once, or more often, and counts how often it was asked to judge. */
  function writer(answers: readonly Uint8Array[]) {
    const firstWrites = new FirstWrites<string>();
    let told = 0;
    let judged = 0;
    const run = (questions = 1) =>
      firstWrites.run(
        { rules, families },
        async () => answers[Math.min(told++, answers.length - 1)] as Uint8Array,
        async (ask: Ask) => {
          judged++;
          for (let i = 0; i < questions; i++) await ask([request], Number.POSITIVE_INFINITY);
          return `judged ${judged}`;
        },
      );
    return { run, told: () => told, judged: () => judged };
  }

  const done = Uint8Array.of(20, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0);
  const other = Uint8Array.from(done, (byte, index) => (index === 12 ? 8 : byte));

  test("an equal answer is not judged again", async () => {
    const { run, told, judged } = writer([done]);
    expect([await run(), await run(), await run()]).toEqual(["judged 1", "judged 1", "judged 1"]);
    expect([told(), judged()]).toEqual([3, 1]);
  });

  test("a change of any byte is judged, but for who made the last change of rules", async () => {
    const generation = new Uint8Array(16 + NEW_GENERATION.countBytes + 24);
    new DataView(generation.buffer).setUint32(0, generation.length, true);
    new DataView(generation.buffer).setUint16(4, NEW_GENERATION.type, true);
    const answer = Buffer.concat([done, generation, done]);
    const start = done.length + 16 + NEW_GENERATION.countBytes;
    const unjudged: number[] = [];
    for (const at of answer.keys()) {
      const changed = Uint8Array.from(answer, (byte, index) => (index === at ? byte ^ 0x40 : byte));
      const { run, judged } = writer([answer, changed]);
      await run();
      // a length that cannot be is a fault of the answer
      await run().catch(() => {});
      if (judged() === 1) unjudged.push(at);
    }
    expect(unjudged).toEqual(Array.from({ length: 24 }, (_, index) => start + index));
  });

  test("another answer is judged without asking twice, and is the one that counts from then on", async () => {
    const { run, told, judged } = writer([done, other]);
    expect([await run(), await run(), await run()]).toEqual(["judged 1", "judged 2", "judged 2"]);
    expect([told(), judged()]).toEqual([3, 2]);
  });

  test("nothing is remembered of a write that had to ask again", async () => {
    const { run, judged } = writer([done]);
    expect([await run(2), await run(2)]).toEqual(["judged 1", "judged 2"]);
    expect(judged()).toBe(2);
  });

  test("a conversation that fails is the write's to explain", async () => {
    const firstWrites = new FirstWrites<string>();
    const about = { rules, families };
    const write = async (ask: Ask) => {
      await ask([request], 1).catch((error: Error) => {
        throw new Error(`refused: ${error.message}`);
      });
      return "written";
    };
    expect(await firstWrites.run(about, async () => done, write)).toBe("written");
    const refused = firstWrites.run(about, () => Promise.reject(new Error("EMSGSIZE")), write);
    await expect(refused).rejects.toThrow("refused: EMSGSIZE");
    expect(await firstWrites.run(about, async () => done, write)).toBe("written");
  });
});
