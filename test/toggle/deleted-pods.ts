// SPDX-License-Identifier: Apache-2.0
// Servers that are deleted while a peer's ztunnel keeps a connection to them: a peer that is not told sends the first
// request to the next pod with that address into nowhere.
import { tcpConnections } from "../support/node/kernel.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { everyKind, runTrafficPod, type TrafficPod, trafficPort, untilSettled } from "./toggle-scene.ts";
import type { ToggleWorld } from "./toggle-world.ts";

/** What became of the connections. */
export interface DeletionReport {
  readonly deleted: number;
  /** Pods to which a client still had an established connection {@link goneWithinMs} after they were deleted. */
  readonly leftBehind: number;
  /** Longest time that a connection outlived its pod, of those that were not left behind. */
  readonly longestMs: number;
}

/** A peer that has not heard of the end by then never will before its keepalive: minutes. */
export const goneWithinMs = 2000;
const hbonePort = 15008;

/** Deletes so many servers, one after the other, each after a client in the mesh has used it. */
export async function deleteServers(world: ToggleWorld, count: number): Promise<DeletionReport> {
  const client = await runTrafficPod(world, "deletions-client", "mesh");
  await untilSettled(world, client.pod, true);
  let leftBehind = 0;
  let longestMs = 0;
  for (let i = 0; i < count; i++) {
    const server = await runTrafficPod(world, `deleted-${i}`, "mesh");
    await untilSettled(world, server.pod, true);
    await useServer(client, server, i);
    const { ips } = server.pod;
    await world.deletePod(server.pod);
    const deletedAt = performance.now();
    const isGone = async (): Promise<boolean> => (await connectionsTo(client, ips)).length === 0;
    try {
      await waitFor("the client to have no connection to the pod", isGone, {
        timeoutMs: goneWithinMs,
        intervalMs: 25,
      });
      longestMs = Math.max(longestMs, performance.now() - deletedAt);
    } catch {
      leftBehind += 1;
    }
  }
  return { deleted: count, leftBehind, longestMs: Math.round(longestMs) };
}

/** Some requests, until the client's ztunnel has a connection to the server that it keeps. */
async function useServer(client: TrafficPod, server: TrafficPod, index: number): Promise<void> {
  const way = `deletions ${index}`;
  const { ips: hosts } = server.pod;
  await client.app.call.startWay({ way, hosts, port: trafficPort, ...everyKind, lanes: { short: 2 } });
  const requests = async (): Promise<number> => (await client.app.call.tallyOf(way)).requests;
  await waitFor("requests to the pod", async () => (await requests()) >= 4, { timeoutMs: 10_000 });
  await client.app.call.stopWay(way);
  // without one there would be nothing to leave behind
  const isPooled = async (): Promise<boolean> =>
    (await connectionsTo(client, hosts)).some((peer) => peer.endsWith(`:${hbonePort}`));
  await waitFor("the client's ztunnel to keep a connection to the pod", isPooled);
}

/** Peers of the client's established connections to any of the addresses, as ss prints them. */
async function connectionsTo({ pod }: TrafficPod, addresses: readonly string[]): Promise<string[]> {
  const prefixes = addresses.flatMap((address) => [`${address}:`, `[${address}]:`, `[::ffff:${address}]:`]);
  const peers = (await tcpConnections(pod.netns)).map(({ peer }) => peer);
  return peers.filter((peer) => prefixes.some((prefix) => peer.startsWith(prefix)));
}
