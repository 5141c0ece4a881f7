// SPDX-License-Identifier: Apache-2.0
// The connections that a network namespace tracks, and forgetting single ones.
// Source: linux/netfilter/nfnetlink_conntrack.h, nf_conntrack_common.h; linux net/netfilter/nf_conntrack_netlink.c.
import { constants } from "node:os";
import { setImmediate as nextTurn } from "node:timers/promises";
import { addressText } from "../address.ts";
import { netlinkInNetns } from "../native.ts";
import type { NetnsAt } from "../netns-visit.ts";
import { errorCode, exchange, NetlinkError } from "./exchange.ts";
import type { SocketEnd } from "./inet-diag.ts";
import {
  concatBytes,
  decodeAttributes,
  eachMessage,
  encodeAttribute,
  encodeRequests,
  forEachAttribute,
  NLM,
  viewOf,
} from "./message.ts";

const NETLINK_NETFILTER = 12;
const NFNL_SUBSYS_CTNETLINK = 1;
const IPCTNL_MSG_CT_GET = 1;
const IPCTNL_MSG_CT_DELETE = 2;
const IPCTNL_MSG_CT_GET_STATS = 5;
const CTA_STATS_GLOBAL_ENTRIES = 1;
const IPPROTO_TCP = 6;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
/** struct nfgenmsg: family, version, u16 */
const HEADER_BYTES = 4;
const CTA = {
  tupleOrig: 1,
  tupleReply: 2,
  status: 3,
  mark: 8,
  id: 12,
  zone: 18,
  markMask: 21,
  statusMask: 26,
};
const CTA_TUPLE_IP = 1;
const CTA_TUPLE_PROTO = 2;
/** Source and destination, of IPv4 and of IPv6. */
const CTA_IP = { 2: [1, 2], 10: [3, 4] } as const;
const CTA_PROTO = { number: 1, sourcePort: 2, destinationPort: 3 } as const;
const NLA_F_NESTED = 0x8000;
const IPS_SRC_NAT = 0x10;
const IPS_DST_NAT = 0x20;

/** What is heard of one listing at most: some 40,000 connections. */
const MAX_LISTING_BYTES = 16 << 20;
const ENTRIES_PER_TURN = 1_000;
/** A batch has to fit into the default send buffer of a socket. */
const FORGOTTEN_AT_ONCE = 300;

/** A tracked connection as it was when it was listed. */
export interface TrackedConnection {
  readonly mark: number;
  /** Its destination was translated. */
  readonly isRedirected: boolean;
  /** An address or port of it was translated. */
  readonly isTranslated: boolean;
  /** The port that answers come from, before they are translated back; 0 where there are no ports. */
  readonly answeringPort: number;
  /** Family and attributes that name this very entry. */
  readonly key: { readonly family: number; readonly attributes: Uint8Array };
}

/** Which connections are meant; a kernel that knows one of the filters lists no others, so look at each. */
export interface TrackedQuery {
  readonly mark?: { readonly value: number; readonly mask: number };
  readonly isRedirected?: true;
  readonly isTranslated?: false;
  /** Nothing is made of others; they count for what is heard at most. */
  readonly isTcp?: true;
}

/**
 * How many connections the namespace tracks. Nothing is listed for it: each list costs a walk through what all namespaces track,
 * however little is in this one.
 * @returns undefined where the kernel does not say @throws NativeError: the conversation failed
 */
export async function countTracked(netnsFd: number): Promise<number | undefined> {
  const request = { type: messageType(IPCTNL_MSG_CT_GET_STATS), flags: 0, body: header(0) };
  const [answer] = await exchange(netnsFd, NETLINK_NETFILTER, [request]);
  const body = answer?.messages[0]?.body;
  const entries = body && decodeAttributes(body, HEADER_BYTES).get(CTA_STATS_GLOBAL_ENTRIES);
  return entries?.length === 4 ? viewOf(entries).getUint32(0, false) : undefined;
}

/**
 * Lists tracked connections of both families, whether tracking goes on in the namespace or has stopped. The list is not one moment's.
 * @param query.maxBytes what is heard at most, default 16 MiB
 * @returns isCapped: there were more than are heard of one namespace
 * @throws NetlinkError: the kernel refused; NativeError: the conversation failed
 */
export async function listTracked(
  netnsFd: number,
  { maxBytes = MAX_LISTING_BYTES, ...query }: TrackedQuery & { readonly maxBytes?: number },
): Promise<{ readonly connections: TrackedConnection[]; readonly isCapped: boolean }> {
  const request = { type: messageType(IPCTNL_MSG_CT_GET), flags: NLM.dump, body: encodeQuery(query) };
  const received = await netlinkInNetns(netnsFd, NETLINK_NETFILTER, encodeRequests([request]), {
    enoughBytes: maxBytes,
  });
  const connections: TrackedConnection[] = [];
  let isCapped = true;
  let heard = 0;
  for (const { type, body } of eachMessage(received)) {
    if (type === NLMSG_ERROR || type === NLMSG_DONE) {
      isCapped = false;
      const error = body.length < 4 ? 0 : viewOf(body).getInt32(0, true);
      if (error !== 0) throw refused("list", error);
    } else if (query.isTcp !== true || isTcp(body)) connections.push(decodeConnection(body));
    if (++heard % ENTRIES_PER_TURN === 0) await nextTurn();
  }
  return { connections, isCapped };
}

/**
 * Forgets connections: their next packet is a new one's. One that is gone already is no error.
 * @returns how many were forgotten
 * @throws NetlinkError: the kernel refused; NativeError: the conversation failed
 */
