// SPDX-License-Identifier: Apache-2.0
// A rule of nf_tables as the bytes that the kernel keeps.
import { isIPv4 } from "node:net";
import { addressBytes } from "../../linux/address.ts";
import { concatBytes } from "../../linux/netlink/message.ts";
import type { Family } from "../family.ts";
import {
  CONNECTION_STATES,
  type ConnectionState,
  type End,
  type NativeAction,
  type NativeMatch,
  type NativePart,
  TCP_FLAGS,
  type TcpFlag,
  type TransportProtocol,
} from "./native-rule.ts";
import * as nft from "./nft-expressions.ts";

// Source: linux/netfilter.h, NFPROTO_IPV4 and NFPROTO_IPV6; linux/in.h.
const PROTOCOL_FAMILY: Readonly<Record<Family, number>> = { 4: 2, 6: 10 };
const PROTOCOL_NUMBER: Readonly<Record<TransportProtocol, number>> = { tcp: 6, udp: 17 };
/** Where the addresses stand in a header. Source: RFC 791, RFC 8200. */
const ADDRESS: Readonly<Record<Family, { length: number } & Record<End, number>>> = {
  4: { length: 4, source: 12, destination: 16 },
  6: { length: 16, source: 8, destination: 24 },
};
const PORT_OFFSET: Readonly<Record<End, number>> = { source: 0, destination: 2 };
const TCP_FLAGS_OFFSET = 13;
const DEVICE_NAME_BYTES = 16;
/** Source: linux/netfilter/nf_conntrack_common.h, NF_CT_STATE_INVALID_BIT and NF_CT_STATE_BIT. */
const STATE_BIT: Readonly<Record<ConnectionState, number>> = { invalid: 1, established: 2, related: 4 };
const ALL_BITS = 0xffffffff;

/** What parts before it have made sure of; the kernel looks into a header only after that. */
interface Known {
  family?: Family;
  protocol?: TransportProtocol;
}

/** The list of expressions of a rule of a table of family inet, as the kernel lists it with counters at zero. */
export function encodeRule(parts: readonly NativePart[]): Uint8Array {
  const known: Known = {};
  return concatBytes(...parts.flatMap((part) => encodePart(part, known)));
}

function encodePart(part: NativePart, known: Known): Uint8Array[] {
  switch (part.kind) {
    case "device":
      return [
        nft.loadMeta(part.way === "in" ? "iifname" : "oifname"),
        nft.compare(equality(part), deviceName(part.name)),
      ];
    case "family":
      return familyIs(part.family, known);
    case "protocol":
      return protocolIs(part.protocol, known);
    case "address":
      return encodeAddress(part, known);
    case "member":
      return [...loadAddress(part.family, part.end, known), nft.lookup(part.set)];
    case "port":
      return [
        ...protocolIs(part.protocol, known),
        nft.loadPayload("transport", { offset: PORT_OFFSET[part.end], length: 2 }),
        nft.compare(equality(part), networkOrder16(part.port)),
      ];
    case "tcp-flags":
      return [
        ...protocolIs("tcp", known),
        nft.loadPayload("transport", { offset: TCP_FLAGS_OFFSET, length: 1 }),
        nft.bitwise(Uint8Array.of(flagBits(part.mask)), Uint8Array.of(0)),
        nft.compare("equal", Uint8Array.of(flagBits(part.flags))),
      ];
    case "mark":
      return [
        part.of === "packet" ? nft.loadMeta("mark") : nft.loadCt("mark"),
        // a whole mark is compared as it is
        ...(part.mask === ALL_BITS ? [] : [nft.bitwise(hostOrder32(part.mask), hostOrder32(0))]),
        nft.compare(equality(part), hostOrder32(part.value)),
      ];
    case "state":
      return [
        nft.loadCt("state"),
        nft.bitwise(hostOrder32(stateBits(part.states)), hostOrder32(0)),
        nft.compare("notEqual", hostOrder32(0)),
      ];
    // a packet without a socket has no user, which ends the rule. Source: linux net/netfilter/nft_meta.c
    case "socket":
      return [nft.loadMeta("skuid"), nft.toNetworkOrder(), nft.compare("notLess", hostOrder32(0))];
    case "owner":
      return [
        nft.loadMeta(part.of === "user" ? "skuid" : "skgid"),
        nft.compare(equality(part), hostOrder32(part.id)),
      ];
    default:
      return encodeAction(part);
  }
}

