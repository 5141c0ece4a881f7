// SPDX-License-Identifier: Apache-2.0
// Agents that take over from each other under a real containerd: no ADD is lost, and nobody in the mesh is out of it.
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { p50 } from "../bench/samples.ts";
import { RealNode, say } from "../cluster/support/real-node.ts";
import { patience } from "../support/node/patience.ts";
import { whatCriLacks } from "./support/cri-means.ts";
import { expectNothingLeft } from "./support/nothing-left.ts";
import type { UpgradeReport } from "./upgrade.inside.ts";

type Inside = typeof import("./upgrade.inside.ts");
const lacks = await whatCriLacks();

describe.skipIf(lacks !== undefined)("an agent that is replaced", { timeout: 180_000 * patience() }, () => {
  let real: RealNode<Inside> | undefined;
  const inside = () => (real as RealNode<Inside>).module.call;

  beforeAll(async () => {
    real = await RealNode.start<Inside>(join(import.meta.dirname, "upgrade.inside.ts"));
    await inside().start();
  });
  afterEach(async (context) => {
    if (context.task.result?.state === "fail") say(await inside().logs());
  });
  afterAll(async () => {
    await expectNothingLeft(real);
  });

  test("while 8 pods are being run loses none of them and lets none out of the mesh", async () => {
    const report = await inside().upgrade(["stop", "kill", "stop", "kill"]);
    sayReport(report);
    const { handovers, attempts, gaps, ruleChanges } = report;
    // that each pod ran, captured or untouched as it should, has been seen inside
    expect(handovers.map(({ underWay }) => underWay)).toEqual([8, 8, 8, 8]);
    expect(attempts.flatMap(({ error }) => error ?? [])).toEqual([]);
    expect(gaps).toEqual([]);
    expect(ruleChanges).toBe(0);
  });
});

function sayReport({ handovers, attempts }: UpgradeReport): void {
  const failed = attempts.filter(({ error }) => error !== undefined);
  const times = attempts.filter(({ error }) => error === undefined).map(({ ms }) => ms);
  const list = handovers.map(
    ({ ending, readyMs, endMs }) =>
      `${ending}: the next one ready after ${readyMs.toFixed(0)} ms, the old one gone after ${endMs.toFixed(0)} ms`,
  );
  say(
    `agents replaced (${list.join("; ")}): ${times.length} pods ran, p50 ${p50(times).toFixed(0)} ms, longest ` +
      `${Math.max(...times).toFixed(0)} ms; ${failed.length} attempts failed${failed.length === 0 ? "" : `: ${[...new Set(failed.map(({ error }) => error))].join(" | ")}`}`,
  );
}
