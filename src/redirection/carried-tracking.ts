// SPDX-License-Identifier: Apache-2.0
// What the kernel remembers of connections that ztunnel carried, and its end when a pod leaves the mesh.
import {
  countTracked,
  forgetTracked,
  listTracked,
  type TrackedConnection,
  type TrackedQuery,
} from "../linux/netlink/conntrack.ts";
import type { Netns } from "../linux/netns.ts";

/** Ports of ztunnel's that rules redirect to. */
const REDIRECT_PORTS: readonly number[] = [15001, 15006, 15053];
/** The connection mark of our rules: answers on it are led to ztunnel. */
const MARK = { value: 0x111, mask: 0xfff } as const;
/** So few are heard all at once: reading them costs less than a second walk through what all namespaces track. */
const FEW = 2_000;
const ALL: readonly TrackedQuery[] = [{}];
const FILTERED: readonly TrackedQuery[] = [{ isRedirected: true }, { mark: MARK }];
/** As many times as much as is heard at once. */
const MAX_ROUNDS = 10;

/**
 * Makes the kernel forget the connections that were redirected to ztunnel or opened by it towards the app.
 *
 * Tracking stops with our rules, and what is tracked stays as it was at that moment for as long as days. When the pod comes back,
 * an old entry takes the packets of whatever connection has its addresses and ports by then: one from before the capture is led
 * to ztunnel, which does not know it, or its answers go nowhere. To be called when the rules are gone; connections of others are
 * not touched.
 * @returns how many were forgotten
 * @throws NetlinkError or NativeError when the kernel cannot be asked
 */
export async function forgetCarried(netns: Netns): Promise<number> {
  const tracked = await countTracked(netns.fd);
  if (tracked === 0) return 0;
  const queries = tracked !== undefined && tracked <= FEW ? ALL : FILTERED;
  let count = 0;
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const carried: TrackedConnection[] = [];
    let isCapped = false;
    for (const query of queries) {
      const list = await listTracked(netns.fd, query);
      carried.push(...list.connections.filter(wasCarried));
      isCapped ||= list.isCapped;
    }
    count += await forgetTracked(netns, carried);
    if (carried.length === 0 || !isCapped) break;
  }
  return count;
}

function wasCarried({ mark, isRedirected, answeringPort }: TrackedConnection): boolean {
  return (mark & MARK.mask) === MARK.value || (isRedirected && REDIRECT_PORTS.includes(answeringPort));
}
