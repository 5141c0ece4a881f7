// SPDX-License-Identifier: Apache-2.0
import { setTimeout as delay, setImmediate as turn } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { ProcessFacts } from "../../src/status/process-facts.ts";

function block(ms: number): void {
  const endMs = performance.now() + ms;
  while (performance.now() < endMs);
}

describe("ProcessFacts", () => {
  test("sees how late the event loop was, and not the interval it looks at", async () => {
    const facts = new ProcessFacts();
    facts.start();
    try {
      // ticks come every 50 ms: the stall is seen by the one it held up
      const deadlineMs = performance.now() + 10_000;
      let { eventLoopDelayMaxMs: maxMs } = await facts.report();
      while (maxMs < 200 && performance.now() < deadlineMs) {
        await delay(60);
        block(400);
        await turn();
        await delay(60);
        ({ eventLoopDelayMaxMs: maxMs } = await facts.report());
      }
      expect(maxMs).toBeGreaterThanOrEqual(200);
    } finally {
      facts.stop();
    }
  });

  test("knows its process also when it does not measure", async () => {
    const report = await new ProcessFacts().report();
    expect(report).toMatchObject({ pid: process.pid, eventLoopDelayMaxMs: 0 });
    expect(report.rssBytes).toBeGreaterThan(report.heapUsedBytes);
    expect(report.openFds).toBeGreaterThan(2);
    expect(
      Math.abs(Date.now() - new ProcessFacts().startedAt.getTime() - process.uptime() * 1000),
    ).toBeLessThan(1000);
  });
});
