// SPDX-License-Identifier: Apache-2.0
// Finding running pods in the real /proc: every shape of cgroup path, which process counts, what is refused, what it costs.
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";
import { patience } from "../support/node/patience.ts";

type Inside = typeof import("./discovery.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "discovery.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});
afterEach(async () => {
  expect(await node.call.openNamespaces(), "a namespace was left open").toEqual({ counted: 0, held: 0 });
});

describe("finder", () => {
  test("finds a pod by every form of cgroup path, and nobody else by it", async () => {
    const outcomes = await node.call.cgroupForms();
    expect(Object.keys(outcomes).length).toBeGreaterThan(10);
    expect(new Set(Object.values(outcomes)), JSON.stringify(outcomes, null, 1)).toEqual(new Set(["found"]));
  });

  test("finds a pod in each of the kernel's cgroup hierarchies", async () => {
    const outcomes = await node.call.otherHierarchies();
    for (const [mountPoint, found] of Object.entries(outcomes)) expect(found, mountPoint).toBe(true);
  });

  test("takes the namespace of the pod's oldest process", async () => {
    expect(await node.call.oldestProcess()).toEqual(["older", "younger"]);
  });

  test("never takes the host's namespace for a pod's, also when it has the pod's address", async () => {
    expect(await node.call.hostProcess()).toEqual({ alone: 0, besidesAnother: true });
  });

  test("takes a namespace only if it has one of the pod's addresses", async () => {
    const { found, warned } = await node.call.ownership([
      ["10.97.0.1"],
      ["10.97.0.2", "fd00:97::1"],
      ["FD00:0097:0:0:0:0:0:1"],
      ["10.97.0.2"],
      ["10.97.0.10"],
      ["fd00:97::2"],
      [],
    ]);
    expect(found).toEqual([true, true, true, false, false, false, false]);
    expect(warned, "warnings about refused namespaces").toBe(3);
  });

  test("survives processes that end while it looks", async () => {
    const { wrong, gone } = await node.call.dyingProcesses(36);
    expect(wrong).toBe(0);
    expect(gone, "rounds in which the process was gone in time").toBeGreaterThan(0);
  });

  test("survives processes that live for a moment only", async () => {
    expect(await node.call.shortLivedProcesses(60)).toBe(60);
  });

  test("looks for 50 pods among 500 processes in one pass that holds nobody up", async () => {
    const costs = await node.call.crowd();
    expect(costs.processes).toBeGreaterThanOrEqual(500);
    expect(costs.found).toBe(50);
    expect(costs.passes).toBe(1);
    expect(costs.longestDelayMs).toBeLessThan(50 * patience());
    expect(costs.turns, "turns of others while it looks").toBeGreaterThanOrEqual(15);
  });
});
