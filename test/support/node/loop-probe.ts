// SPDX-License-Identifier: Apache-2.0
// Loaded into an agent beside its bundle (`NODE_OPTIONS=--import`): says over a Unix socket how long its event loop stood still.
import { rmSync } from "node:fs";
import { createServer } from "node:net";
import { monitorEventLoopDelay } from "node:perf_hooks";

/** Since the last time it was asked, in ms. */
export interface LoopReport {
  /** Most of a processor's time that the main thread took between two turns: its own work, without others' on the machine. */
  readonly stallMs: number;
  /** Longest time between two turns by the wall clock. */
  readonly delayMs: number;
  readonly rssMb: number;
}

const path = process.env.LOOP_PROBE;
const tickMs = 5;

function usedMs(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1000;
}

if (path !== undefined) {
  const delays = monitorEventLoopDelay({ resolution: tickMs });
  delays.enable();
  let lastMs = usedMs();
  let stallMs = 0;
  const tick = (): void => {
    const nowMs = usedMs();
    stallMs = Math.max(stallMs, nowMs - lastMs);
    lastMs = nowMs;
  };
  setInterval(tick, tickMs).unref();
  rmSync(path, { force: true });
  const server = createServer((socket) => {
    tick();
    const delayMs = delays.count === 0 ? 0 : Math.max(0, delays.max / 1e6 - tickMs);
    const report: LoopReport = { stallMs, delayMs, rssMb: process.memoryUsage.rss() / 2 ** 20 };
    delays.reset();
    stallMs = 0;
    socket.on("error", () => {});
    socket.end(JSON.stringify(report));
  });
  server.listen(path).unref();
}
