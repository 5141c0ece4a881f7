// SPDX-License-Identifier: Apache-2.0
// What values in a rule of nf_tables amount to: addresses, ports, marks. Pure.
import { viewOf } from "../../linux/netlink/message.ts";
import type { Family } from "../family.ts";
import type { PacketGuard } from "./foreign-rule.ts";
import { type MarkChange, UNKNOWN_CHANGE } from "./mark-change.ts";
import type { RegisterContent } from "./nft-registers.ts";

// Source: linux/netfilter/nf_tables.h, enum nft_meta_keys and nft_payload_bases.
const META_MARK = 3;
const PAYLOAD = { network: 1, transport: 2 } as const;
const XT_UDP = { first: 4, last: 6, inverted: 8, destination: 2, size: 9 } as const;
const UNKNOWN: RegisterContent = { is: "unknown" };
const PACKET_MARK: RegisterContent = { is: "mark", of: "packet", mask: -1, xor: 0 };

/** Ports of the match "udp". Source: linux/netfilter/xt_tcpudp.h, struct xt_udp. */
export function takeXtUdp(guard: PacketGuard, info: Uint8Array): void {
  if (info.length < XT_UDP.size || ((info[XT_UDP.inverted] as number) & XT_UDP.destination) !== 0) return;
  guard.ports(viewOf(info).getUint16(XT_UDP.first, true), viewOf(info).getUint16(XT_UDP.last, true));
}

/** 127.0.0.0/8 or a part of it, or ::1. */
export function isLoopback(family: Family, value: Uint8Array, mask: Uint8Array | undefined): boolean {
  if (family === 4) return value[0] === 127 && (mask === undefined || mask[0] === 0xff);
  if (value.length !== 16 || mask?.some((byte) => byte !== 0xff) === true) return false;
  return value.every((byte, index) => byte === (index === 15 ? 1 : 0));
}

/** Addresses of either family, or ports. Time to live, service class and options may be written. */
export function writesAddress(base: number, { from, to }: { from: number; to: number }): boolean {
  if (base === PAYLOAD.network) return from < 40 && to > 10;
  return base === PAYLOAD.transport && from < 4;
}

/** What the mark of the packet, or of the connection, becomes by it. */
export function changeOf(content: RegisterContent, written: "packet" | "connection"): MarkChange {
  if (content.is === "constant" && content.bytes.length >= 4)
    return { from: "mark", keep: 0, xor: viewOf(content.bytes).getUint32(0, true) };
  if (content.is === "meta" && content.key === META_MARK) return changeOf(PACKET_MARK, written);
  if (content.is !== "mark") return UNKNOWN_CHANGE;
  const { of, mask, xor } = content;
  if (of === written) return { from: "mark", keep: mask, xor };
  return { from: "other", read: mask, written: -1, xor };
}

/** `(content & mask) ^ xor` */
export function masked(content: RegisterContent, mask: Uint8Array, xor: Uint8Array): RegisterContent {
  if (content.is === "header") {
    if (content.mask !== undefined || xor.some((byte) => byte !== 0)) return UNKNOWN;
    return { ...content, mask };
  }
  const mark = content.is === "meta" && content.key === META_MARK ? PACKET_MARK : content;
  if (mark.is !== "mark" || mask.length !== 4 || xor.length !== 4) return UNKNOWN;
  const [bits, flipped] = [viewOf(mask).getUint32(0, true), viewOf(xor).getUint32(0, true)];
  return { ...mark, mask: mark.mask & bits, xor: (mark.xor & bits) ^ flipped };
}
