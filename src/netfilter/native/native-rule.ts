// SPDX-License-Identifier: Apache-2.0
// A rule of nf_tables as a list of parts: what a packet must have, and what becomes of it.
import type { Family } from "../family.ts";

/** Something that a packet must have. */
export type NativeMatch =
  /** `name` ends with `*` where all devices whose names begin so are meant. */
  | { readonly kind: "device"; readonly way: "in" | "out"; readonly name: string; readonly isNot: boolean }
  | { readonly kind: "protocol"; readonly protocol: TransportProtocol }
  | { readonly kind: "address"; readonly end: End; readonly address: string; readonly isNot: boolean }
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
  /** Sent by a socket of this machine, which belongs to a user; "any": whichever. */
  | { readonly kind: "socket"; readonly uid: number | "any" };

/** What becomes of it. */
export type NativeAction =
  | { readonly kind: "counter" }
  | { readonly kind: "accept" }
  | { readonly kind: "return" }
  | { readonly kind: "jump"; readonly chain: string }
  | { readonly kind: "redirect"; readonly port: number }
  | { readonly kind: "source-nat"; readonly address: string }
  /** The bits of `mask` in the connection's mark become `value`. */
  | { readonly kind: "mark-connection"; readonly value: number; readonly mask: number }
  /** The packet gets the connection's mark. */
  | { readonly kind: "restore-mark" }
  | { readonly kind: "zone"; readonly zone: number };

export type NativePart = NativeMatch | NativeAction;
export type TransportProtocol = "tcp" | "udp";
export type End = "source" | "destination";

/** In the order of their bits, in which nft lists them. */
export const TCP_FLAGS = ["fin", "syn", "rst", "psh", "ack", "urg"] as const;
export type TcpFlag = (typeof TCP_FLAGS)[number];
