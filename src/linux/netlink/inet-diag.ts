// SPDX-License-Identifier: Apache-2.0
// The TCP and UDP sockets of a network namespace as sock_diag(7) shows them, and the end of single TCP connections.
import { constants } from "node:os";
import { setImmediate as nextTurn } from "node:timers/promises";
import { addressText } from "../address.ts";
import { converse, type NetnsAt } from "../netns-visit.ts";
import { errorCode, exchange, NetlinkError } from "./exchange.ts";
import {
  concatBytes,
  decodeUint32,
  eachMessage,
  encodeAttribute,
  encodeRequests,
  forEachAttribute,
  type NetlinkAnswer,
  type NetlinkMessage,
  type NetlinkRequest,
  NLM,
  viewOf,
} from "./message.ts";

// Source: sock_diag(7); linux/inet_diag.h, linux/sock_diag.h.
const NETLINK_SOCK_DIAG = 4;
const SOCK_DIAG_BY_FAMILY = 20;
const SOCK_DESTROY = 21;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const AF_INET = 2;
const AF_INET6 = 10;
const PROTOCOL_NUMBERS = { tcp: 6, udp: 17 } as const;
/** struct inet_diag_sockid */
const ID_BYTES = 48;
/** struct inet_diag_msg, with the id behind four bytes. */
const ANSWER = { id: 4, inode: 68, bytes: 72 } as const;
const INET_DIAG_MARK = 15;
const INET_DIAG_REQ_BYTECODE = 1;
const INET_DIAG_BC_MARK_COND = 10;

/** Source: include/net/tcp_states.h. A UDP socket that is not connected is in state `close`. */
const STATES = {
  established: 1,
  "syn-sent": 2,
  "syn-received": 3,
  "fin-wait-1": 4,
  "fin-wait-2": 5,
  "time-wait": 6,
  close: 7,
  "close-wait": 8,
  "last-ack": 9,
  listen: 10,
  closing: 11,
} as const;
const STATE_NAMES = new Map<number, SocketState>(
  Object.entries(STATES).map(([name, number]) => [number, name as SocketState]),
);

/** What is heard of one listing at most: about 16,900 sockets. */
const MAX_LISTING_BYTES = 2 << 20;
/** Sockets decoded between two turns of the event loop: about 2 ms. */
const SOCKETS_PER_TURN = 1_000;
/** A batch has to fit into the default send buffer of a socket. */
const DESTROYED_AT_ONCE = 500;

export type SocketState = keyof typeof STATES;

/** One end of a socket; port 0 and an address of zeros where it has none. */
export interface SocketEnd {
  /** Numeric; an IPv4 address that is mapped into IPv6 in its dotted form. */
  readonly address: string;
  readonly port: number;
}

/** A socket as it was when it was listed. */
export interface InetSocket {
  readonly state: SocketState;
  readonly local: SocketEnd;
  readonly remote: SocketEnd;
  /** SO_MARK; 0 also for a socket in TIME_WAIT, whose mark kernels before 6.16 do not tell. */
  readonly mark: number;
  /** 0 for a socket that no descriptor refers to (any more). */
  readonly inode: number;
  /** struct inet_diag_sockid with the kernel's cookie: this very socket, whatever has its addresses later. A view. */
  readonly id: Uint8Array;
  /** What the kernel keeps it as: AF_INET6 also for IPv4 through a socket of both families. */
  readonly family: number;
}

/** Which sockets are meant. */
export interface SocketQuery {
  readonly protocol: keyof typeof PROTOCOL_NUMBERS;
  readonly states: readonly SocketState[];
  /** Only sockets with this SO_MARK under this mask; the kernel chooses them. Needs Linux 4.9. */
  readonly mark?: { readonly value: number; readonly mask: number };
}

/**
 * Shows each socket of a namespace, of both families, in no order. The list is not one moment's: sockets that come or go
 * meanwhile may be shown or not. The descriptor may be closed as soon as the call returns.
 * @param maxBytes what is heard at most, default 2 MiB
 * @returns isCapped: there were more than are heard of one namespace, and some were not shown
 * @throws NetlinkError: the kernel refused (ENOENT: it has no socket diagnosis); NativeError: the conversation failed
 */
export async function visitSockets(
  at: NetnsAt,
  { maxBytes = MAX_LISTING_BYTES, ...query }: SocketQuery & { readonly maxBytes?: number },
  visit: (socket: InetSocket) => void,
): Promise<{ isCapped: boolean }> {
  const requests = [AF_INET, AF_INET6].map((family) => encodeDump(family, query));
  const request = encodeRequests(requests);
  const received = await converse(at, { protocol: NETLINK_SOCK_DIAG, request, enoughBytes: maxBytes });
  let shownCount = 0;
  let endCount = 0;
  for (const message of eachMessage(received)) {
    if (message.type === NLMSG_ERROR || message.type === NLMSG_DONE) {
      endCount++;
      assertEnd(message, query);
    } else {
      const socket = decodeSocket(message.body);
      if (socket !== undefined) visit(socket);
      if (++shownCount % SOCKETS_PER_TURN === 0) await nextTurn();
    }
  }
  return { isCapped: endCount < requests.length };
}

/** What became of sockets that were to be destroyed. */
export interface DestroyReport {
  /** Those that ended now; the others of the list had ended before. */
  readonly destroyedCount: number;
  /** False: this kernel destroys no sockets (CONFIG_INET_DIAG_DESTROY), and none was. */
  readonly isSupported: boolean;
}

