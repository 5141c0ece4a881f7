// SPDX-License-Identifier: Apache-2.0
// A node that boots: all its pods are asked for before the agent is there, and all of them get where they belong.
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, test } from "vitest";
import { RealNode, say } from "../cluster/support/real-node.ts";
import { patience } from "../support/node/patience.ts";
import { expectGoodBoot } from "./support/boot-expectations.ts";
import { whatCriLacks } from "./support/cri-means.ts";
import { expectNothingLeft } from "./support/nothing-left.ts";

type Inside = typeof import("./boot.inside.ts");
const lacks = await whatCriLacks();
const count = 40;

describe.skipIf(lacks !== undefined)("a boot", { timeout: 90_000 * patience() }, () => {
  let real: RealNode<Inside> | undefined;
  const inside = () => (real as RealNode<Inside>).module.call;

  beforeAll(async () => {
    real = await RealNode.start<Inside>(join(import.meta.dirname, "boot.inside.ts"));
    await inside().start(2);
  });
  afterEach(async (context) => {
    if (context.task.result?.state === "fail") say(await inside().logs());
  });
  afterAll(async () => {
    await expectNothingLeft(real);
  });

  test(`with ${count} pods at once loses none, although the agent comes late`, async () => {
    // later than the launcher waits, so that attempts fail and are repeated
    const report = await inside().boot({ count, agentAfterMs: 3_000 });
    expectGoodBoot(report, { count, agentWaitSeconds: 2 });
  });
});
