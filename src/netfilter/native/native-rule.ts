// SPDX-License-Identifier: Apache-2.0
// A rule of nf_tables as a list of parts: what a packet must have, and what becomes of it.
import type { Family } from "../family.ts";

/** Something that a packet must have. */
export type NativeMatch =
  /** `name` ends with `*` where all devices whose names begin so are meant. */
  | { readonly kind: "device"; readonly way: "in" | "out"; readonly name: string; readonly isNot: boolean }
  | { readonly kind: "family"; readonly family: Family }
  | { readonly kind: "protocol"; readonly protocol: TransportProtocol }
  /** Whose first `length` bits are those of `address`, which has no others; at least one bit. */
  | {
      readonly kind: "address";
      readonly end: End;
      readonly address: string;
      readonly length: number;
      readonly isNot: boolean;
    }
  /** A member of a set of addresses of one family. */
  | { readonly kind: "member"; readonly end: End; readonly family: Family; readonly set: string }
  | {
      readonly kind: "port";
      readonly protocol: TransportProtocol;
      readonly end: End;
      readonly port: number;
      readonly isNot: boolean;
    }
  /** Of the flags in `mask` those in `flags` are set and no other. */
  | { readonly kind: "tcp-flags"; readonly mask: readonly TcpFlag[]; readonly flags: readonly TcpFlag[] }
  | {
      readonly kind: "mark";
      readonly of: "packet" | "connection";
      readonly value: number;
      readonly mask: number;
      readonly isNot: boolean;
    }
  /** Its connection is in one of these states. */
  | { readonly kind: "state"; readonly states: readonly ConnectionState[] }
  /** Sent by a socket of this machine. */
  | { readonly kind: "socket" }
  /** Sent by a socket of this machine that belongs to this user or group; `isNot`: to another, a packet without a socket is neither. */
  | { readonly kind: "owner"; readonly of: "user" | "group"; readonly id: number; readonly isNot: boolean };

/** What becomes of it. */
export type NativeAction =
  | { readonly kind: "counter" }
  | { readonly kind: "accept" }
  | { readonly kind: "drop" }
  | { readonly kind: "return" }
  | { readonly kind: "jump"; readonly chain: string }
  | { readonly kind: "redirect"; readonly port: number }
  | { readonly kind: "source-nat"; readonly address: string }
  /** The bits of `mask` in the connection's mark become `value`. */
  | { readonly kind: "mark-connection"; readonly value: number; readonly mask: number }
  | { readonly kind: "set-mark"; readonly value: number }
  /** The packet gets the connection's mark. */
  | { readonly kind: "restore-mark" }
  /** The connection gets the packet's mark. */
  | { readonly kind: "save-mark" }
  /** The packet is for the transparent socket on this port, addresses as they are; where there is none the rule ends. */
  | { readonly kind: "transparent"; readonly family: Family; readonly port: number }
  | { readonly kind: "zone"; readonly zone: number };

export type NativePart = NativeMatch | NativeAction;
export type TransportProtocol = "tcp" | "udp";
export type End = "source" | "destination";

/** Of a connection, in the order in which nft lists them. */
export const CONNECTION_STATES = ["invalid", "established", "related"] as const;
export type ConnectionState = (typeof CONNECTION_STATES)[number];

/** In the order of their bits, in which nft lists them. */
export const TCP_FLAGS = ["fin", "syn", "rst", "psh", "ack", "urg"] as const;
export type TcpFlag = (typeof TCP_FLAGS)[number];
