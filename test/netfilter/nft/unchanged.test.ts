// SPDX-License-Identifier: Apache-2.0
// What was seen of rules holds as long as the kernel's count of changes stands still, and not a change longer.
import { describe, expect, test } from "vitest";
import { ToolRunner } from "../../../src/linux/run-tool.ts";
import type { NetnsCall, RuleEngine, SeenRules } from "../../../src/netfilter/rule-engine.ts";
import { NATIVE_LAYOUT } from "../../../src/redirection/native-rules.ts";
import { PodEngines } from "../../../src/redirection/pod-engines.ts";
import { REDIRECT_TABLES, wantedRedirection } from "../../../src/redirection/told-redirection.ts";
import {
  expectNothingLeftAfterwards,
  HOST_NETNS,
  installedBackends,
  redirection,
} from "../../redirection/installed-backends.ts";
import { TestNetns } from "../../redirection/test-netns.ts";
import { DEFAULT_OPTIONS, FAMILIES, VARIANTS } from "../../redirection/variants.ts";

const { nft } = await installedBackends(new ToolRunner());
await expectNothingLeftAfterwards();

const [table] = NATIVE_LAYOUT;
const wanted = wantedRedirection(DEFAULT_OPTIONS, { families: FAMILIES, known: FAMILIES });
const tables = { own: REDIRECT_TABLES, layout: NATIVE_LAYOUT, families: FAMILIES };
const right: SeenRules = { findings: [], hasChains: true, generation: expect.any(Number) };

describe.each([
  { variant: "nft" as const, flush: "iptables-nft -t nat -F ISTIO_OUTPUT" },
  { variant: "native" as const, flush: `nft flush chain inet ${table?.table} ${table?.chains[0]?.chain}` },
])("by engine $variant", ({ variant, flush }) => {
  const backend = { ...nft, variant };
  const { engine } = new PodEngines({ backend, hostNetns: HOST_NETNS }, tables);

  /** A namespace whose rules were seen to be right, asked about as often as the test likes. */
  async function seenRight(): Promise<{ pod: TestNetns; call: NetnsCall }> {
    const pod = await TestNetns.make();
    const call = { netns: pod.netns };
    await engine.apply(call, wanted, { isNew: true });
    await engine.verify(call, wanted);
    return { pod, call };
  }

  const unchanged = (of: RuleEngine, call: NetnsCall, what = wanted) => of.unchanged(call, what);

  test("rules that nobody touched are as they were seen, in the words of the next look", async () => {
    const { pod, call } = await seenRight();
    using _ = pod;
    const { generation } = await engine.verify(call, wanted);
    expect(await unchanged(engine, call)).toEqual({ ...right, generation });
  });

  test.each([
    ["a rule of ours gone", flush],
    ["a table of somebody else", "nft add table inet other"],
    ["a table that comes and goes", "nft add table inet other ; delete table inet other"],
  ])("%s ends that", async (_, change) => {
    const { pod, call } = await seenRight();
    using _pod = pod;
    await pod.run("nft -f /dev/stdin", change.startsWith("nft ") ? change.slice(4) : "");
    if (!change.startsWith("nft ")) await pod.run(change);
    expect(await unchanged(engine, call)).toBeUndefined();
  });

  test("what differed is remembered as well, and no look of other rules is taken for it", async () => {
    const { pod, call } = await seenRight();
    using _ = pod;
    await pod.run(flush);
    const { findings } = await engine.verify(call, wanted);
    expect(findings).not.toEqual([]);
    expect(await unchanged(engine, call)).toMatchObject({ findings, hasChains: true });
    const other = wantedRedirection(VARIANTS.ingress ?? DEFAULT_OPTIONS, {
      families: FAMILIES,
      known: FAMILIES,
    });
    expect(unchanged(engine, call, other)).toBeUndefined();
    expect(unchanged(engine, call, { ...wanted, families: [4] })).toBeUndefined();
  });

  test("nothing is remembered before a look, and now and then all is read again", async () => {
    const { pod, call } = await seenRight();
    using _ = pod;
    expect(unchanged(new PodEngines({ backend, hostNetns: HOST_NETNS }, tables).engine, call)).toBe(
      undefined,
    );
    let count = 0;
    while ((await unchanged(engine, call)) !== undefined) count++;
    expect(count).toBe(6);
    await engine.verify(call, wanted);
    expect(await unchanged(engine, call)).toEqual(right);
  });
});

test("a pod is mended in the look after the change, however many looks were spared before", async () => {
  using pod = await TestNetns.make();
  const pods = redirection(nft);
  await pods.apply(pod.netns, DEFAULT_OPTIONS);
  for (let look = 0; look < 3; look++) {
    const { changed } = await pods.apply(pod.netns, DEFAULT_OPTIONS);
    expect(changed).toBe(false);
  }
  const before = await pod.save();
  for (const damage of [
    "iptables-nft -t mangle -F ISTIO_PRERT",
    "ip6tables-nft -t nat -D OUTPUT -j ISTIO_OUTPUT",
    "ip rule delete fwmark 0x111/0xfff",
    "ip -6 route flush table 100",
  ]) {
    await pod.run(damage);
    expect((await pods.apply(pod.netns, DEFAULT_OPTIONS)).repaired).toHaveLength(1);
    expect((await pods.apply(pod.netns, DEFAULT_OPTIONS)).changed).toBe(false);
  }
  expect(await pod.save()).toBe(before);
});
