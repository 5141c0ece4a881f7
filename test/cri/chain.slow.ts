// SPDX-License-Identifier: Apache-2.0
// Many deaths of an installer under a real containerd.
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { RealNode } from "../cluster/support/real-node.ts";
import { whatCriLacks } from "./support/cri-means.ts";
import { expectNothingLeft } from "./support/nothing-left.ts";

type Inside = typeof import("./chain.inside.ts");
const lacks = await whatCriLacks();

describe.skipIf(lacks !== undefined)("our entry in the chain", () => {
  let real: RealNode<Inside> | undefined;

  beforeAll(async () => {
    real = await RealNode.start<Inside>(join(import.meta.dirname, "chain.inside.ts"));
    await real.module.call.start();
  });
  afterAll(async () => {
    await expectNothingLeft(real);
  });

  test("is there or not when an installer is killed at any of 50 points", { timeout: 240_000 }, async () => {
    const report = await real?.module.call.deaths(50);
    expect(report?.chains).toHaveLength(50);
    // both happen, or the points were not random
    expect(new Set(report?.chains)).toEqual(new Set(["bridge portmap", "bridge portmap ambient-cni"]));
    expect(report?.files).toEqual(["10-podnet.conflist"]);
  });
});
