// SPDX-License-Identifier: Apache-2.0
// A captured pod is looked at again without any reason: what is missing in the kernel or at ztunnel is put back.
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";

type Inside = typeof import("./verified.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "verified.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});

describe("a captured pod is repaired without any event when", () => {
  test.each([
    ["a rule of IPv4 is gone", ["missing-rule"]],
    ["all rules of IPv4 are gone", ["missing-jump", "missing-rule"]],
    ["a rule of IPv6 is gone", ["missing-rule"]],
    ["nothing enters a chain", ["missing-jump"]],
    ["somebody's rule comes first", ["extra-rule"]],
    ["everything is gone", ["missing-chain", "missing-jump"]],
    ["the ip rule of IPv4 is gone", ["missing-ip-rule"]],
    ["the ip rule of IPv6 is gone", ["missing-ip-rule"]],
    ["the route of IPv4 is gone", ["missing-route"]],
    ["the route of IPv6 is gone", ["missing-route"]],
  ] as const)("%s", async (drift, kinds) => {
    const { ms, ...seen } = await node.call.repair(drift);
    expect(seen).toEqual({ kinds, bystanderWrites: 0, apiWrites: 0, messages: 0 });
    // 1 s and a quarter, and the repair
    expect(ms).toBeLessThan(2500);
  });
});

describe("ztunnel", () => {
  test("gets a pod again that it refused in the snapshot", async () => {
    expect(await node.call.refusedInSnapshot()).toEqual(["add"]);
  });

  test("that stays gets the pods that only one that died was told", async () => {
    await node.call.newerZtunnelDies();
  });
});

test("a check of a pod that is right writes nothing and takes less than half of printing its rules once", async () => {
  const costs = await node.call.checkCosts({ pods: 40, checks: 200 });
  expect(costs.checks).toBeGreaterThanOrEqual(200);
  expect(costs).toMatchObject({ ruleWrites: 0, annotationWrites: 0 });
  // beside a floor of the same run: the same work takes half as long again on this machine from one hour to the next
  expect(costs.cpuMsPerCheck).toBeLessThan(costs.cpuMsOfPrograms / 2);
  process.stdout.write(
    `a check: ${costs.cpuMsPerCheck.toFixed(1)} ms of processor time; iptables-save and ip6tables-save: ${costs.cpuMsOfPrograms.toFixed(1)} ms\n`,
  );
});
