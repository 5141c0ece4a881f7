// SPDX-License-Identifier: Apache-2.0
// Lists the chains of nf_tables in a namespace, whoever owns them, and reads the rules of those that are named; bounded.
import { NativeError, netlinkInNetns } from "../../linux/native.ts";
import { errorCode, NetlinkError } from "../../linux/netlink/exchange.ts";
import {
  concatBytes,
  decodeAttributes,
  decodeString,
  encodeAttribute,
  encodeRequests,
  forEachAttribute,
  type NetlinkAnswer,
  type NetlinkRequest,
  NLM,
  sortAnswers,
  viewOf,
} from "../../linux/netlink/message.ts";
import type { NftFamily } from "./nft-rule-meaning.ts";

const NETLINK_NETFILTER = 12;
const SUBSYSTEM = 10 << 8;
// Source: linux/netfilter/nf_tables.h.
const GET = { table: 1, chain: 4, rule: 7 } as const;
const TABLE = { name: 1, flags: 2, dormant: 1 } as const;
const CHAIN = { table: 1, name: 3, hook: 4, use: 6, type: 7 } as const;
const HOOK = { number: 1, priority: 2, device: 3, devices: 4 } as const;
const RULE = { table: 1, chain: 2, expressions: 4 } as const;
const HEADER_BYTES = 4;
/** Source: linux/netfilter.h, NFPROTO_INET and others; bridge and arp have no part in a pod's IP packets. */
const FAMILIES: ReadonlyMap<number, NftFamily> = new Map([
  [1, "inet"],
  [2, "ip"],
  [5, "netdev"],
  [10, "ip6"],
]);
const NUMBERS = new Map([...FAMILIES].map(([number, family]) => [family, number]));

/** Bytes of lists of tables and chains that are heard: some 4000 of them. */
const MAX_LIST_BYTES = 512 * 1024;
const EINTR = 4;

/** Where a base chain hangs. */
export interface ForeignBase {
  readonly type: string;
  /** As the kernel counts them in the chain's family. */
  readonly hook: number;
  readonly priority: number;
  /** Of a chain that sees the packets of devices; empty for others. */
  readonly devices: readonly string[];
}

/** A chain without its rules. */
export interface ForeignChain {
  readonly family: NftFamily;
  readonly table: string;
  readonly chain: string;
  /** Rules in it and verdicts that lead into it. */
  readonly use: number;
  readonly base?: ForeignBase;
}

/** Names a table among those of a namespace. No name has a NUL in it. */
export function tableKeyOf({ family, table }: Pick<ForeignChain, "family" | "table">): string {
  return `${family}\0${table}`;
}

/** Names a chain among those of a namespace. */
export function keyOf(place: Pick<ForeignChain, "family" | "table" | "chain">): string {
  return `${tableKeyOf(place)}\0${place.chain}`;
}

/** The chains of a namespace. */
export interface ChainList {
  readonly bases: readonly ForeignChain[];
  /** Those that rules lead into; in most namespaces nobody asks for them. */
  readonly others: () => readonly ForeignChain[];
  /** False: there are more than are heard, or they changed while they were listed. */
  readonly isComplete: boolean;
  /** They changed while they were listed. */
  readonly isInterrupted: boolean;
  readonly generation: number | undefined;
}

/** The rules of a chain. */
export interface ChainRules {
  /** Their expressions, in order. */
  readonly rules: readonly Uint8Array[];
  /** False: there are more than were heard. */
  readonly isComplete: boolean;
}

/**
 * Lists chains of the families that see IP packets; cheap however many rules there are. None where the kernel has no nf_tables.
 * @throws NetlinkError EPERM @throws NativeError when the conversation failed
 */
export async function listChains(netnsFd: number): Promise<ChainList> {
  const [answer] = await ask(netnsFd, [dump(GET.chain)], MAX_LIST_BYTES);
  if (answer === undefined || isAbsent(answer))
    return { bases: [], others: () => [], isComplete: true, isInterrupted: false, generation: undefined };
  refuse(answer);
  const bases: ForeignChain[] = [];
  const others: Uint8Array[] = [];
  for (const { body } of answer.messages) {
    if (!FAMILIES.has(body[0] as number)) continue;
    if (hasHook(body)) bases.push(decodeChain(body));
    else others.push(body);
  }
  const generations = generationsOf([answer]);
  const isInterrupted = answer.interrupted || generations.size > 1;
  return {
    bases,
    others: () => others.map(decodeChain),
    isComplete: isWhole(answer) && !isInterrupted,
    isInterrupted,
    generation: [...generations][0],
  };
}

/**
 * Tables that sleep: none of their rules is looked at. What is cut off or changes counts as awake.
 * @returns for {@link tableKeyOf} @throws as {@link listChains}
 */
export async function sleepingTables(netnsFd: number): Promise<Set<string>> {
  const [answer] = await ask(netnsFd, [dump(GET.table)], MAX_LIST_BYTES);
  const asleep = new Set<string>();
  for (const { body } of answer?.messages ?? []) {
    const attributes = decodeAttributes(body, HEADER_BYTES);
    const family = FAMILIES.get(body[0] as number);
    if (family !== undefined && (numberOf(attributes.get(TABLE.flags)) & TABLE.dormant) !== 0)
      asleep.add(tableKeyOf({ family, table: textOf(attributes.get(TABLE.name)) }));
  }
  return asleep;
}

/**
 * Reads the rules of chains, one after the other, until `maxBytes` are heard.
 * @returns by chain; one of which nothing was heard has no rules and is not complete. `isSteady` is false when the rules are not of
 *   that generation any more
 * @throws as {@link listChains}
 */
