// SPDX-License-Identifier: Apache-2.0
// The TCP connections of a pod: those that pass ztunnel by because they are older than the capture, and those that it carries.
import { setTimeout as delay } from "node:timers/promises";
import {
  destroySockets,
  type InetSocket,
  type SocketEnd,
  type SocketState,
  visitSockets,
} from "../linux/netlink/inet-diag.ts";
import { interfaceAddresses } from "../linux/netlink/interface-addresses.ts";
import type { Netns } from "../linux/netns.ts";
import { NetnsVisit } from "../linux/netns-visit.ts";
import { allDone } from "../loop/all-done.ts";

/** How many connections there are. */
export interface ConnectionCount {
  readonly count: number;
  /** The pod has more sockets than were looked at: there may be more. */
  readonly isCapped: boolean;
}

/** What ztunnel carries for a pod. */
export interface CarriedConnections extends ConnectionCount {
  /** Of ztunnel's sockets those that were closed and whose peer has not confirmed yet that it knows. */
  readonly closingCount: number;
}

/**
 * What became of the connections from before the capture.
 * - `reset`: both ends of `count` connections were told
 * - `unsupported`: this kernel destroys no sockets; `count` connections go on
 */
export interface EarlierReset extends ConnectionCount {
  readonly outcome: "reset" | "unsupported";
}

/** ztunnel marks every socket of its own. Source: istio/ztunnel src/config.rs, packet_mark. */
const ZTUNNEL_MARK = { value: 0x539, mask: 0xfff } as const;
const OUTBOUND_PORT = 15001;
const INBOUND_PORT = 15006;
const HBONE_PORT = 15008;
const DNS_PORT = 15053;
/** Ports at which ztunnel takes what was redirected to it. */
const REDIRECT_PORTS: readonly number[] = [OUTBOUND_PORT, INBOUND_PORT, DNS_PORT];

/** States in which one end or the other may wait for something. */
const OPEN_STATES: readonly SocketState[] = [
  "established",
  "syn-received",
  "fin-wait-1",
  "fin-wait-2",
  "close-wait",
];
/** A connection that the pod is about to open goes on outside the mesh if its answer arrives after the capture. */
const RESET_STATES: readonly SocketState[] = [...OPEN_STATES, "syn-sent"];
/** A FIN was sent and is not acknowledged. */
const CLOSING_STATES: readonly SocketState[] = ["fin-wait-1", "closing", "last-ack"];

/** A list of sockets is not of one moment: what looks like an earlier connection has to look so twice. */
const SECOND_LOOK_MS = 20;
/** Each round ends at most as many as are heard of at once: enough for 300,000. */
const MAX_RESET_ROUNDS = 20;

/**
 * Counts connections that neither end in the pod nor go through ztunnel: before the capture these are all, after it those that
 * were open already. With inbound traffic that passes ztunnel by (ingress mode) later ones count too.
 * @throws NetlinkError or NativeError when the sockets cannot be listed
 */
export async function countEarlier(netns: Netns): Promise<ConnectionCount> {
  const { earlier, isCapped } = await look(netns, OPEN_STATES);
  return { count: earlier.length, isCapped };
}

/**
 * Resets the connections that {@link countEarlier} counts, and those that are being opened past ztunnel: whoever reads or writes in
 * the pod gets an error at once, and the peer a reset.
 *
 * The resets have to leave untranslated: call this while rules of `establishedConnections: "keep"` stand, and apply those of "reset"
 * afterwards. Rules that match more than SYN take a connection away from its peer before the peer can be told.
 * @throws NetlinkError or NativeError when the sockets cannot be listed, or the kernel refuses
 */
export async function resetEarlier(netns: Netns): Promise<EarlierReset> {
  let count = 0;
  for (let round = 1; ; round++) {
    const first = await look(netns, RESET_STATES);
    if (first.earlier.length === 0) return { outcome: "reset", count, isCapped: first.isCapped };
    const known = new Set(first.earlier.map(identityOf));
    await delay(SECOND_LOOK_MS);
    const { earlier, isCapped } = await look(netns, RESET_STATES);
    const confirmed = earlier.filter((socket) => known.has(identityOf(socket)));
    const { destroyedCount, isSupported } = await destroySockets(netns.fd, confirmed);
    if (!isSupported) return { outcome: "unsupported", count: confirmed.length, isCapped };
    count += destroyedCount;
    if (destroyedCount === 0 || round === MAX_RESET_ROUNDS) return { outcome: "reset", count, isCapped };
  }
}

