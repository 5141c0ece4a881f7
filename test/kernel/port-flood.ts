// SPDX-License-Identifier: Apache-2.0
// A hostile pod: very many connections to ports of the agent, each kind annoying in its own way, and all of them back when they are cut.
import { connect, type Socket } from "node:net";

/** What a connection does. `half-open`: the kernel drops what answers its SYN, see {@link halfOpenPorts}. */
export const floodKinds = ["idle", "drip", "garbage", "pipelined", "half-closed", "half-open"] as const;

export type FloodKind = (typeof floodKinds)[number];

/** Own ports of half-open connections: a rule drops the handshake's second packet to these. */
export const halfOpenPorts = { first: 20_000, last: 24_999 } as const;

const garbage = Buffer.alloc(16 * 1024, 0x16);
const pipeline = Buffer.from(
  "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\nGET /readyz HTTP/1.1\r\nHost: x\r\n\r\n".repeat(200),
);
const half = "GET /readyz HTTP/1.1\r\nX: ";
const dripMs = 500;

const open = new Set<Socket>();
let isOver = false;
let attempts = 0;
let nextPort: number = halfOpenPorts.first;

/** Begins; from then on so many connections of each kind are open to each port, or being opened. */
export function flood(target: {
  readonly host: string;
  readonly ports: readonly number[];
  readonly perKind: number;
  /** Before one that was cut comes back. */
  readonly pauseMs: number;
}): void {
  for (const port of target.ports)
    for (const kind of floodKinds)
      for (let i = 0; i < target.perKind; i++)
        hold({ host: target.host, port, kind, pauseMs: target.pauseMs });
}

/** Connections tried so far, and those that this side has open now. */
export function tally(): { readonly attempts: number; readonly open: number } {
  return { attempts, open: open.size };
}

/** Ends all of them. */
export function end(): void {
  isOver = true;
  for (const socket of open) socket.resetAndDestroy();
}

function hold(one: { host: string; port: number; kind: FloodKind; pauseMs: number }): void {
  if (isOver) return;
  const { host, port, kind, pauseMs } = one;
  attempts++;
  const socket = connect({
    host,
    port,
    allowHalfOpen: true,
    ...(kind === "half-open" ? { localPort: nextPort++ } : {}),
  });
  open.add(socket);
  let drip: NodeJS.Timeout | undefined;
  socket.on("error", () => {});
  socket.on("connect", () => {
    if (kind === "drip") drip = setInterval(() => socket.write("y"), dripMs);
    if (kind === "drip") socket.write(half);
    else if (kind === "garbage") socket.write(garbage);
    else if (kind === "pipelined") socket.write(pipeline);
    else if (kind === "half-closed") socket.end("GET /met");
  });
  socket.on("data", () => {});
  socket.on("end", () => socket.destroy());
  socket.on("close", () => {
    clearInterval(drip);
    open.delete(socket);
    if (kind !== "half-open") setTimeout(() => hold(one), pauseMs);
  });
}
