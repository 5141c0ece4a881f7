// SPDX-License-Identifier: Apache-2.0
// The long absence of the agent, with the launcher's own patience.
import { join } from "node:path";
import { afterAll, beforeAll, describe, test } from "vitest";
import { RealNode } from "../cluster/support/real-node.ts";
import { patience } from "../support/node/patience.ts";
import { expectAwayToHurtNobody } from "./support/away-expectations.ts";
import { whatCriLacks } from "./support/cri-means.ts";
import { expectNothingLeft } from "./support/nothing-left.ts";

type Inside = typeof import("./agent-away.inside.ts");
const lacks = await whatCriLacks();

describe.skipIf(lacks !== undefined)("an agent that is killed", () => {
  let real: RealNode<Inside> | undefined;

  beforeAll(async () => {
    real = await RealNode.start<Inside>(join(import.meta.dirname, "agent-away.inside.ts"));
    await real.module.call.start(10);
  });
  afterAll(async () => {
    await expectNothingLeft(real);
  });

  test("and away for 60 s holds up nobody longer than 2 s after its return", {
    timeout: 120_000 * patience(),
  }, async () => {
    const times = await real?.module.call.away({ awayMs: 60_000, meshPods: 8 });
    if (times !== undefined) expectAwayToHurtNobody(times, { agentWaitSeconds: 10 });
  });
});
