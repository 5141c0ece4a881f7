// SPDX-License-Identifier: Apache-2.0
// What somebody breaks in a captured pod, or on the host, is mended because the kernel announced it: the clock would come in an hour.
// Five of a hundred may be late here, where other tests run beside; `npm run bench` says how late one of a hundred is.
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";

type Inside = typeof import("./notices.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "notices.inside.ts"));
  await node.call.fill();
});
afterAll(async () => {
  await node?.stop();
});

const kinds = [
  "a chain is emptied",
  "our jump is taken away",
  "a rule comes before our jump",
  "the ip rule is taken away",
  "the route is taken away",
  "the loopback device goes down and up",
  "the loopback device goes down",
] as const;

test.each(kinds)("when %s it is right again within a second", async (kind) => {
  const ms = await node.call.breakOften(kind, 100);
  expect(ms).toHaveLength(100);
  expect(percentile(ms, 95), told(ms)).toBeLessThan(1_000);
  expect(percentile(ms, 100), told(ms)).toBeLessThan(5_000);
});

test("when the host's chain is emptied it is right again within a second", async () => {
  const ms = await node.call.breakHost(5);
  expect(percentile(ms, 80), told(ms)).toBeLessThan(1_000);
});

test("a pod that is deleted is listened to no more, nothing is said of it, and its namespace ends", async () => {
  const { isHeard, isGone, leftFds, warnings } = await node.call.deleted();
  expect(warnings).toEqual([]);
  expect(isHeard).toBe(true);
  expect(isGone).toBe(true);
  // a pod has three: of its namespace, and two to listen to it; the agent's connections come and go
  expect(leftFds).toBeLessThan(3);
});

test('nothing is said of a pod whose "lo" goes down a moment before its sandbox ends', async () => {
  expect(await node.call.completed()).toEqual([]);
});

test("an agent that is started anew listens again, and one look finds what was broken in between", async () => {
  expect(await node.call.restart()).toBeLessThan(1_000);
});

test("a pod whose rules change without end costs the agent little, and the others nothing", async () => {
  const { agentCpuMsPerS, lost, others, adds, addsBefore, victimMs } = await node.call.flood();
  // more was announced than a queue holds
  expect(lost).toBeGreaterThan(0);
  expect(percentile(others, 90)).toBeLessThan(1_000);
  expect(agentCpuMsPerS).toBeLessThan(100);
  expect(percentile(adds, 50)).toBeLessThan(2 * percentile(addsBefore, 50) + 100);
  // one more look, at the pace of a pod that is always changed
  expect(victimMs).toBeLessThan(10_000);
});

/** For whoever reads a failure. */
function told(ms: readonly number[]): string {
  const sorted = [...ms].sort((a, b) => a - b).map((each) => each.toFixed());
  return `median ${percentile(ms, 50).toFixed()} ms, longest ${sorted.slice(-8).join(", ")} ms`;
}

function percentile(values: readonly number[], percent: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.ceil((percent / 100) * sorted.length) - 1] ?? Number.NaN;
}
