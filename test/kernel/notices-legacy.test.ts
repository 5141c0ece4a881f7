// SPDX-License-Identifier: Apache-2.0
// Rules of iptables-legacy, which no kernel announces: what somebody breaks is mended within ten seconds, the clock would come in an hour.
import { join } from "node:path";
import { expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";

type Inside = typeof import("./notices-legacy.inside.ts");

test("a chain that somebody empties is back within ten seconds, an ip rule within one", async () => {
  await using node = await NodeModule.start<Inside>(join(import.meta.dirname, "notices-legacy.inside.ts"));
  const { rulesMs, routingMs } = await node.call.broken();
  expect(rulesMs).toHaveLength(5);
  expect(Math.max(...rulesMs), String(rulesMs)).toBeLessThan(10_000);
  expect(routingMs).toBeLessThan(1_500);
});
