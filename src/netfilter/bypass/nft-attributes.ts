// SPDX-License-Identifier: Apache-2.0
// Expressions of nf_tables by their names, and their attributes by their numbers. Source: linux/netfilter/nf_tables.h.
import type { Family } from "../family.ts";
import type { Effect } from "./xt-targets.ts";

export const IMMEDIATE = { register: 1, data: 2 } as const;
export const CODE = { return: -5, goto: -4, jump: -3 } as const;
/** The rest of such a number is a queue's, and flags. Source: linux/netfilter.h, NF_VERDICT_MASK. */
export const VERDICT_MASK = 0xff;
export const EFFECT_OF_CODE: ReadonlyMap<number, Effect> = new Map([
  [1, { does: "accept" }],
  [2, { does: "accept" }],
  [3, { does: "queue" }],
  [4, { does: "accept" }],
]);
export const CMP = { register: 1, op: 2, data: 3, equal: 0, unequal: 1 } as const;
export const META = { to: 1, key: 2, from: 3, mark: 3, protocol: 1 } as const;
export const CT = { to: 1, key: 2, from: 4, mark: 3 } as const;
export const PAYLOAD = { to: 1, base: 2, offset: 3, length: 4, from: 5, network: 1, transport: 2 } as const;
export const BITWISE = { from: 1, to: 2, mask: 4, xor: 5, op: 6, boolean: 0 } as const;
export const LOOKUP = { to: 3 } as const;
export const NAT = { type: 1, destination: 1 } as const;
export const XT = { name: 1, revision: 2, info: 3 } as const;

/** Count or end a packet, and nothing else. */
export const INERT = new Set(
  "counter last limit quota connlimit log reject synproxy objref dynset masq".split(" "),
);
/** Read into a register what is not followed any further, or compare. */
export const READING = new Set(
  "byteorder fib rt socket osf hash numgen exthdr tunnel xfrm inner range".split(" "),
);
export const SIMPLE: Readonly<Record<string, Effect>> = {
  notrack: { does: "untrack" },
  redir: { does: "translate" },
  tproxy: { does: "divert" },
  dup: { does: "divert" },
  fwd: { does: "divert" },
  queue: { does: "queue" },
};
export const META_KEY = { iif: 4, oif: 5, iifname: 6, oifname: 7, nfproto: 15, l4proto: 16 } as const;
export const NFPROTO: ReadonlyMap<number, Family> = new Map([
  [2, 4],
  [10, 6],
]);
/** Every namespace's first device. Source: linux/netdevice.h, LOOPBACK_IFINDEX. */
export const LOOPBACK_INDEX = 1;
/** Offsets in the network header. */
export const HEADER = {
  4: { protocol: 9, destination: 16 },
  6: { protocol: 6, destination: 24 },
} as const;