export async function forgetTracked(
  at: NetnsAt,
  connections: readonly Pick<TrackedConnection, "key">[],
): Promise<number> {
  let count = 0;
  for (let from = 0; from < connections.length; from += FORGOTTEN_AT_ONCE) {
    const requests = connections.slice(from, from + FORGOTTEN_AT_ONCE).map(({ key }) => ({
      type: messageType(IPCTNL_MSG_CT_DELETE),
      flags: NLM.ack,
      body: concatBytes(header(key.family), key.attributes),
    }));
    for (const { error } of await exchange(at, NETLINK_NETFILTER, requests)) {
      if (error === 0) count++;
      else if (error !== -constants.errno.ENOENT) throw refused("forget", error);
    }
  }
  return count;
}

function refused(doing: string, error: number | undefined): NetlinkError {
  const code = errorCode(error);
  const remedy = "load the module nf_conntrack_netlink on the node";
  return new NetlinkError(
    `${doing} tracked connections of a network namespace`,
    code,
    `the kernel refused (${code}); ${remedy}`,
  );
}

function messageType(message: number): number {
  return (NFNL_SUBSYS_CTNETLINK << 8) | message;
}

function header(family: number): Uint8Array {
  return Uint8Array.of(family, 0, 0, 0);
}

function encodeQuery({ mark, isRedirected, isTranslated }: TrackedQuery): Uint8Array {
  const parts = [header(0)];
  if (mark !== undefined)
    parts.push(
      encodeAttribute(CTA.mark, bigEndian(mark.value)),
      encodeAttribute(CTA.markMask, bigEndian(mark.mask)),
    );
  if (isRedirected === true)
    parts.push(
      encodeAttribute(CTA.status, bigEndian(IPS_DST_NAT)),
      encodeAttribute(CTA.statusMask, bigEndian(IPS_DST_NAT)),
    );
  if (isTranslated === false)
    parts.push(
      encodeAttribute(CTA.status, bigEndian(0)),
      encodeAttribute(CTA.statusMask, bigEndian(IPS_SRC_NAT | IPS_DST_NAT)),
    );
  return concatBytes(...parts);
}

function bigEndian(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  viewOf(bytes).setUint32(0, value, false);
  return bytes;
}

/** By the first packet's tuple, without a value for each part of it. */
function isTcp(body: Uint8Array): boolean {
  let is = false;
  forEachAttribute(body, HEADER_BYTES, body.length, (type, start, end) => {
    if (type !== CTA.tupleOrig) return;
    forEachAttribute(body, start, end, (part, from, to) => {
      if (part !== CTA_TUPLE_PROTO) return;
      forEachAttribute(body, from, to, (field, at) => {
        if (field === CTA_PROTO.number && body[at] === IPPROTO_TCP) is = true;
      });
    });
  });
  return is;
}

function decodeConnection(body: Uint8Array): TrackedConnection {
  const attributes = decodeAttributes(body, HEADER_BYTES);
  const number = (type: number): number => {
    const value = attributes.get(type);
    return value?.length === 4 ? viewOf(value).getUint32(0, false) : 0;
  };
  const named = [CTA.tupleOrig, CTA.zone, CTA.id].flatMap((type) => {
    const value = attributes.get(type);
    const flag = type === CTA.tupleOrig ? NLA_F_NESTED : 0;
    return value === undefined ? [] : [encodeAttribute(type | flag, value)];
  });
  const status = number(CTA.status);
  return {
    mark: number(CTA.mark),
    isRedirected: (status & IPS_DST_NAT) !== 0,
    isTranslated: (status & (IPS_SRC_NAT | IPS_DST_NAT)) !== 0,
    answeringPort: sourcePort(attributes.get(CTA.tupleReply)),
    key: { family: body[0] ?? 0, attributes: concatBytes(...named) },
  };
}

function sourcePort(tuple: Uint8Array | undefined): number {
  const protocol = tuple === undefined ? undefined : decodeAttributes(tuple).get(CTA_TUPLE_PROTO);
  return protocol === undefined ? 0 : portIn(decodeAttributes(protocol), CTA_PROTO.sourcePort);
}

function portIn(protocol: ReadonlyMap<number, Uint8Array>, type: number): number {
  const port = protocol.get(type);
  return port?.length === 2 ? viewOf(port).getUint16(0, false) : 0;
}

/** Both ends of a TCP connection as its first packet named them; undefined for what is none. Pure. */
export function tcpEndsOf({
  key,
}: Pick<TrackedConnection, "key">):
  | { readonly source: SocketEnd; readonly destination: SocketEnd }
  | undefined {
  const tuple = decodeAttributes(key.attributes).get(CTA.tupleOrig);
  const parts = tuple && decodeAttributes(tuple);
  const ip = parts?.get(CTA_TUPLE_IP);
  const protocol = parts?.get(CTA_TUPLE_PROTO);
  const types = key.family === 2 || key.family === 10 ? CTA_IP[key.family] : undefined;
  if (ip === undefined || protocol === undefined || types === undefined) return undefined;
  const ports = decodeAttributes(protocol);
  const [source, destination] = types.map((type) => decodeAttributes(ip).get(type));
  if (ports.get(CTA_PROTO.number)?.[0] !== IPPROTO_TCP || !source || !destination) return undefined;
  return {
    source: { address: addressText(source), port: portIn(ports, CTA_PROTO.sourcePort) },
    destination: { address: addressText(destination), port: portIn(ports, CTA_PROTO.destinationPort) },
  };
}
