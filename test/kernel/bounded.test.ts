// SPDX-License-Identifier: Apache-2.0
// Words of a tenant and answers of an API server without measure: what they cost the agent, asked in its own process.
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";
import { patience } from "../support/node/patience.ts";
import type { Cost } from "./bounded.inside.ts";

type Inside = typeof import("./bounded.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "bounded.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});

const maxStallMs = 100;
const maxRiseMb = 30;

function expectBounded(what: string, { quiet, loop, rssRiseMb, lines, lineBytes }: Cost): void {
  const { stallMs, delayMs, rssMb } = loop;
  const measured = {
    quietDelayMs: quiet.delayMs,
    ...{ stallMs, delayMs, rssMb },
    quietMb: quiet.rssMb,
    rssRiseMb,
    lines,
    lineBytes,
  };
  const rounded = Object.entries(measured).map(([name, value]) => `${name} ${Math.round(value)}`);
  if (process.env.ATTACK_TIMES !== undefined) console.log(`${what}: ${rounded.join(", ")}`);
  expect(stallMs).toBeLessThan(maxStallMs);
  expect(rssRiseMb).toBeLessThan(maxRiseMb);
}

describe("words and answers without measure", { timeout: 240_000 * patience() }, () => {
  test("annotations of 256 KiB, of any content and again and again, cost no other tenant anything", async () => {
    const { states, warnings, ...cost } = await node.call.annotations();
    expect(states).toEqual(Array(7).fill("enrolled"));
    expect(warnings.length).toBeLessThanOrEqual(7 * 4);
    expectBounded("annotations", cost);
    // seven pods, of each four of its 20 versions, three warnings and a count each
    expect(cost.lines).toBeLessThanOrEqual(7 * 4 * 4 + 7);
    expect(cost.lineBytes).toBeLessThan(50_000);
  });

  test.each(["node-1", "other"])(
    "20,000 events of pods of %s at once are taken in turns",
    async (nodeName) => {
      const cost = await node.call.burst(20_000, nodeName);
      expectBounded(`20,000 events of ${nodeName}`, cost);
      expect(cost.lines).toBeLessThan(100);
    },
  );

  test.each(["endless-pages", "empty-pages", "200-mb", "one-huge-object", "foreign"] as const)(
    "a list that is %s leaves the copy as it was, and a good one is taken",
    async (mode) => {
      const { kept, after, alive, ...cost } = await node.call.list(mode);
      expect({ kept, after, alive }).toEqual({ kept: 2, after: 3, alive: true });
      expectBounded(mode, cost);
      // the end of the watch, and the first list
      expect(cost.lines).toBeLessThanOrEqual(2);
    },
  );
});
