// SPDX-License-Identifier: Apache-2.0
// The parts that rules of nf_tables are made of, each as the text that nft lists and the bytes that the kernel keeps.
import { isIPv4 } from "node:net";
import { addressBytes, canonicalAddress } from "../../linux/address.ts";
import { concatBytes } from "../../linux/netlink/message.ts";
import type { Family } from "../family.ts";
import * as nft from "./nft-expressions.ts";

// Source: linux/netfilter.h, NFPROTO_IPV4 and NFPROTO_IPV6; linux/in.h.
const PROTOCOL_FAMILY: Readonly<Record<Family, number>> = { 4: 2, 6: 10 };
const IS_FAMILY: Readonly<Record<Family, Uint8Array>> = {
  4: hasMeta("nfproto", 2),
  6: hasMeta("nfproto", 10),
};
const IS_PROTOCOL = { tcp: hasMeta("l4proto", 6), udp: hasMeta("l4proto", 17) } as const;
/** Where the addresses stand in a header. Source: RFC 791, RFC 8200. */
const ADDRESS: Readonly<Record<Family, { length: number } & Record<End, number>>> = {
  4: { length: 4, source: 12, destination: 16 },
  6: { length: 16, source: 8, destination: 24 },
};
const PORT_OFFSET: Readonly<Record<End, number>> = { source: 0, destination: 2 };
const TCP_FLAGS_OFFSET = 13;
const DEVICE_NAME_BYTES = 16;
/** Of a connection, in the order in which nft lists them. Source: linux/netfilter/nf_conntrack_common.h, NF_CT_STATE_BIT. */
const STATE_BIT = { invalid: 1, established: 2, related: 4 } as const;
export const CONNECTION_STATES = Object.keys(STATE_BIT) as (keyof typeof STATE_BIT)[];
/** In the order of their bits, in which nft lists them. */
export const TCP_FLAGS = ["fin", "syn", "rst", "psh", "ack", "urg"] as const;
export const ALL_BITS = 0xffffffff;

export type TransportProtocol = keyof typeof IS_PROTOCOL;
export type End = "source" | "destination";
export type ConnectionState = (typeof CONNECTION_STATES)[number];
export type TcpFlag = (typeof TCP_FLAGS)[number];

/** Something that a packet must have, or what becomes of it. */
export interface NativePart {
  readonly kind:
    | ("device" | "family" | "protocol" | "address" | "field" | "mark" | "state" | "owner")
    | "action";
  /** As `nft --stateless list` prints it. Source: nft 1.0.6. */
  readonly words: string;
  readonly expressions: readonly Uint8Array[];
  /** What the kernel must have made sure of before that; once in a rule is enough. */
  readonly needs?: Uint8Array;
  /** The only one that it is for. */
  readonly family?: Family;
}

/** @param name ends with `*` where all devices whose names begin so are meant */
export function device(way: "in" | "out", name: string, isNot: boolean): NativePart {
  const key = way === "in" ? "iifname" : "oifname";
  // a whole name is compared with the zeros behind it, the beginning of one without
  const bytes = name.endsWith("*")
    ? Buffer.from(name.slice(0, -1), "latin1")
    : Buffer.from(name.padEnd(DEVICE_NAME_BYTES, "\0"), "latin1");
  return part("device", `${key} ${not(isNot)}"${name}"`, ...compared(nft.loadMeta(key), bytes, isNot));
}

export function ofFamily(family: Family): NativePart {
  return { ...ofHeader(family), kind: "family", words: `meta nfproto ipv${family}`, expressions: [] };
}

export function ofProtocol(protocol: TransportProtocol): NativePart {
  const words = `meta l4proto ${protocol}`;
  return { kind: "protocol", needs: IS_PROTOCOL[protocol], words, expressions: [] };
}

