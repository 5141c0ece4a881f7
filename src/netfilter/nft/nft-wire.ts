// SPDX-License-Identifier: Apache-2.0
// nf_tables messages as requests: what is asked by name, and what a batch changes.

import {
  concatBytes,
  decodeAttributes,
  encodeAttribute,
  encodeRequests,
  type NetlinkAnswer,
  type NetlinkRequest,
  NLM,
  sortAnswers,
} from "../../linux/netlink/message.ts";
import { converse, type NetnsAt } from "../../linux/netns-visit.ts";
import type { Family } from "../family.ts";
import type { RuleProtocol } from "../told-rules.ts";

const NETLINK_NETFILTER = 12;
const NFNL_SUBSYS_NFTABLES = 10;
const NLM_F_APPEND = 0x800;
/** A family of tables; "inet": of both; "netdev": of devices. Those of bridges and of ARP have no part in a pod's IP packets. */
export type NftFamily = Family | "inet" | "netdev";
// Source: linux/netfilter.h, NFPROTO_INET, NFPROTO_IPV4, NFPROTO_NETDEV and NFPROTO_IPV6.
const PROTOCOL_FAMILY: Readonly<Record<NftFamily, number>> = { inet: 1, 4: 2, netdev: 5, 6: 10 };
const FAMILIES: ReadonlyMap<number, NftFamily> = new Map<number, NftFamily>([
  [1, "inet"],
  [2, 4],
  [5, "netdev"],
  [10, 6],
]);

// Source: linux/netfilter/nf_tables.h. Numbers in attributes are in network order.
const MESSAGE = {
  newTable: 0,
  getTable: 1,
  deleteTable: 2,
  newChain: 3,
  getChain: 4,
  deleteChain: 5,
  newRule: 6,
  getRule: 7,
  deleteRule: 8,
  getGeneration: 16,
} as const;
const BATCH = { begin: 0x10, end: 0x11 } as const;
/** NFNL_BATCH_GENID. Source: linux/netfilter/nfnetlink.h. */
const BATCH_COUNT = 1;
export const TABLE = { name: 1, flags: 2, use: 3, userdata: 6 } as const;
export const CHAIN = { table: 1, name: 3, hook: 4, policy: 5, use: 6, type: 7 } as const;
const HOOK = { number: 1, priority: 2 } as const;
export const RULE = { table: 1, chain: 2, handle: 3, expressions: 4, compat: 5, userdata: 7 } as const;
const COMPAT = { protocol: 1, flags: 2 } as const;
const COMPAT_INVERTED = 2;
const NLA_F_NESTED = 0x8000;
/** Bytes of struct nfgenmsg, which stands before the attributes: family, version, u16 generation. */
export const HEADER_BYTES = 4;

/** Where a table is. */
export interface TablePlace {
  readonly family: NftFamily;
  readonly table: string;
}

/** Where a chain is. */
export interface ChainPlace extends TablePlace {
  readonly chain: string;
}

/** Asks for the count of changes in the namespace, in all families. */
export function getGeneration(): NetlinkRequest {
  return request(MESSAGE.getGeneration, 0, header());
}

/** Asks for one table by name. */
export function getTable(place: TablePlace): NetlinkRequest {
  return request(MESSAGE.getTable, 0, tablePlace(place));
}

/** Asks for one chain by name. */
export function getChain(place: ChainPlace): NetlinkRequest {
  return request(MESSAGE.getChain, 0, chainPlace(place));
}

/** Asks for all tables of all families. */
export function getTables(): NetlinkRequest {
  return request(MESSAGE.getTable, NLM.dump, header());
}

/** Asks for all chains of a family, or of all, whichever table they are in. */
export function getChains(family?: NftFamily): NetlinkRequest {
  return request(MESSAGE.getChain, NLM.dump, header(family));
}

/**
 * Asks for the rules of one chain, or of all chains of a table; the kernel passes over all others without a look.
 * Source: linux net/netfilter/nf_tables_api.c, nf_tables_dump_rules.
 */