export async function readChains(
  netnsFd: number,
  chains: readonly ForeignChain[],
  { maxBytes, generation }: { readonly maxBytes: number; readonly generation: number | undefined },
): Promise<{ byKey: Map<string, ChainRules>; bytes: number; isSteady: boolean }> {
  const answers = await ask(netnsFd, chains.map(rulesOf), maxBytes);
  const seen = generationsOf(answers);
  const isSteady = seen.size === 0 || (seen.size === 1 && seen.has(generation ?? -1));
  let bytes = 0;
  const byKey = new Map<string, ChainRules>();
  for (const [index, chain] of chains.entries()) {
    const answer = answers[index];
    refuse(...(answer === undefined ? [] : [answer]));
    for (const { body } of answer?.messages ?? []) bytes += body.length;
    const rules = (answer?.messages ?? []).map(({ body }) => expressionsOf(body));
    // a list ends without a word before a rule that is too long for it
    const isCounted = chain.base === undefined || rules.length >= chain.use;
    byKey.set(keyOf(chain), { rules, isComplete: answer !== undefined && isWhole(answer) && isCounted });
  }
  return { byKey, bytes, isSteady };
}

function hasHook(body: Uint8Array): boolean {
  let isFound = false;
  forEachAttribute(body, HEADER_BYTES, body.length, (type) => {
    if (type === CHAIN.hook) isFound = true;
  });
  return isFound;
}

function decodeChain(body: Uint8Array): ForeignChain {
  const family = FAMILIES.get(body[0] as number) as NftFamily;
  const attributes = decodeAttributes(body, HEADER_BYTES);
  const chain = {
    family,
    table: textOf(attributes.get(CHAIN.table)),
    chain: textOf(attributes.get(CHAIN.name)),
    use: numberOf(attributes.get(CHAIN.use)),
  };
  const hook = attributes.get(CHAIN.hook);
  if (hook === undefined) return chain;
  const inner = decodeAttributes(hook);
  const base = {
    type: textOf(attributes.get(CHAIN.type)),
    hook: numberOf(inner.get(HOOK.number)),
    priority: numberOf(inner.get(HOOK.priority)),
    devices: devicesOf(inner),
  };
  return { ...chain, base };
}

function devicesOf(hook: ReadonlyMap<number, Uint8Array>): string[] {
  const one = hook.get(HOOK.device);
  const names = one === undefined ? [] : [textOf(one)];
  const list = hook.get(HOOK.devices);
  if (list === undefined) return names;
  forEachAttribute(list, 0, list.length, (_, start, end) => names.push(decodeString(list, start, end)));
  return [...new Set(names)];
}

function expressionsOf(body: Uint8Array): Uint8Array {
  let [from, to] = [0, 0];
  forEachAttribute(body, HEADER_BYTES, body.length, (type, start, end) => {
    if (type === RULE.expressions) [from, to] = [start, end];
  });
  return body.subarray(from, to);
}

function dump(message: number): NetlinkRequest {
  return { type: SUBSYSTEM | message, flags: NLM.dump, body: new Uint8Array(HEADER_BYTES) };
}

function rulesOf({ family, table, chain }: ForeignChain): NetlinkRequest {
  const name = (type: number, text: string) => encodeAttribute(type, Buffer.from(`${text}\0`, "latin1"));
  const header = Uint8Array.of(NUMBERS.get(family) as number, 0, 0, 0);
  const body = concatBytes(header, name(RULE.table, table), name(RULE.chain, chain));
  return { type: SUBSYSTEM | GET.rule, flags: NLM.dump, body };
}

async function ask(
  netnsFd: number,
  requests: readonly NetlinkRequest[],
  enoughBytes: number,
): Promise<NetlinkAnswer[]> {
  try {
    const received = await netlinkInNetns(netnsFd, NETLINK_NETFILTER, encodeRequests(requests), {
      enoughBytes,
    });
    return sortAnswers(requests.length, received);
  } catch (error) {
    // no nfnetlink: nothing can be there
    if (error instanceof NativeError && error.code === "EPROTONOSUPPORT") return [];
    // an answer was lost for want of room
    if (error instanceof NativeError && error.code === "ENOBUFS")
      return requests.map(() => ({ error: -EINTR, reason: undefined, interrupted: true, messages: [] }));
    throw error;
  }
}

/** nfnetlink without nf_tables. Source: linux net/netfilter/nfnetlink.c, nfnetlink_rcv_msg. */
function isAbsent({ error }: NetlinkAnswer): boolean {
  return error !== undefined && errorCode(error) === "EINVAL";
}

function isWhole({ error, interrupted }: NetlinkAnswer): boolean {
  return error === 0 && !interrupted;
}

/** A chain that went away meanwhile, and a list that changed, are said by their incompleteness. */
function refuse(...answers: readonly NetlinkAnswer[]): void {
  for (const { error, reason } of answers) {
    if (error === undefined || error === 0 || error === -EINTR) continue;
    const code = errorCode(error);
    if (code !== "ENOENT") throw new NetlinkError("list nf_tables chains", code, reason ?? code);
  }
}

function generationsOf(answers: readonly NetlinkAnswer[]): Set<number> {
  const seen = new Set<number>();
  for (const { messages } of answers)
    for (const { body } of messages) seen.add(((body[2] ?? 0) << 8) | (body[3] ?? 0));
  return seen;
}

/** Signed, in network order. */
function numberOf(value: Uint8Array | undefined): number {
  return value?.length === 4 ? viewOf(value).getInt32(0) : 0;
}

function textOf(value: Uint8Array | undefined): string {
  return value === undefined ? "" : decodeString(value);
}
