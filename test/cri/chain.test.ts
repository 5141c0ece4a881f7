// SPDX-License-Identifier: Apache-2.0
// Our entry in the chain of a real containerd while another program fights for the file.
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { RealNode, say } from "../cluster/support/real-node.ts";
import { patience } from "../support/node/patience.ts";
import { whatCriLacks } from "./support/cri-means.ts";
import { expectNothingLeft } from "./support/nothing-left.ts";
import { hasNri } from "./support/nri-means.ts";

type Inside = typeof import("./chain.inside.ts");
const lacks = await whatCriLacks();
const isTold = await hasNri();

describe.skipIf(lacks !== undefined)("our entry in the chain", { timeout: 90_000 * patience() }, () => {
  let real: RealNode<Inside> | undefined;
  const inside = () => (real as RealNode<Inside>).module.call;

  beforeAll(async () => {
    real = await RealNode.start<Inside>(join(import.meta.dirname, "chain.inside.ts"));
    await inside().start();
  });
  afterEach(async (context) => {
    if (context.task.result?.state === "fail") say(await inside().logs());
  });
  afterAll(async () => {
    await expectNothingLeft(real);
  });

  test("comes back after 100 rewrites, and no pod born meanwhile stays out of the mesh for more than 2 s", async () => {
    const { pods, uncapturedMs, repairs, events, readiness } = await inside().fight(100);
    const longest = Math.max(0, ...uncapturedMs);
    say(
      `chain rewritten 100 times: ${pods} pods, ${uncapturedMs.length} born outside the chain, the longest ` +
        `${longest.toFixed(0)} ms out of the mesh; ${repairs} repairs`,
    );
    // the runtime tells of them, whatever its chain is; without that there are some
    if (isTold) expect(uncapturedMs).toEqual([]);
    else expect(uncapturedMs.length).toBeGreaterThan(0);
    expect(longest).toBeLessThan(2000);
    expect(repairs).toBeGreaterThan(5);
    const told =
      /Another program has taken ambient-cni out of the CNI chain .*10-podnet\.conflist" \d+ times: find the program/;
    expect(events).toEqual([expect.stringMatching(told)]);
    expect(readiness).toMatch(told);
  });
});
