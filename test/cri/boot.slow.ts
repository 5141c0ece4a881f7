// SPDX-License-Identifier: Apache-2.0
// The boot of a node that is full of pods, with the launcher's own patience.
import { join } from "node:path";
import { afterAll, beforeAll, describe, test } from "vitest";
import { RealNode } from "../cluster/support/real-node.ts";
import { patience } from "../support/node/patience.ts";
import { expectGoodBoot } from "./support/boot-expectations.ts";
import { whatCriLacks } from "./support/cri-means.ts";
import { expectNothingLeft } from "./support/nothing-left.ts";

type Inside = typeof import("./boot.inside.ts");
const lacks = await whatCriLacks();
const count = 300;

describe.skipIf(lacks !== undefined)("a boot", () => {
  let real: RealNode<Inside> | undefined;

  beforeAll(async () => {
    real = await RealNode.start<Inside>(join(import.meta.dirname, "boot.inside.ts"));
    await real.module.call.start(10);
  });
  afterAll(async () => {
    await expectNothingLeft(real);
  });

  test(`with ${count} pods at once loses none`, { timeout: 300_000 * patience() }, async () => {
    const report = await real?.module.call.boot({ count, agentAfterMs: 15_000 });
    if (report !== undefined) expectGoodBoot(report, { count, agentWaitSeconds: 10 });
  });
});
