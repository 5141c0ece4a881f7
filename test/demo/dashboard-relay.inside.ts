// SPDX-License-Identifier: Apache-2.0
// What dashboard-relay.test.ts does inside a node: a server on the node's loopback address, and the inner end of the relay.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { DashboardRelay } from "./dashboard-relay.ts";
import { dashboardSocket, markAsKept } from "./kept-demo.ts";

let streams = 0;
const server = createServer((request, response) => {
  if (request.url === "/stream") {
    streams += 1;
    response.once("close", () => {
      streams -= 1;
    });
    response.write("first\n");
  } else response.end(`host ${request.headers.host}`);
});
await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));

/** Opens the inner end, and marks the node as one that stays up. */
export async function open(): Promise<void> {
  await DashboardRelay.inside(dashboardSocket, (server.address() as AddressInfo).port);
  await markAsKept(process.pid);
}

/** Streams that somebody listens to. */
export function openStreams(): number {
  return streams;
}