/**
 * Counts the connections that ztunnel carries for the pod at present. HBONE connections as such do not count: they are kept when
 * nothing goes through them.
 * @throws NetlinkError or NativeError when the sockets or the pod's addresses cannot be listed
 */
export async function countThroughZtunnel(netns: Netns): Promise<CarriedConnections> {
  const own = new Set((await interfaceAddresses(netns)).map(({ address }) => address));
  let count = 0;
  let closingCount = 0;
  const query = { protocol: "tcp", states: [...OPEN_STATES, ...CLOSING_STATES], mark: ZTUNNEL_MARK } as const;
  const { isCapped } = await visitSockets(netns.fd, query, (socket) => {
    if (!isCarrying(socket, own)) return;
    if (CLOSING_STATES.includes(socket.state)) closingCount++;
    // without a descriptor: ended by ztunnel, and the peer knows
    else if (socket.inode !== 0) count++;
  });
  return { count, closingCount, isCapped };
}

interface Look {
  readonly earlier: readonly InetSocket[];
  readonly isCapped: boolean;
}

async function look(netns: Netns, states: readonly SocketState[]): Promise<Look> {
  const sockets: InetSocket[] = [];
  const add = (socket: InetSocket): void => {
    sockets.push(socket);
  };
  // ztunnel's first and apart: all of them have to be known, however many others there are
  const visit = new NetnsVisit({ fd: netns.fd });
  const [, { isCapped }] = await allDone([
    visitSockets(visit, { protocol: "tcp", states, mark: ZTUNNEL_MARK }, add),
    visitSockets(visit, { protocol: "tcp", states }, add),
  ]);
  return { earlier: earlierOf(sockets), isCapped };
}

/** Those of a namespace's sockets whose other end is neither in the namespace nor ztunnel. Pure. */
export function earlierOf(sockets: readonly InetSocket[]): InetSocket[] {
  const pairs = new Set<string>();
  const redirected = new Set<string>();
  for (const { local, remote } of sockets) {
    pairs.add(`${endText(local)} ${endText(remote)}`);
    if (REDIRECT_PORTS.includes(local.port)) redirected.add(endText(remote));
  }
  return sockets.filter((socket) => {
    const { local, remote } = socket;
    const isOfZtunnel = isMarked(socket) || local.port === HBONE_PORT || REDIRECT_PORTS.includes(local.port);
    const isInside = isLoopback(local) || local.address === remote.address;
    if (isOfZtunnel || isInside) return false;
    return !pairs.has(`${endText(remote)} ${endText(local)}`) && !redirected.has(endText(local));
  });
}

/**
 * Whether a socket of ztunnel's is that end of a carried connection by which it is counted: of an outbound one what was redirected,
 * of an inbound one what leads on to the app, whichever way it came. The app's side has the client's own address where that is kept.
 */
function isCarrying({ local, remote }: InetSocket, own: ReadonlySet<string>): boolean {
  if (local.port === OUTBOUND_PORT || local.port === DNS_PORT) return true;
  const isHbone = local.port === HBONE_PORT || remote.port === HBONE_PORT;
  return own.has(remote.address) && !isHbone && local.port !== INBOUND_PORT;
}

function isMarked({ mark }: InetSocket): boolean {
  return (mark & ZTUNNEL_MARK.mask) === ZTUNNEL_MARK.value;
}

function isLoopback({ address }: SocketEnd): boolean {
  return address === "::1" || address.startsWith("127.");
}

function endText({ address, port }: SocketEnd): string {
  return `${address} ${port}`;
}

/** This very socket: the id holds the kernel's cookie. */
function identityOf({ id }: InetSocket): string {
  return Buffer.from(id.buffer, id.byteOffset, id.length).toString("latin1");
}
