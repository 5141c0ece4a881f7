// SPDX-License-Identifier: Apache-2.0
// Pods of a real containerd while the agent is away: they end, those outside the mesh start, the others wait and are told why.
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, test } from "vitest";
import { RealNode, say } from "../cluster/support/real-node.ts";
import { patience } from "../support/node/patience.ts";
import { expectAwayToHurtNobody } from "./support/away-expectations.ts";
import { whatCriLacks } from "./support/cri-means.ts";
import { expectNothingLeft } from "./support/nothing-left.ts";

type Inside = typeof import("./agent-away.inside.ts");
const lacks = await whatCriLacks();

describe.skipIf(lacks !== undefined)("an agent that is killed", { timeout: 60_000 * patience() }, () => {
  let real: RealNode<Inside> | undefined;
  const inside = () => (real as RealNode<Inside>).module.call;

  beforeAll(async () => {
    real = await RealNode.start<Inside>(join(import.meta.dirname, "agent-away.inside.ts"));
    await inside().start(3);
  });
  afterEach(async (context) => {
    if (context.task.result?.state === "fail") say(await inside().logs());
  });
  afterAll(async () => {
    await expectNothingLeft(real);
  });

  test("and away for 10 s over a boot keeps no pod from ending, none outside the mesh from starting, and lets no other one start", async () => {
    const times = await inside().away({ awayMs: 10_000, meshPods: 4 });
    expectAwayToHurtNobody(times, { agentWaitSeconds: 3 });
  });
});