export function getRules({ family, table, chain }: TablePlace & { readonly chain?: string }): NetlinkRequest {
  const one = chain === undefined ? [] : [name(RULE.chain, chain)];
  return request(MESSAGE.getRule, NLM.dump, concatBytes(header(family), name(RULE.table, table), ...one));
}

/** Makes a table that must not be there yet. */
export function newTable(table: TablePlace & { readonly userdata?: Uint8Array }): NetlinkRequest {
  const userdata = table.userdata === undefined ? [] : [encodeAttribute(TABLE.userdata, table.userdata)];
  return request(MESSAGE.newTable, NLM.create | NLM.exclusive, concatBytes(tablePlace(table), ...userdata));
}

/** Makes a table, or finds it there. */
export function declareTable(place: TablePlace): NetlinkRequest {
  return request(MESSAGE.newTable, NLM.create, tablePlace(place));
}

/** Deletes a table with all that is in it. */
export function deleteTable(place: TablePlace): NetlinkRequest {
  return request(MESSAGE.deleteTable, 0, tablePlace(place));
}

/** What makes a chain a base chain, as the kernel encodes it. */
export interface BaseChain {
  readonly type: string;
  /** The nested attribute's value: number and priority of the hook. */
  readonly hook: Uint8Array;
  readonly policy: Uint8Array;
}

/** A hook's attribute. @param number as in enum nf_inet_hooks */
export function encodeHook(hook: { readonly number: number; readonly priority: number }): Uint8Array {
  return concatBytes(number(HOOK.number, hook.number), number(HOOK.priority, hook.priority));
}

/** An attribute with a number of four bytes, signed or not. */
export function number(type: number, value: number): Uint8Array {
  return encodeAttribute(type, networkOrder(value));
}

/** A number of four bytes, signed or not. */
export function networkOrder(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setInt32(0, value);
  return bytes;
}

/** Makes a chain that must not be there yet: declaring one that is would change it, and cost an RCU wait. */
export function newChain(place: ChainPlace, base?: BaseChain): NetlinkRequest {
  const hooked =
    base === undefined
      ? []
      : [
          encodeAttribute(CHAIN.hook | NLA_F_NESTED, base.hook),
          encodeAttribute(CHAIN.policy, base.policy),
          name(CHAIN.type, base.type),
        ];
  return request(MESSAGE.newChain, NLM.create | NLM.exclusive, concatBytes(chainPlace(place), ...hooked));
}

/** Deletes a chain without rules that no rule leads into. */
export function deleteChain(place: ChainPlace): NetlinkRequest {
  return request(MESSAGE.deleteChain, 0, chainPlace(place));
}

/** Appends a rule to its chain, or puts it before all others. `expressions` and `userdata` are as the kernel lists them. */
export function newRule(
  place: ChainPlace,
  rule: {
    readonly expressions: Uint8Array;
    readonly userdata?: Uint8Array;
    readonly protocol?: RuleProtocol | undefined;
    /** Default false. */
    readonly isFirst?: boolean;
  },
): NetlinkRequest {
  const { expressions, userdata, protocol, isFirst = false } = rule;
  const body = concatBytes(
    rulePlace(place),
    encodeAttribute(RULE.expressions | NLA_F_NESTED, expressions),
    ...(protocol === undefined ? [] : [encodeCompat(protocol)]),
    ...(userdata === undefined ? [] : [encodeAttribute(RULE.userdata, userdata)]),
  );
  return request(MESSAGE.newRule, NLM.create | (isFirst ? 0 : NLM_F_APPEND), body);
}

/** Deletes one rule, or all of the chain. */
export function deleteRule(place: ChainPlace, handle?: Uint8Array): NetlinkRequest {
  const which = handle === undefined ? [] : [encodeAttribute(RULE.handle, handle)];
  return request(MESSAGE.deleteRule, 0, concatBytes(rulePlace(place), ...which));
}

/** Whether a change names a rule by its number, which is another's once somebody has made the table anew. */
export function namesByHandle({ type, body }: NetlinkRequest): boolean {
  const isDeletion = type === ((NFNL_SUBSYS_NFTABLES << 8) | MESSAGE.deleteRule);
  return isDeletion && decodeAttributes(body, HEADER_BYTES).has(RULE.handle);
}

