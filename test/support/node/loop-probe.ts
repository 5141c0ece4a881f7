// SPDX-License-Identifier: Apache-2.0
// Loaded into an agent beside its bundle (`NODE_OPTIONS=--import`): says over a Unix socket how long its event loop stood still.
import { openSync, readdirSync, readSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { monitorEventLoopDelay } from "node:perf_hooks";

/** Since the last time it was asked, in ms. */
export interface LoopReport {
  /** Most of a processor's time that the main thread took between two turns: its own work, without others' on the machine. */
  readonly stallMs: number;
  /** Longest time between two turns by the wall clock. */
  readonly delayMs: number;
  /** The same without the time that it waited for a processor: its own work, and calls of the kernel that did not come back. */
  readonly stopMs: number;
  readonly rssMb: number;
  /** What keeps the loop going now, by kind. Source: Node.js, process.getActiveResourcesInfo. */
  readonly resources: Readonly<Record<string, number>>;
}

const path = process.env.LOOP_PROBE;
const tickMs = 5;

function usedMs(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1000;
}

function countResources(): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const kind of process.getActiveResourcesInfo()) counts[kind] = (counts[kind] ?? 0) + 1;
  return counts;
}

/**
 * How long threads were ready to run and did not, in ms: the main one, and those of V8, which it waits for when it collects garbage.
 * Source: linux Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat.
 */
function waitingClock(): () => number {
  const fds = readdirSync("/proc/self/task").map((id) => openSync(`/proc/self/task/${id}/schedstat`, "r"));
  const text = Buffer.alloc(128);
  const waitedMs = (fd: number): number =>
    Number(text.toString("latin1", 0, readSync(fd, text, 0, text.length, 0)).split(" ")[1]) / 1e6;
  return () => fds.reduce((sum, fd) => sum + waitedMs(fd), 0);
}

if (path !== undefined) {
  const delays = monitorEventLoopDelay({ resolution: tickMs });
  delays.enable();
  let lastMs = usedMs();
  let stallMs = 0;
  const waitedMs = waitingClock();
  let last = { atMs: performance.now(), waitedMs: waitedMs() };
  let stopMs = 0;
  const tick = (): void => {
    const nowMs = usedMs();
    stallMs = Math.max(stallMs, nowMs - lastMs);
    lastMs = nowMs;
    const now = { atMs: performance.now(), waitedMs: waitedMs() };
    stopMs = Math.max(stopMs, now.atMs - last.atMs - (now.waitedMs - last.waitedMs) - tickMs);
    last = now;
  };
  setInterval(tick, tickMs).unref();
  rmSync(path, { force: true });
  const server = createServer((socket) => {
    tick();
    const delayMs = delays.count === 0 ? 0 : Math.max(0, delays.max / 1e6 - tickMs);
    const rssMb = process.memoryUsage.rss() / 2 ** 20;
    const report: LoopReport = { stallMs, delayMs, stopMs, rssMb, resources: countResources() };
    delays.reset();
    stallMs = 0;
    stopMs = 0;
    socket.on("error", () => {});
    socket.end(JSON.stringify(report));
  });
  server.listen(path).unref();
}