/** Whose first `length` bits are those of `text`, which has no others; at least one bit. */
export function address(
  end: End,
  { text, length }: { readonly text: string; readonly length: number },
  isNot: boolean,
): NativePart {
  const family = familyOf(text);
  const bytes = addressBytes(text);
  const canonical = canonicalAddress(text);
  // nft leaves out the length of a whole address
  const range = length === 8 * bytes.length ? canonical : `${canonical}/${length}`;
  const words = `${addressField(family, end)} ${not(isNot)}${range}`;
  const [byteCount, bitCount] = [Math.floor(length / 8), length % 8];
  const mask = bytes.map((_, at) => (at < byteCount ? 0xff : at > byteCount ? 0 : 0xff00 >> bitCount));
  // of a range that ends within a byte the address is loaded as a whole, of others as many bytes as count: as nft does
  const expressions =
    bitCount === 0
      ? compared(loadAddress(family, end, byteCount), bytes.subarray(0, byteCount), isNot)
      : [
          loadAddress(family, end),
          nft.bitwise(mask, new Uint8Array(bytes.length)),
          nft.compare(isNot ? "notEqual" : "equal", bytes),
        ];
  return { ...ofHeader(family), kind: "address", words, expressions };
}

/** A member of a set of addresses of one family. */
export function member(end: End, family: Family, set: string): NativePart {
  return {
    ...ofHeader(family),
    kind: "address",
    words: `${addressField(family, end)} @${set}`,
    expressions: [loadAddress(family, end), nft.lookup(set)],
  };
}

export function port(protocol: TransportProtocol, end: End, number: number, isNot: boolean): NativePart {
  const load = nft.loadPayload("transport", { offset: PORT_OFFSET[end], length: 2 });
  return {
    kind: "field",
    needs: IS_PROTOCOL[protocol],
    words: `${protocol} ${end[0]}port ${not(isNot)}${number}`,
    expressions: compared(load, networkOrder16(number), isNot),
  };
}

/** Of the flags in `mask` those in `flags` are set and no other. */
export function tcpFlags(mask: readonly TcpFlag[], flags: readonly TcpFlag[]): NativePart {
  const names = (list: readonly TcpFlag[]) => TCP_FLAGS.filter((flag) => list.includes(flag)).join(",");
  const bits = (list: readonly TcpFlag[]) =>
    Uint8Array.of(list.reduce((sum, flag) => sum | (1 << TCP_FLAGS.indexOf(flag)), 0));
  return {
    kind: "field",
    needs: IS_PROTOCOL.tcp,
    words: `tcp flags ${names(flags)} / ${names(mask)}`,
    expressions: [
      nft.loadPayload("transport", { offset: TCP_FLAGS_OFFSET, length: 1 }),
      nft.bitwise(bits(mask), Uint8Array.of(0)),
      nft.compare("equal", bits(flags)),
    ],
  };
}

/** A mark and which of its bits count. */
export interface Masked {
  readonly value: number;
  readonly mask: number;
}

/** A whole mark is compared as it is. */
export function mark(of: "packet" | "connection", { value, mask }: Masked, isNot: boolean): NativePart {
  const isWhole = mask === ALL_BITS;
  const name = `${of === "packet" ? "meta" : "ct"} mark`;
  return part(
    "mark",
    isWhole
      ? `${name} ${not(isNot)}${hex(value)}`
      : `${name} & ${hex(mask)} ${isNot ? "!=" : "=="} ${hex(value)}`,
    of === "packet" ? nft.loadMeta("mark") : nft.loadCt("mark"),
    ...(isWhole ? [] : [nft.bitwise(hostOrder32(mask), hostOrder32(0))]),
    nft.compare(isNot ? "notEqual" : "equal", hostOrder32(value)),
  );
}

/** Its connection is in one of these states. */
export function inState(states: readonly ConnectionState[]): NativePart {
  const listed = CONNECTION_STATES.filter((state) => states.includes(state));
  const bits = listed.reduce((sum, state) => sum | STATE_BIT[state], 0);
  return part(
    "state",
    `ct state ${listed.join(",")}`,
    nft.loadCt("state"),
    nft.bitwise(hostOrder32(bits), hostOrder32(0)),
    nft.compare("notEqual", hostOrder32(0)),
  );
}

/** Sent by a socket of this machine: one without has no user, which ends the rule. Source: linux net/netfilter/nft_meta.c */
export function anySocket(): NativePart {
  const isUser = [nft.loadMeta("skuid"), nft.toNetworkOrder(), nft.compare("notLess", hostOrder32(0))];
  return part("owner", "meta skuid >= 0", ...isUser);
}

