// SPDX-License-Identifier: Apache-2.0
import { setTimeout as delay } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { ProcessFacts } from "../../src/status/process-facts.ts";

function block(ms: number): void {
  const endMs = performance.now() + ms;
  while (performance.now() < endMs);
}

describe("ProcessFacts", () => {
  test("of a loop that waits it says that nobody waits for it", async () => {
    const facts = new ProcessFacts();
    facts.start();
    try {
      for (let i = 0; i < 50; i++) await delay(10);
      const { eventLoopDelayP50Ms: p50Ms } = await facts.report();
      expect(p50Ms).toBeGreaterThan(0);
      expect(p50Ms).toBeLessThan(5);
    } finally {
      facts.stop();
    }
  });

  test("sees how late the event loop was, and not the interval it looks at", async () => {
    const facts = new ProcessFacts();
    facts.start();
    try {
      await delay(10);
      block(400);
      await delay(10);
      const { eventLoopDelayMaxMs: maxMs } = await facts.report();
      expect(maxMs).toBeGreaterThanOrEqual(390);
      // others had the processor for no longer than that
      expect(maxMs).toBeLessThan(5_000);
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
