// SPDX-License-Identifier: Apache-2.0
// The agent's own process: memory, processor time, descriptors, how late the event loop is.
import { readdir } from "node:fs/promises";
import { monitorEventLoopDelay } from "node:perf_hooks";
import type { ProcessReport } from "./node-state-report.ts";

const windowMs = 30_000;
const resolutionMs = 50;

type IntervalHistogram = ReturnType<typeof monitorEventLoopDelay>;

/** Delays of the event loop over the last whole window. */
interface Delays {
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

/** Watches the process between `start` and `stop`. */
export class ProcessFacts {
  readonly startedAt = new Date(Date.now() - process.uptime() * 1000);
  #histogram: IntervalHistogram | undefined;
  #timer: NodeJS.Timeout | undefined;
  #last: Delays | undefined;

  /** Begins to measure; 20 wake-ups a second. Keeps nothing alive. */
  start(): void {
    if (this.#histogram !== undefined) return;
    const histogram = monitorEventLoopDelay({ resolution: resolutionMs });
    histogram.enable();
    this.#histogram = histogram;
    this.#timer = setInterval(() => {
      this.#last = delaysOf(histogram);
      histogram.reset();
    }, windowMs);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#histogram?.disable();
    this.#histogram = undefined;
  }

  get uptimeSeconds(): number {
    return process.uptime();
  }

  async report(): Promise<ProcessReport> {
    const { user, system } = process.cpuUsage();
    const current = this.#histogram === undefined ? undefined : delaysOf(this.#histogram);
    // the window under way counts too, or the first half minute would know nothing and a stall would show late
    const { p50Ms, p99Ms } = this.#last ?? current ?? { p50Ms: 0, p99Ms: 0 };
    return {
      pid: process.pid,
      rssBytes: process.memoryUsage.rss(),
      heapUsedBytes: process.memoryUsage().heapUsed,
      cpuSeconds: (user + system) / 1e6,
      openFds: (await readdir("/proc/self/fd")).length,
      eventLoopDelayP50Ms: p50Ms,
      eventLoopDelayP99Ms: p99Ms,
      eventLoopDelayMaxMs: Math.max(this.#last?.maxMs ?? 0, current?.maxMs ?? 0),
    };
  }
}

/** The histogram holds times between ticks: the delay is what they have beyond the interval. */
function delaysOf(histogram: IntervalHistogram): Delays {
  if (histogram.count === 0) return { p50Ms: 0, p99Ms: 0, maxMs: 0 };
  const beyond = (nanoseconds: number): number =>
    Math.max(0, Math.round((nanoseconds / 1e6 - resolutionMs) * 100) / 100);
  return {
    p50Ms: beyond(histogram.percentile(50)),
    p99Ms: beyond(histogram.percentile(99)),
    maxMs: beyond(histogram.max),
  };
}
