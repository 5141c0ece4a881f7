// SPDX-License-Identifier: Apache-2.0
// The verdict on what an attack cost the others: every bound can be broken, and by its own figure alone.
import { describe, expect, test } from "vitest";
import { attackGroups } from "./attack-groups.ts";
import { brokenBounds, brokenTimes, type Costs, startLimitMs } from "./general-bounds.ts";

const harmless: Costs = {
  quiet: { meshMs: 100, plainMs: 80 },
  attacked: { meshMs: 120, plainMs: 90 },
  stopMs: 20,
  floorMs: 5,
  workMs: 18,
  rssRiseMb: 3,
  rssKeptMb: 1,
  logLines: 4,
  agentFaults: [],
  strays: [],
};

describe("general bounds", () => {
  test("are kept by an attack that costs nothing", () => {
    expect(brokenBounds(harmless)).toEqual([]);
  });

  test.each<[string, Partial<Costs>, string]>([
    ["a slow ADD", { attacked: { meshMs: 260, plainMs: 80 } }, "ADD took 260 ms (at most 200)"],
    ["no timed ADD", { attacked: { meshMs: Number.NaN, plainMs: 80 } }, "ADD took NaN ms (at most 200)"],
    ["no floor", { attacked: { meshMs: 100, plainMs: Number.NaN } }, "ADD took 100 ms (at most NaN)"],
    ["a stop", { stopMs: 130 }, "the loop stopped for 130 ms (at most 100)"],
    [
      "a stop of a dead loop",
      { stopMs: Number.POSITIVE_INFINITY },
      "the loop stopped for Infinity ms (at most 100)",
    ],
    ["memory", { rssRiseMb: 31 }, "memory rose by 31 MB (less than 30)"],
    ["memory that is kept", { rssKeptMb: 31 }, "31 MB of memory were kept (less than 30)"],
    ["no memory", { rssRiseMb: Number.NaN }, "memory rose by NaN MB (less than 30)"],
    ["log", { logLines: 100 }, "100 lines of log (less than 100)"],
    ["a dead agent", { agentFaults: ["the agent has ended"] }, "the agent has ended"],
    ["a hurt pod", { strays: ['"steady-1" is not annotated'] }, '"steady-1" is not annotated'],
  ])("are broken by %s", (_, costs, why) => {
    expect(brokenBounds({ ...harmless, ...costs })).toEqual([why]);
  });

  test("give an ADD as much more as a pod without us takes, and no less where that became faster", () => {
    expect(startLimitMs({ ...harmless, attacked: { meshMs: 0, plainMs: 160 } })).toBe(400);
    expect(startLimitMs({ ...harmless, attacked: { meshMs: 0, plainMs: 40 } })).toBe(200);
  });

  test("give memory that is given back as much as an attack may take", () => {
    expect(brokenBounds({ ...harmless, rssRiseMb: 45 }, 60)).toEqual([]);
    expect(brokenBounds({ ...harmless, rssRiseMb: 61 }, 60)).toEqual(["memory rose by 61 MB (less than 60)"]);
  });

  test("that are times are told from the others", () => {
    const slow = { ...harmless, stopMs: 130, attacked: { meshMs: 260, plainMs: 80 } };
    expect(brokenTimes(slow)).toEqual(brokenBounds(slow));
    expect(brokenTimes({ ...slow, logLines: 100 })).toHaveLength(
      brokenBounds({ ...slow, logLines: 100 }).length - 1,
    );
    expect(brokenTimes({ ...harmless, strays: ["hurt"], rssRiseMb: 31 })).toEqual([]);
  });

  test("give the loop the machine's own floor", () => {
    expect(brokenBounds({ ...harmless, stopMs: 130, floorMs: 140 })).toEqual([]);
  });
});

test("every attack has a name of its own, and there are at least 40", () => {
  const names = attackGroups.flatMap(({ attacks }) => attacks.map(({ name }) => name));
  expect(names.filter((name, index) => names.indexOf(name) !== index)).toEqual([]);
  expect(names.length).toBeGreaterThanOrEqual(40);
});
