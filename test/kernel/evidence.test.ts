// SPDX-License-Identifier: Apache-2.0
// What tenants say of themselves is no evidence: whose a process is, whose an address, whose rules.
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";
import { patience } from "../support/node/patience.ts";

type Inside = typeof import("./evidence.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "evidence.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});

describe("a cgroup that a pod makes below its own", { timeout: 60_000 * patience() }, () => {
  test.each([
    ["pod", { isTold: true }],
    ["pod", { isTold: false }],
    ["container", { isTold: false }],
  ] as const)("and calls as another %s's gives it nothing of that (%o)", async (name, how) => {
    expect(await node.call.cgroupName(name, how)).toEqual({
      state: "enrolled",
      served: "victim's",
      rules: { victim: true, attacker: false },
    });
  });
});

describe("chains with our names that another wrote", { timeout: 60_000 * patience() }, () => {
  const stay = { isAnnounced: false, hasSame: true, isClean: true };
  test.each(["nft", "legacy"] as const)(
    "stay in a pod that says we captured it, in iptables-%s",
    async (variant) => {
      expect(await node.call.sidecarChains(variant, { isOurs: false })).toEqual(stay);
    },
  );
  test("stay in one that we did capture, in the variant that we do not use", async () => {
    expect(await node.call.sidecarChains("legacy", { isOurs: true })).toEqual(stay);
  });
});
