// SPDX-License-Identifier: Apache-2.0
// A restart of the agent among 110 captured pods changes nothing, and does not take long.
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";

type Inside = typeof import("./restart.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "restart.inside.ts"));
  await node.call.fill();
});
afterAll(async () => {
  await node?.stop();
});

test.each(["SIGTERM", "SIGKILL"] as const)(
  "restart after %s writes nothing for 110 pods and tells ztunnel each of them once",
  async (signal) => {
    const { readyMs, servedMs, ...effects } = await node.call.restart(signal);
    expect(effects).toEqual({
      ruleWrites: 0,
      annotationWrites: 0,
      messages: { add: 110, "snapshot-sent": 1 },
      podsAdded: 110,
      afterSnapshot: 0,
      podsDropped: 0,
      connections: 1,
      moved: 0,
    });
    expect(readyMs).toBeLessThan(3000);
    expect(servedMs).toBeLessThan(3000);
  },
);
