// SPDX-License-Identifier: Apache-2.0
// What tenants say of themselves is no evidence: whose a process is, whose an address, whose rules.
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";

type Inside = typeof import("./evidence.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "evidence.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});

describe("a cgroup that a pod makes below its own", { timeout: 60_000 }, () => {
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
