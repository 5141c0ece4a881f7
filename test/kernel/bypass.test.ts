// SPDX-License-Identifier: Apache-2.0
// Rules in a pod that lead its traffic past ztunnel are named wherever one looks, as long as they stand, and never removed.
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";
import { patience } from "../support/node/patience.ts";

type Inside = typeof import("./bypass.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "bypass.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});

test.each([
  ["accept before our jump", "accepts nat OUTPUT"],
  ["ztunnel's mark in mangle", "marks mangle OUTPUT"],
  ["ztunnel's mark by iptables-legacy", "marks mangle OUTPUT"],
  ["a table of its own at an earlier hook", "marks z o"],
  ["connections that are not tracked", "untracked raw OUTPUT"],
])("%s: past ztunnel, and named until it ends", async (name, kind) => {
  const { isDirect, hurt, healed } = await node.call.attack(name);
  const [verb = ""] = kind.split(" ");
  expect(isDirect).toBe(true);
  expect(hurt.kinds).toEqual([kind]);
  expect(hurt.events).toEqual([
    expect.stringMatching(new RegExp(`^Warning: Traffic of this pod may .* ${verb}: rule \\d`)),
  ]);
  expect(hurt.verify).toMatch(new RegExp(`^may-be-bypassed: ${verb}: rule \\d of table [^\\n]*$`));
  expect(hurt.status).toMatch(new RegExp(`may be bypassed: +${verb}: rule \\d`));
  expect(hurt.debug).toMatch(new RegExp(`WRONG: may-be-bypassed: ${verb}: rule \\d`));
  expect(hurt.summary).toContain("captured, but traffic may get past ztunnel");
  expect(hurt.metric).toBe("ambient_cni_pods_may_be_bypassed 1");
  expect(healed).toMatchObject({
    kinds: [],
    events: [],
    verify: "",
    metric: "ambient_cni_pods_may_be_bypassed 0",
  });
  expect(healed.status).not.toContain("may be bypassed");
  expect(healed.summary).toMatch(/^captured, verified at/);
});

test("what container networks and tools write into pods is not named", async () => {
  const { bypasses, faults, events } = await node.call.harmless();
  expect(bypasses).toEqual({ found: [], complete: true });
  expect(faults).toEqual([]);
  expect(events).toEqual([]);
});

test("an agent's that came and went beside ours, by another variant, are taken away", {
  timeout: 60_000 * patience(),
}, async () => {
  await node.call.otherVariant();
});
