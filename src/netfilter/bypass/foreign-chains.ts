// SPDX-License-Identifier: Apache-2.0
// Lists the chains of nf_tables in a namespace, whoever owns them, and reads the rules of those that are named; bounded.
import { NativeError } from "../../linux/native.ts";
import { errorCode, NetlinkError } from "../../linux/netlink/exchange.ts";
import {
  decodeAttributes,
  decodeString,
  forEachAttribute,
  type NetlinkAnswer,
  type NetlinkRequest,
} from "../../linux/netlink/message.ts";
import type { NetnsAt } from "../../linux/netns-visit.ts";
import { decodeChain, decodeName, generationOf, numberOf, TABLE_FLAG } from "../nft/nft-objects.ts";
import * as nft from "../nft/nft-wire.ts";

/** Attributes of a hook. Source: linux/netfilter/nf_tables.h. */
const HOOK = { device: 3, devices: 4 } as const;
/** Bytes of lists of tables and chains that are heard: some 4000 of them. */
const MAX_LIST_BYTES = 512 * 1024;
const EINTR = 4;

/** Where a base chain hangs. */
export interface ForeignBase {
  readonly type: string;
  /** Number of the hook, as the kernel counts them in the chain's family. */
  readonly number: number;
  readonly priority: number;
  /** Of a chain that sees the packets of devices; empty for others. */
  readonly devices: readonly string[];
}

/** A chain without its rules. */
export interface ForeignChain extends nft.ChainPlace {
  /** Rules in it and verdicts that lead into it. */
  readonly use: number;
  readonly base?: ForeignBase;
}

/** Names a table among those of a namespace. No name has a NUL in it. */
export function tableKeyOf({ family, table }: nft.TablePlace): string {
  return `${family}\0${table}`;
}

/** Names a chain among those of a namespace. */
export function keyOf(place: nft.ChainPlace): string {
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
export async function listChains(at: NetnsAt): Promise<ChainList> {
  const [answer] = await ask(at, [nft.getChains()], MAX_LIST_BYTES);
  if (answer === undefined || isAbsent(answer))
    return { bases: [], others: () => [], isComplete: true, isInterrupted: false, generation: undefined };
  refuse(answer);
  const bases: ForeignChain[] = [];
  const others: Uint8Array[] = [];
  for (const { body } of answer.messages) {
    if (nft.messageFamily(body) === undefined) continue;
    if (hasHook(body)) bases.push(decodeForeign(body));
    else others.push(body);
  }
  const generations = generationsOf([answer]);
  const isInterrupted = answer.interrupted || generations.size > 1;
  return {
    bases,
    others: () => others.map(decodeForeign),
    isComplete: isWhole(answer) && !isInterrupted,
    isInterrupted,
    generation: [...generations][0],
  };
}

/**
 * Tables that sleep: none of their rules is looked at. What is cut off or changes counts as awake.
 * @returns for {@link tableKeyOf} @throws as {@link listChains}
 */
export async function sleepingTables(at: NetnsAt): Promise<Set<string>> {
  const [answer] = await ask(at, [nft.getTables()], MAX_LIST_BYTES);
  const asleep = new Set<string>();
  for (const { body } of answer?.messages ?? []) {
    const attributes = decodeAttributes(body, nft.HEADER_BYTES);
    const family = nft.messageFamily(body);
    const flags = numberOf(attributes.get(nft.TABLE.flags)) ?? 0;
    if (family !== undefined && (flags & TABLE_FLAG.dormant) !== 0)
      asleep.add(tableKeyOf({ family, table: decodeName(attributes.get(nft.TABLE.name)) }));
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
  at: NetnsAt,
  chains: readonly ForeignChain[],
  { maxBytes, generation }: { readonly maxBytes: number; readonly generation: number | undefined },
): Promise<{ byKey: Map<string, ChainRules>; bytes: number; isSteady: boolean }> {
  const answers = await ask(at, chains.map(nft.getRules), maxBytes);
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
  forEachAttribute(body, nft.HEADER_BYTES, body.length, (type) => {
    if (type === nft.CHAIN.hook) isFound = true;
  });
  return isFound;
}

function decodeForeign(body: Uint8Array): ForeignChain {
  const { name, use, base } = decodeChain(body);
  const table = decodeName(decodeAttributes(body, nft.HEADER_BYTES).get(nft.CHAIN.table));
  const chain = { family: nft.messageFamily(body) as nft.NftFamily, table, chain: name, use };
  return base === undefined
    ? chain
    : { ...chain, base: { ...base, devices: devicesOf(decodeAttributes(base.hook)) } };
}

function devicesOf(hook: ReadonlyMap<number, Uint8Array>): string[] {
  const one = hook.get(HOOK.device);
  const names = one === undefined ? [] : [decodeName(one)];
  const list = hook.get(HOOK.devices);
  if (list === undefined) return names;
  forEachAttribute(list, 0, list.length, (_, start, end) => names.push(decodeString(list, start, end)));
  return [...new Set(names)];
}

function expressionsOf(body: Uint8Array): Uint8Array {
  return decodeAttributes(body, nft.HEADER_BYTES).get(nft.RULE.expressions) ?? new Uint8Array();
}

async function ask(
  at: NetnsAt,
  requests: readonly NetlinkRequest[],
  enoughBytes: number,
): Promise<NetlinkAnswer[]> {
  try {
    return await nft.ask(at, requests, { enoughBytes });
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
  return new Set(answers.flatMap(({ messages }) => messages.map(({ body }) => generationOf(body))));
}
