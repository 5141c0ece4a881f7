// SPDX-License-Identifier: Apache-2.0
// The agent's own process: memory, processor time, descriptors, how late the event loop is.
import { readdir } from "node:fs/promises";
import { type LoopTurns, readLoopTurns, watchLoopTurns } from "../linux/loop-turns.ts";
import type { ProcessReport } from "./node-state-report.ts";

const windowMs = 30_000;

/** Watches the process between `start` and `stop`. */
export class ProcessFacts {
  readonly startedAt = new Date(Date.now() - process.uptime() * 1000);
  #timer: NodeJS.Timeout | undefined;
  /** Of the last whole window. */
  #last: LoopTurns | undefined;

  /** Begins to measure. Keeps nothing alive, and wakes nothing up but twice a minute. */
  start(): void {
    if (this.#timer !== undefined) return;
    watchLoopTurns();
    readLoopTurns({ forget: true });
    this.#timer = setInterval(() => {
      this.#last = readLoopTurns({ forget: true });
    }, windowMs);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  get uptimeSeconds(): number {
    return process.uptime();
  }

  async report(): Promise<ProcessReport> {
    const { user, system } = process.cpuUsage();
    const current = this.#timer === undefined ? undefined : readLoopTurns();
    // the window under way counts too, or the first half minute would know nothing and a stall would show late
    const { p50Ms, p99Ms } = this.#last ?? current ?? { p50Ms: 0, p99Ms: 0 };
    return {
      pid: process.pid,
      rssBytes: process.memoryUsage.rss(),
      heapUsedBytes: process.memoryUsage().heapUsed,
      cpuSeconds: (user + system) / 1e6,
      openFds: (await readdir("/proc/self/fd")).length,
      eventLoopDelayP50Ms: rounded(p50Ms),
      eventLoopDelayP99Ms: rounded(p99Ms),
      eventLoopDelayMaxMs: rounded(Math.max(this.#last?.longestMs ?? 0, current?.longestMs ?? 0)),
    };
  }
}

function rounded(ms: number): number {
  return Math.round(ms * 100) / 100;
}
