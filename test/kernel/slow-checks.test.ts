// SPDX-License-Identifier: Apache-2.0
// A pod that makes each look at it as slow as it can hurts itself: it is looked at less often and said to be, others come as before.
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";
import { patience } from "../support/node/patience.ts";

type Inside = typeof import("./slow-checks.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "slow-checks.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});

const ROUNDS = 9;

test("another tenant's ADD takes no more than twice its quiet time, and the slow pod is told of", {
  timeout: 240_000 * patience(),
}, async () => {
  await node.call.addMs(3);
  const quietMs = await node.call.addMs(ROUNDS);
  const { looks, usualLooks, slowLookMs, ...said } = await node.call.burden();
  const burdenedMs = await node.call.addMs(ROUNDS);
  console.log({ quietMs, burdenedMs, slowLookMs, looks, usualLooks });
  expect(said).toMatchObject({ state: "enrolled", metric: "ambient_cni_pods_slow 1" });
  expect(said.summary).toMatch(/^captured, .*; a look at it takes \d+ ms, so it is looked at less often$/);
  expect(said.log).toContainEqual(expect.stringMatching(/^a pod takes long to look at/));
  expect(looks).toBeLessThan(usualLooks);
  expect(burdenedMs).toBeLessThan(2 * quietMs);
});