/** Sent by a socket of this machine that belongs to this user or group; `isNot`: to another, a packet without a socket is neither. */
export function owner(of: "user" | "group", id: number, isNot: boolean): NativePart {
  const key = of === "user" ? "skuid" : "skgid";
  const isIt = compared(nft.loadMeta(key), hostOrder32(id), isNot);
  return part("owner", `meta ${key} ${not(isNot)}${id}`, ...isIt);
}

export function counting(): NativePart {
  return action("counter", nft.counter());
}

export function ending(code: "accept" | "drop" | "return"): NativePart {
  return action(code, nft.verdict(code));
}

export function jumpTo(chain: string): NativePart {
  return action(`jump ${chain}`, nft.jump(chain));
}

export function redirectTo(number: number): NativePart {
  return action(`redirect to :${number}`, nft.immediate(networkOrder16(number)), nft.redirect());
}

export function snatTo(text: string): NativePart {
  const family = familyOf(text);
  return action(
    `snat ${ip(family)} to ${canonicalAddress(text)}`,
    nft.immediate(addressBytes(text)),
    nft.sourceNat(PROTOCOL_FAMILY[family]),
  );
}

/** The bits of `mask` in the connection's mark become `value`; what is set to one anyway is shown as kept. */
export function markConnection({ value, mask }: Masked): NativePart {
  return action(
    `ct mark set ct mark & ${hex(~mask | value)} | ${hex(value)}`,
    nft.loadCt("mark"),
    nft.bitwise(hostOrder32(~mask), hostOrder32(value)),
    nft.setCt("mark"),
  );
}

export function setMark(value: number): NativePart {
  return action(`meta mark set ${hex(value)}`, nft.immediate(hostOrder32(value)), nft.setMeta("mark"));
}

/** The packet gets the connection's mark. */
export function restoreMark(): NativePart {
  return action("meta mark set ct mark", nft.loadCt("mark"), nft.setMeta("mark"));
}

/** The connection gets the packet's mark. */
export function saveMark(): NativePart {
  return action("ct mark set meta mark", nft.loadMeta("mark"), nft.setCt("mark"));
}

/** The packet is for the transparent socket on this port, addresses as they are; where there is none the rule ends. */
export function transparent(family: Family, number: number): NativePart {
  return action(
    `tproxy ${ip(family)} to :${number}`,
    nft.immediate(networkOrder16(number)),
    nft.transparentProxy(PROTOCOL_FAMILY[family]),
  );
}

export function zone(number: number): NativePart {
  return action(`ct zone set ${number}`, nft.immediate(hostOrder16(number)), nft.setCt("zone"));
}

function action(words: string, ...expressions: readonly Uint8Array[]): NativePart {
  return part("action", words, ...expressions);
}

function part(kind: NativePart["kind"], words: string, ...expressions: readonly Uint8Array[]): NativePart {
  return { kind, words, expressions };
}

/** @param load puts into the register what is compared */
function compared(load: Uint8Array, value: Uint8Array, isNot = false): Uint8Array[] {
  return [load, nft.compare(isNot ? "notEqual" : "equal", value)];
}

function ofHeader(family: Family) {
  return { family, needs: IS_FAMILY[family] };
}

function hasMeta(key: "nfproto" | "l4proto", number: number): Uint8Array {
  return concatBytes(...compared(nft.loadMeta(key), Uint8Array.of(number)));
}

function loadAddress(family: Family, end: End, length: number = ADDRESS[family].length): Uint8Array {
  return nft.loadPayload("network", { offset: ADDRESS[family][end], length });
}

function familyOf(text: string): Family {
  return isIPv4(text) ? 4 : 6;
}

function ip(family: Family): string {
  return family === 4 ? "ip" : "ip6";
}

function addressField(family: Family, end: End): string {
  return `${ip(family)} ${end[0]}addr`;
}

function not(isNot: boolean): string {
  return isNot ? "!= " : "";
}

function hex(value: number): string {
  return `0x${(value >>> 0).toString(16).padStart(8, "0")}`;
}

function networkOrder16(value: number): Uint8Array {
  return Uint8Array.of(value >> 8, value & 0xff);
}

function hostOrder16(value: number): Uint8Array {
  return Uint8Array.of(value & 0xff, value >> 8);
}

function hostOrder32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value >>> 0, true);
  return bytes;
}