/**
 * Puts changes between the two messages that make them one transaction.
 * @param changeCount of what they were made for: the kernel refuses them once it has another. Default: they are for whatever is there.
 *   Source: linux net/netfilter/nfnetlink.c, nfnetlink_rcv_batch; kernels before 4.12 do not look
 */
export function batch(changes: readonly NetlinkRequest[], changeCount?: number): NetlinkRequest[] {
  const subsystem = Uint8Array.of(0, 0, 0, NFNL_SUBSYS_NFTABLES);
  const count = changeCount === undefined ? [] : [number(BATCH_COUNT, changeCount)];
  return [
    { type: BATCH.begin, flags: 0, body: concatBytes(subsystem, ...count) },
    ...changes,
    { type: BATCH.end, flags: 0, body: subsystem },
  ];
}

/** A count of changes as the kernel sends it: the count's attribute stands right behind the header. */
export const NEW_GENERATION = {
  type: (NFNL_SUBSYS_NFTABLES << 8) | 15,
  countBytes: HEADER_BYTES + 8,
} as const;

/** How the kernel is told encoded requests; what was received. */
export type Tell = (request: Uint8Array, enoughBytes: number) => Promise<Uint8Array>;

/** How the kernel is asked; hearing may end once `enoughBytes` are received. */
export type Ask = (requests: readonly NetlinkRequest[], enoughBytes: number) => Promise<NetlinkAnswer[]>;

/**
 * Sends requests inside a namespace; one answer each.
 * @param options.enoughBytes hearing ends once this much is received; what was not heard to its end has no `error`
 * @throws NativeError if the conversation itself failed
 */
export async function ask(
  at: NetnsAt,
  requests: readonly NetlinkRequest[],
  options: { readonly enoughBytes?: number } = {},
): Promise<NetlinkAnswer[]> {
  return sortAnswers(requests.length, await tell(at, encodeRequests(requests), options));
}

/** As {@link ask}, in bytes. */
export function tell(
  at: NetnsAt,
  request: Uint8Array,
  options: { readonly enoughBytes?: number } = {},
): Promise<Uint8Array> {
  return converse(at, { protocol: NETLINK_NETFILTER, request, ...options });
}

/** Asks through whoever tells. */
export function askBy(telling: Tell): Ask {
  return async (requests, enoughBytes) =>
    sortAnswers(requests.length, await telling(encodeRequests(requests), enoughBytes));
}

export function request(message: number, flags: number, body: Uint8Array): NetlinkRequest {
  return { type: (NFNL_SUBSYS_NFTABLES << 8) | message, flags, body };
}

/** @param family default: all of them */
export function header(family?: NftFamily): Uint8Array {
  return Uint8Array.of(family === undefined ? 0 : PROTOCOL_FAMILY[family], 0, 0, 0);
}

/** The family that a message is of; undefined for one that is not known here. */
export function messageFamily(body: Uint8Array): NftFamily | undefined {
  return FAMILIES.get(body[0] as number);
}

function tablePlace({ family, table }: TablePlace): Uint8Array {
  return concatBytes(header(family), name(TABLE.name, table));
}

function chainPlace({ family, table, chain }: ChainPlace): Uint8Array {
  return concatBytes(header(family), name(CHAIN.table, table), name(CHAIN.name, chain));
}

function rulePlace({ family, table, chain }: ChainPlace): Uint8Array {
  return concatBytes(header(family), name(RULE.table, table), name(RULE.chain, chain));
}

export function name(type: number, text: string): Uint8Array {
  return encodeAttribute(type, Buffer.from(`${text}\0`, "latin1"));
}

/** A dump has no such attribute, but the kernel checks matches and targets of x_tables against it. Source: nft_compat.c. */
function encodeCompat({ protocol, inverted }: RuleProtocol): Uint8Array {
  return encodeAttribute(
    RULE.compat | NLA_F_NESTED,
    concatBytes(number(COMPAT.protocol, protocol), number(COMPAT.flags, inverted ? COMPAT_INVERTED : 0)),
  );
}
