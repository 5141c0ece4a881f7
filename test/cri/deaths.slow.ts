// SPDX-License-Identifier: Apache-2.0
// Many deaths of agents and uninstalls under a real containerd.
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, test } from "vitest";
import { RealNode, say } from "../cluster/support/real-node.ts";
import { patience } from "../support/node/patience.ts";
import { whatCriLacks } from "./support/cri-means.ts";
import { expectDeathsToHurtNobody } from "./support/death-expectations.ts";
import { expectNothingLeft } from "./support/nothing-left.ts";

type Inside = typeof import("./deaths.inside.ts");
const lacks = await whatCriLacks();
const count = 50;

describe.skipIf(lacks !== undefined)("a runtime", { timeout: 400_000 * patience() }, () => {
  let real: RealNode<Inside> | undefined;
  const inside = () => (real as RealNode<Inside>).module.call;

  beforeAll(async () => {
    real = await RealNode.start<Inside>(join(import.meta.dirname, "deaths.inside.ts"));
    await inside().start();
  });
  afterEach(async (context) => {
    if (context.task.result?.state === "fail") say(await inside().logs());
  });
  afterAll(async () => {
    await expectNothingLeft(real);
  });

  test(`runs and deletes pods after ${count} deaths of agents and uninstalls`, async () => {
    expectDeathsToHurtNobody(await inside().deaths(count), count);
  });
});