/**
 * Ends TCP connections as if a fatal error had hit them: whoever reads or writes the socket gets ECONNABORTED at once, and the
 * other side a reset. A socket that is gone, or whose addresses are another's by now, is no error.
 * Source: linux net/ipv4/tcp.c tcp_abort; ss(8) --kill.
 * @throws NetlinkError: the kernel refused (EPERM takes NET_ADMIN); NativeError: the conversation failed
 */
export async function destroySockets(
  netnsFd: number,
  sockets: readonly Pick<InetSocket, "family" | "id">[],
): Promise<DestroyReport> {
  let destroyedCount = 0;
  for (let from = 0; from < sockets.length; from += DESTROYED_AT_ONCE) {
    const requests = sockets.slice(from, from + DESTROYED_AT_ONCE).map(encodeDestroy);
    const report = readDestroyAnswers(await exchange(netnsFd, NETLINK_SOCK_DIAG, requests));
    destroyedCount += report.destroyedCount;
    if (!report.isSupported) return { destroyedCount, isSupported: false };
  }
  return { destroyedCount, isSupported: true };
}

/** What the kernel said to requests to destroy; ENOENT: gone, ESTALE: another socket has its place. Pure. @throws NetlinkError as {@link destroySockets} */
export function readDestroyAnswers(answers: readonly Pick<NetlinkAnswer, "error">[]): DestroyReport {
  const { ENOENT, ESTALE, EOPNOTSUPP } = constants.errno;
  const harmless: readonly (number | undefined)[] = [0, -ENOENT, -ESTALE, -EOPNOTSUPP];
  const refusal = answers.find(({ error }) => !harmless.includes(error));
  if (refusal !== undefined) {
    const code = errorCode(refusal.error);
    throw new NetlinkError("end a connection of a network namespace", code, code);
  }
  return {
    destroyedCount: answers.filter(({ error }) => error === 0).length,
    isSupported: !answers.some(({ error }) => error === -EOPNOTSUPP),
  };
}

/** struct inet_diag_req_v2 */
function encodeDump(family: number, { protocol, states, mark }: SocketQuery): NetlinkRequest {
  const body = new Uint8Array(8 + ID_BYTES);
  body[0] = family;
  body[1] = PROTOCOL_NUMBERS[protocol];
  const stateMask = states.reduce((bits, state) => bits | (1 << STATES[state]), 0);
  viewOf(body).setUint32(4, stateMask, true);
  const filter = mark === undefined ? [] : [encodeAttribute(INET_DIAG_REQ_BYTECODE, encodeMarkFilter(mark))];
  return { type: SOCK_DIAG_BY_FAMILY, flags: NLM.dump, body: concatBytes(body, ...filter) };
}

/** One step of struct inet_diag_bc_op: who matches goes to the end, who does not to beyond it. */
function encodeMarkFilter({ value, mask }: { value: number; mask: number }): Uint8Array {
  const filter = new Uint8Array(12);
  const view = viewOf(filter);
  view.setUint8(0, INET_DIAG_BC_MARK_COND);
  view.setUint8(1, filter.length);
  view.setUint16(2, filter.length + 4, true);
  view.setUint32(4, value, true);
  view.setUint32(8, mask, true);
  return filter;
}

function encodeDestroy({ family, id }: Pick<InetSocket, "family" | "id">): NetlinkRequest {
  const head = Uint8Array.of(family, PROTOCOL_NUMBERS.tcp, 0, 0, 0xff, 0xff, 0xff, 0xff);
  return { type: SOCK_DESTROY, flags: NLM.ack, body: concatBytes(head, id) };
}

function assertEnd({ body, sequence }: NetlinkMessage, { protocol }: SocketQuery): void {
  const error = body.length < 4 ? 0 : viewOf(body).getInt32(0, true);
  // a kernel without IPv6 has no such sockets either
  if (error === 0 || sequence === 2) return;
  const code = errorCode(error);
  throw new NetlinkError(
    `list the ${protocol} sockets of a network namespace`,
    code,
    `the kernel refused (${code}); load the module ${protocol}_diag on the node`,
  );
}

function decodeSocket(body: Uint8Array): InetSocket | undefined {
  const state = STATE_NAMES.get(body[1] ?? 0);
  if (body.length < ANSWER.bytes || state === undefined) return undefined;
  const family = body[0] as number;
  const view = viewOf(body);
  let mark = 0;
  forEachAttribute(body, ANSWER.bytes, body.length, (type, start, end) => {
    if (type === INET_DIAG_MARK) mark = decodeUint32(body.subarray(start, end)) ?? 0;
  });
  // ports and addresses are in network order, the rest is not; source: linux/inet_diag.h, struct inet_diag_sockid
  const end = (port: number, address: number): SocketEnd => ({
    address: decodeAddress(body.subarray(ANSWER.id + address, ANSWER.id + address + 16), family),
    port: view.getUint16(ANSWER.id + port, false),
  });
  return {
    state,
    local: end(0, 4),
    remote: end(2, 20),
    mark,
    inode: view.getUint32(ANSWER.inode, true),
    id: body.subarray(ANSWER.id, ANSWER.id + ID_BYTES),
    family,
  };
}

function decodeAddress(bytes: Uint8Array, family: number): string {
  if (family === AF_INET) return addressText(bytes.subarray(0, 4));
  const isMapped =
    bytes[10] === 0xff && bytes[11] === 0xff && bytes.subarray(0, 10).every((byte) => byte === 0);
  return addressText(isMapped ? bytes.subarray(12) : bytes);
}
