// SPDX-License-Identifier: Apache-2.0
// The three questions the stand-in asks the kernel of a pod: how is its lo, which addresses has it, where was this
// connection going before it was redirected. Written apart from src/linux/netlink, which the same tests check.
// Source: rtnetlink(7); linux/if_link.h, linux/ipv6.h, linux/netfilter/nfnetlink_conntrack.h.
import { isIPv6 } from "node:net";
import { endianness } from "node:os";
import { netlinkInNetns } from "../../../src/linux/native.ts";

const NETLINK_ROUTE = 0;
const NETLINK_NETFILTER = 12;
const NLM_F_REQUEST = 1;
const NLM_F_ACK = 4;
const NLM_F_DUMP = 0x300;
const NLMSG_ERROR = 2;
const RTM_NEWLINK = 16;
const RTM_GETLINK = 18;
const RTM_NEWADDR = 20;
const RTM_GETADDR = 22;
const IFF_UP = 1;
const IFLA_AF_SPEC = 26;
const IFLA_INET6_CONF = 2;
const DEVCONF_DISABLE_IPV6 = 26;
const IFA_ADDRESS = 1;
const IFA_LOCAL = 2;
const CTNETLINK = 1 << 8;
const CT_NEW = CTNETLINK | 0;
const CT_GET = CTNETLINK | 1;
const CTA_TUPLE_ORIG = 1;
const CTA_TUPLE_REPLY = 2;
const CTA_TUPLE_IP = 1;
const CTA_TUPLE_PROTO = 2;
const NLA_F_NESTED = 0x8000;
const IPPROTO_TCP = 6;
const AF_INET = 2;
const AF_INET6 = 10;
const headerBytes = 16;

/** One end of a connection; IPv4 addresses are plain, never `::ffff:`. */
export interface Endpoint {
  readonly address: string;
  readonly port: number;
}

interface Reply {
  readonly type: number;
  readonly body: Buffer;
}

if (endianness() !== "LE")
  throw new Error("Cannot encode netlink messages: this code is for little-endian machines");

/** The loopback interface of a namespace. */
export interface LoopbackState {
  readonly up: boolean;
  /** `net.ipv6.conf.lo.disable_ipv6` is 1. */
  readonly ipv6Disabled: boolean;
}

/** @throws NativeError */
export async function loopbackState(netnsFd: number): Promise<LoopbackState> {
  const info = Buffer.alloc(16);
  info.writeInt32LE(1, 4);
  const request = { protocol: NETLINK_ROUTE, type: RTM_GETLINK, flags: NLM_F_ACK, body: info };
  for (const { type, body } of await ask(netnsFd, request)) {
    if (type !== RTM_NEWLINK) continue;
    const ofFamilies = readAttributes(body.subarray(16)).get(IFLA_AF_SPEC) ?? Buffer.alloc(0);
    const ofIpv6 = readAttributes(ofFamilies).get(AF_INET6) ?? Buffer.alloc(0);
    const settings = readAttributes(ofIpv6).get(IFLA_INET6_CONF);
    return {
      up: (body.readUInt32LE(8) & IFF_UP) !== 0,
      ipv6Disabled: settings?.readInt32LE(4 * DEVCONF_DISABLE_IPV6) === 1,
    };
  }
  return { up: false, ipv6Disabled: false };
}

/** Addresses of all interfaces of the namespace, without loopback and link-local ones. @throws NativeError */
export async function podAddresses(netnsFd: number): Promise<string[]> {
  const addresses: string[] = [];
  const request = { protocol: NETLINK_ROUTE, type: RTM_GETADDR, flags: NLM_F_DUMP, body: Buffer.alloc(8) };
  for (const { type, body } of await ask(netnsFd, request)) {
    if (type !== RTM_NEWADDR) continue;
    const attributes = readAttributes(body.subarray(8));
    const raw = attributes.get(IFA_LOCAL) ?? attributes.get(IFA_ADDRESS);
    const address = raw === undefined ? "" : formatAddress(raw);
    if (address !== "" && !/^(127\.|::1$|fe80:)/.test(address)) addresses.push(address);
  }
  return addresses;
}

/**
 * Where a redirected TCP connection was going. `local` and `remote` are what the accepted socket says, that is the
 * reply direction of the connection's conntrack entry.
 * @returns undefined when conntrack does not know the connection
 * @throws NativeError
 */