function encodeAction(part: NativeAction): Uint8Array[] {
  switch (part.kind) {
    case "counter":
      return [nft.counter()];
    case "accept":
    case "drop":
    case "return":
      return [nft.verdict(part.kind)];
    case "jump":
      return [nft.jump(part.chain)];
    case "redirect":
      return [nft.immediate(networkOrder16(part.port)), nft.redirect()];
    case "source-nat":
      return [
        nft.immediate(addressBytes(part.address)),
        nft.sourceNat(PROTOCOL_FAMILY[familyOf(part.address)]),
      ];
    case "mark-connection":
      return [
        nft.loadCt("mark"),
        nft.bitwise(hostOrder32(~part.mask), hostOrder32(part.value)),
        nft.setCt("mark"),
      ];
    case "set-mark":
      return [nft.immediate(hostOrder32(part.value)), nft.setMeta("mark")];
    case "restore-mark":
      return [nft.loadCt("mark"), nft.setMeta("mark")];
    case "save-mark":
      return [nft.loadMeta("mark"), nft.setCt("mark")];
    case "transparent":
      return [nft.immediate(networkOrder16(part.port)), nft.transparentProxy(PROTOCOL_FAMILY[part.family])];
    case "zone":
      return [nft.immediate(hostOrder16(part.zone)), nft.setCt("zone")];
  }
}

/** Of a range that ends within a byte the address is loaded as a whole, of others as many bytes as count: as nft does. */
function encodeAddress(part: NativeMatch & { readonly kind: "address" }, known: Known): Uint8Array[] {
  const family = familyOf(part.address);
  const bytes = addressBytes(part.address);
  const [byteCount, bitCount] = [Math.floor(part.length / 8), part.length % 8];
  if (bitCount === 0)
    return [
      ...loadAddress(family, part.end, known, byteCount),
      nft.compare(equality(part), bytes.subarray(0, byteCount)),
    ];
  const mask = bytes.map((_, index) =>
    index < byteCount ? 0xff : index > byteCount ? 0 : 0xff00 >> bitCount,
  );
  return [
    ...loadAddress(family, part.end, known),
    nft.bitwise(mask, new Uint8Array(bytes.length)),
    nft.compare(equality(part), bytes),
  ];
}

function loadAddress(
  family: Family,
  end: End,
  known: Known,
  length: number = ADDRESS[family].length,
): Uint8Array[] {
  const { [end]: offset } = ADDRESS[family];
  return [...familyIs(family, known), nft.loadPayload("network", { offset, length })];
}

function familyIs(family: Family, known: Known): Uint8Array[] {
  if (known.family === family) return [];
  known.family = family;
  return [nft.loadMeta("nfproto"), nft.compare("equal", Uint8Array.of(PROTOCOL_FAMILY[family]))];
}

function protocolIs(protocol: TransportProtocol, known: Known): Uint8Array[] {
  if (known.protocol === protocol) return [];
  known.protocol = protocol;
  return [nft.loadMeta("l4proto"), nft.compare("equal", Uint8Array.of(PROTOCOL_NUMBER[protocol]))];
}

function equality({ isNot }: { readonly isNot: boolean }): "equal" | "notEqual" {
  return isNot ? "notEqual" : "equal";
}

function familyOf(address: string): Family {
  return isIPv4(address) ? 4 : 6;
}

/** A whole name is compared with the zeros behind it, the beginning of one without. */
function deviceName(name: string): Uint8Array {
  if (name.endsWith("*")) return Buffer.from(name.slice(0, -1), "latin1");
  const bytes = new Uint8Array(DEVICE_NAME_BYTES);
  bytes.set(Buffer.from(name, "latin1"));
  return bytes;
}

function flagBits(flags: readonly TcpFlag[]): number {
  return flags.reduce((bits, flag) => bits | (1 << TCP_FLAGS.indexOf(flag)), 0);
}

function stateBits(states: readonly ConnectionState[]): number {
  return CONNECTION_STATES.filter((state) => states.includes(state)).reduce(
    (bits, state) => bits | STATE_BIT[state],
    0,
  );
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
