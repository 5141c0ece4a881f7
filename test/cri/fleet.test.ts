// SPDX-License-Identifier: Apache-2.0
// Fifty pods of a real containerd with our plugin in its chain, half of them in the mesh: traffic, traces, cost.
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { RealNode, say } from "../cluster/support/real-node.ts";
import { patience } from "../support/node/patience.ts";
import type { RunTimes } from "./fleet.inside.ts";
import { whatCriLacks } from "./support/cri-means.ts";
import { expectNothingLeft } from "./support/nothing-left.ts";

type Inside = typeof import("./fleet.inside.ts");
const lacks = await whatCriLacks();
const podCount = 50;

describe.skipIf(lacks !== undefined)("a fleet of pods", { timeout: 60_000 * patience() }, () => {
  let real: RealNode<Inside> | undefined;
  const inside = () => (real as RealNode<Inside>).module.call;

  beforeAll(async () => {
    real = await RealNode.start<Inside>(join(import.meta.dirname, "fleet.inside.ts"));
    expect(await inside().start()).toEqual(["bridge", "portmap", "ambient-cni"]);
    await inside().runFleet(podCount);
  });
  afterEach(async (context) => {
    if (context.task.result?.state === "fail") say(await inside().logs());
  });
  afterAll(async () => {
    await expectNothingLeft(real);
  });

  test("is captured where it is in the mesh, and untouched where it is not", async () => {
    await inside().claimFleet();
  });

  test("reaches each other through ztunnel, which carries every byte that the applications see", async () => {
    expect(await inside().learnAnswer()).toMatch(/^HTTP\/1\.[01] 200 OK\r\n/);
    const { requests, bytes } = await inside().talk();
    expect(requests).toBe((podCount / 2) ** 2);
    expect(bytes).toBeGreaterThan(requests * 100);
  });

  test("reaches pods outside the mesh and is reached by them, and by a port of the host", async () => {
    await inside().talkAcross();
  });

  test("leaves nothing when every pod is stopped and removed twice", async () => {
    const { dels, before } = await inside().deleteFleet();
    // the look that finds nothing now has found everything before
    expect(before).toMatchObject({ netnsFiles: podCount, leases: 2 * podCount, links: podCount });
    expect(before).toMatchObject({ results: 2 * podCount, sandboxes: podCount, ztunnelPods: podCount / 2 });
    expect(before.probeEntries).toBe(podCount);
    expect(before.namespaceHolders).toBeGreaterThan(podCount);
    expect(dels).toHaveLength(podCount);
    expect(Math.min(...dels)).toBeGreaterThanOrEqual(2);
  });

  test("starts at most 10 ms later outside the mesh and 30 ms later inside it", async () => {
    const enoughQuiet = 20;
    const found = await inside().overhead({ enoughQuiet, maxRounds: 40 });
    const { rounds, times, quietRounds, quietTimes, foreignLoad } = found;
    const load = `others used ${(foreignLoad * 100).toFixed(0)} % of the machine`;
    say(`RunPodSandbox, p50 of ${rounds} rounds: ${costs(times)}; ${load}`);
    if (quietTimes !== undefined)
      say(`p50 of the ${quietRounds} rounds that were quiet: ${costs(quietTimes)}`);
    if (quietTimes === undefined || quietRounds < enoughQuiet) {
      say(`${quietRounds} quiet rounds are too few to hold the agent to its limits`);
      return;
    }
    expect(quietTimes.plain - quietTimes.bare).toBeLessThanOrEqual(10);
    expect(quietTimes.mesh - quietTimes.bare).toBeLessThanOrEqual(30);
  });
});

function costs({ bare, plain, mesh }: RunTimes): string {
  const ms = (value: number): string => `${value.toFixed(1)} ms`;
  return (
    `${ms(bare)} without us, ${ms(plain)} outside the mesh (${ms(plain - bare)} more), ` +
    `${ms(mesh)} in the mesh (${ms(mesh - bare)} more)`
  );
}