export async function originalDestination(
  netnsFd: number,
  { local, remote }: { local: Endpoint; remote: Endpoint },
): Promise<Endpoint | undefined> {
  const family = isIPv6(local.address) ? AF_INET6 : AF_INET;
  const ip = family === AF_INET ? [1, 2] : [3, 4];
  const tuple = attribute(CTA_TUPLE_REPLY | NLA_F_NESTED, [
    attribute(CTA_TUPLE_IP | NLA_F_NESTED, [
      attribute(ip[0] as number, [parseAddress(local.address)]),
      attribute(ip[1] as number, [parseAddress(remote.address)]),
    ]),
    attribute(CTA_TUPLE_PROTO | NLA_F_NESTED, [
      attribute(1, [Uint8Array.of(IPPROTO_TCP)]),
      attribute(2, [bigEndian16(local.port)]),
      attribute(3, [bigEndian16(remote.port)]),
    ]),
  ]);
  const body = Buffer.concat([Uint8Array.of(family, 0, 0, 0), tuple]);
  const request = { protocol: NETLINK_NETFILTER, type: CT_GET, flags: NLM_F_ACK, body, absent: -2 };
  for (const { type, body: answer } of await ask(netnsFd, request)) {
    if (type !== CT_NEW) continue;
    const orig = readAttributes(answer.subarray(4)).get(CTA_TUPLE_ORIG);
    if (orig === undefined) continue;
    const parts = readAttributes(orig);
    const address = readAttributes(parts.get(CTA_TUPLE_IP) ?? Buffer.alloc(0)).get(ip[1] as number);
    const port = readAttributes(parts.get(CTA_TUPLE_PROTO) ?? Buffer.alloc(0)).get(3);
    if (address !== undefined && port !== undefined) {
      return { address: formatAddress(address), port: port.readUInt16BE(0) };
    }
  }
  return undefined;
}

interface Question {
  readonly protocol: number;
  readonly type: number;
  readonly flags: number;
  readonly body: Uint8Array;
  /** The errno that means "there is none". */
  readonly absent?: number;
}

async function ask(netnsFd: number, question: Question): Promise<Reply[]> {
  const header = Buffer.alloc(headerBytes);
  header.writeUInt32LE(headerBytes + question.body.length, 0);
  header.writeUInt16LE(question.type, 4);
  header.writeUInt16LE(NLM_F_REQUEST | question.flags, 6);
  header.writeUInt32LE(1, 8);
  const replies: Reply[] = [];
  const request = Buffer.concat([header, question.body]);
  const received = await netlinkInNetns(netnsFd, question.protocol, request);
  for (const reply of splitMessages(Buffer.from(received))) {
    const errno = reply.type === NLMSG_ERROR ? reply.body.readInt32LE(0) : 0;
    if (errno === question.absent) return [];
    if (errno !== 0)
      throw new Error(`Cannot ask the kernel (message type ${question.type}): errno ${-errno}`);
    replies.push(reply);
  }
  return replies;
}

function* splitMessages(received: Buffer): Generator<Reply> {
  for (let at = 0; at + headerBytes <= received.length; ) {
    const length = received.readUInt32LE(at);
    if (length < headerBytes || at + length > received.length)
      throw new Error("Cannot read a netlink answer: cut off");
    yield { type: received.readUInt16LE(at + 4), body: received.subarray(at + headerBytes, at + length) };
    at += align(length);
  }
}

function readAttributes(bytes: Buffer): Map<number, Buffer> {
  const attributes = new Map<number, Buffer>();
  for (let at = 0; at + 4 <= bytes.length; ) {
    const length = bytes.readUInt16LE(at);
    if (length < 4 || at + length > bytes.length) throw new Error("Cannot read a netlink attribute: cut off");
    attributes.set(bytes.readUInt16LE(at + 2) & 0x3fff, bytes.subarray(at + 4, at + length));
    at += align(length);
  }
  return attributes;
}

function attribute(type: number, parts: readonly Uint8Array[]): Buffer {
  const body = Buffer.concat(parts);
  const bytes = Buffer.alloc(align(4 + body.length));
  bytes.writeUInt16LE(4 + body.length, 0);
  bytes.writeUInt16LE(type, 2);
  body.copy(bytes, 4);
  return bytes;
}

function align(length: number): number {
  return (length + 3) & ~3;
}

function bigEndian16(value: number): Uint8Array {
  return Uint8Array.of(value >> 8, value & 0xff);
}

function parseAddress(address: string): Uint8Array {
  if (!isIPv6(address)) return Uint8Array.from(address.split("."), Number);
  const [head = "", tail] = address.split("::") as [string, string?];
  const groups = (side: string | undefined) => (side === undefined || side === "" ? [] : side.split(":"));
  const left = groups(head);
  const right = groups(tail);
  const all = [...left, ...Array<string>(8 - left.length - right.length).fill("0"), ...right];
  return Buffer.concat(all.map((group) => bigEndian16(Number.parseInt(group, 16))));
}

/** IPv6 comes out as Node prints it: shortest form, so that strings can be compared. */
function formatAddress(bytes: Buffer): string {
  if (bytes.length === 4) return bytes.join(".");
  const groups = [0, 2, 4, 6, 8, 10, 12, 14].map((at) => bytes.readUInt16BE(at).toString(16));
  return new URL(`http://[${groups.join(":")}]`).hostname.slice(1, -1);
}
