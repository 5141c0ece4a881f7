// SPDX-License-Identifier: Apache-2.0
// What the kernel remembers of connections that are long over, and would take for one of them that a captured pod opens.
import {
  countTracked,
  forgetTracked,
  listTracked,
  type TrackedConnection,
  tcpEndsOf,
} from "../linux/netlink/conntrack.ts";
import { type SocketEnd, type SocketState, visitSockets } from "../linux/netlink/inet-diag.ts";
import { interfaceAddresses } from "../linux/netlink/interface-addresses.ts";
import type { Netns } from "../linux/netns.ts";

/**
 * In any of which a connection is not over. In TIME_WAIT it is: an entry left as established would be met before or after that has run out
 * (seen with the real ztunnel: 3 of 3 new connections with such ports left in clear within a minute).
 */
const LIVE_STATES: readonly SocketState[] = [
  "established",
  "syn-sent",
  "syn-received",
  "fin-wait-1",
  "fin-wait-2",
  "close-wait",
  "last-ack",
  "closing",
];
/** Some 5,000 connections: of a pod that has more, the first ones are looked at. It must not cost the others more. */
const MAX_LISTING_BYTES = 2 << 20;

/**
 * Makes the kernel forget TCP connections that nobody in the namespace has, and that were never translated.
 *
 * When our rules go, tracking stops, and what is open then (ztunnel's own connections among it) stays tracked as established for five
 * days; likewise what ends at the moment in which tracking begins. A new connection with the same addresses and ports is not new to
 * the kernel then: no rule of nat is asked, and it goes past ztunnel in clear. To be called before a running pod's rules are written,
 * and once more when what ended meanwhile is over.
 * What is forwarded for others, or translated, is somebody's who is not seen here: it stays.
 * Source: linux net/netfilter/nf_nat_core.c, nf_nat_inet_fn; nf_conntrack_proto_tcp.c, tcp_timeouts and tcp_loose.
 * @returns how many were forgotten
 * @throws NetlinkError or NativeError when the kernel cannot be asked
 */
export async function forgetFrozen(netns: Netns): Promise<number> {
  if ((await countTracked(netns.fd)) === 0) return 0;
  // tracked ones first: what has a socket by then is none of those without
  const query = { isTranslated: false, isTcp: true, maxBytes: MAX_LISTING_BYTES } as const;
  const { connections } = await listTracked(netns.fd, query);
  const own = new Set((await interfaceAddresses(netns)).map(({ address }) => address));
  const suspects = connections.flatMap((connection) => suspectOf(connection, own));
  if (suspects.length === 0) return 0;
  const live = new Set<string>();
  const living = { protocol: "tcp", states: LIVE_STATES } as const;
  const { isCapped } = await visitSockets(netns.fd, living, ({ local, remote }) => {
    live.add(pairText(local, remote));
  });
  // one that is not known to be over may not be
  if (isCapped) return 0;
  const frozen = suspects.filter(({ pairs }) => !pairs.some((pair) => live.has(pair)));
  return await forgetTracked(
    netns,
    frozen.map(({ connection }) => connection),
  );
}

interface Suspect {
  readonly connection: TrackedConnection;
  /** As a socket at one end or the other would have them. */
  readonly pairs: readonly string[];
}

function suspectOf(connection: TrackedConnection, own: ReadonlySet<string>): Suspect[] {
  const ends = connection.isTranslated ? undefined : tcpEndsOf(connection);
  if (ends === undefined) return [];
  const { source, destination } = ends;
  if (!own.has(source.address) && !own.has(destination.address)) return [];
  return [{ connection, pairs: [pairText(source, destination), pairText(destination, source)] }];
}

function pairText(local: SocketEnd, remote: SocketEnd): string {
  return `${local.address} ${local.port} ${remote.address} ${remote.port}`;
}
