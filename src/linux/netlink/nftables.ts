// SPDX-License-Identifier: Apache-2.0
// Reads the nf_tables rules of a namespace (native ones and those of iptables-nft) in a form that compares byte by byte;
// lists and deletes tables, empties chains.
import { check, exchange, read } from "./exchange.ts";
import {
  concatBytes,
  decodeAttributes,
  decodeString,
  encodeAttribute,
  forEachAttribute,
  type NetlinkAnswer,
  type NetlinkMessage,
  type NetlinkRequest,
  NLM,
  viewOf,
} from "./message.ts";

const NETLINK_NETFILTER = 12;
const NFNL_SUBSYS_NFTABLES = 10;

// Source: linux/netfilter/nf_tables.h. Numbers in attributes are in network order.
const MESSAGE = { getTable: 1, getChain: 4, getRule: 7 } as const;
const NEW_TABLE = 0;
const DELETE_TABLE = 2;
const DELETE_RULE = 8;
// Source: linux/netfilter/nfnetlink.h. A change is made by what stands between the two.
const BATCH = { begin: 0x10, end: 0x11 } as const;
const FAMILY_INET = 1;
const TABLE_NAME = 1;
const CHAIN = { table: 1, name: 3, hook: 4, policy: 5, type: 7 } as const;
const HOOK = { number: 1, priority: 2 } as const;
const RULE = { table: 1, chain: 2, expressions: 4 } as const;
const EXPRESSION = { name: 1, data: 2 } as const;
const IMMEDIATE_DATA = 2;
const DATA_VERDICT = 2;
const VERDICT = { code: 1, chain: 2 } as const;
const NFT_JUMP = -3;
const NFT_GOTO = -4;
const HEADER_BYTES = 4; // struct nfgenmsg: family, version, u16 generation

const FAMILIES: ReadonlyMap<number, NftTable["family"]> = new Map([
  [1, "inet"],
  [2, "ip"],
  [10, "ip6"],
]);
// Source: linux/netfilter.h, enum nf_inet_hooks.
const HOOKS = ["prerouting", "input", "forward", "output", "postrouting", "ingress"] as const;
/** Expressions whose data is what has happened, not what shall happen. */
const STATEFUL = new Set(["counter", "last"]);

/** A rule: what it matches and does, without handle, position and counters. */
export interface NftRule {
  /** The list of expressions as the kernel encodes it, counters cleared; equal rules have equal bytes. A view. */
  readonly expressions: Uint8Array;
  /** The chain an unconditional verdict of the rule jumps or goes to. */
  readonly jumpTarget?: string;
}

/** A chain with its rules in order. */
export interface NftChain {
  readonly name: string;
  /** A base chain's type: filter, nat or route. */
  readonly type?: string;
  readonly hook?: string;
  readonly priority?: number;
  readonly policy?: "accept" | "drop";
  readonly rules: readonly NftRule[];
}

/** A table with its chains in the order the kernel lists them. */
export interface NftTable {
  readonly family: "ip" | "ip6" | "inet";
  readonly table: string;
  readonly chains: readonly NftChain[];
}

interface MutableChain extends NftChain {
  readonly rules: NftRule[];
}

interface MutableTable extends NftTable {
  readonly chains: MutableChain[];
}

/**
 * Reads all tables, chains and rules of the families ip, ip6 and inet, from one generation of the ruleset.
 *
 * The same `iptables-nft-restore` input gives equal expressions in any two namespaces, before and after traffic. That
 * holds for the expressions that wrap an xtables match or target, too: what such an extension keeps for the kernel alone
 * comes as zeros. Source: linux net/netfilter/nft_compat.c, nft_extension_dump_info; seen on Linux 6.18 with iptables
 * 1.8.9. Not compared by meaning: another version of iptables may write the same rule with other expressions, and
 * `-m set` names its set by a number that depends on the order in which sets were made.
 *
 * @throws NetlinkError EAGAIN if the rules changed during each of several readings; EPERM
 * @throws NativeError if the conversation with the kernel failed (EPROTONOSUPPORT: a kernel without nfnetlink)
 */
export async function dumpNftRuleset(netnsFd: number): Promise<NftTable[]> {
  const requests = Object.values(MESSAGE).map((type) => ({
    type: (NFNL_SUBSYS_NFTABLES << 8) | type,
    flags: NLM.dump,
    body: new Uint8Array(HEADER_BYTES), // family 0: all
  }));
  const answers = await read(netnsFd, NETLINK_NETFILTER, requests, haveOneGeneration);
  for (const answer of answers) check("list nf_tables rules", answer);
  const [tables, chains, rules] = answers as [NetlinkAnswer, NetlinkAnswer, NetlinkAnswer];
  return assemble(tables.messages, chains.messages, rules.messages);
}

/**
 * The tables of family inet by name, without what is in them: cheap however many rules there are. None where the kernel has no
 * nf_tables.
 *
 * @throws NetlinkError EPERM, EAGAIN
 * @throws NativeError if the conversation with the kernel failed
 */
export async function listInetTables(netnsFd: number): Promise<string[]> {
  const request = { type: messageType(MESSAGE.getTable), flags: NLM.dump, body: header(FAMILY_INET) };
  try {
    const [answer] = (await read(netnsFd, NETLINK_NETFILTER, [request])) as [NetlinkAnswer];
    check("list nf_tables tables", answer);
    return answer.messages.map(({ body }) => stringOf(decodeAttributes(body, HEADER_BYTES).get(TABLE_NAME)));
  } catch (error) {
    const { code } = error as { code?: string };
    // no nfnetlink; nfnetlink without nf_tables. Source: linux net/netfilter/nfnetlink.c, nfnetlink_rcv_msg
    if (code === "EPROTONOSUPPORT" || code === "EINVAL") return [];
    throw error;
  }
}

/**
 * Deletes tables of family inet with all that is in them, in one step; one that is not there is no error.
 *
 * @throws NetlinkError EPERM; nothing was deleted then
 * @throws NativeError if the conversation with the kernel failed
 */
export async function deleteInetTables(netnsFd: number, tables: readonly string[]): Promise<void> {
  if (tables.length === 0) return;
  const requests = tables.flatMap((table) => {
    const body = concatBytes(header(FAMILY_INET), encodeAttribute(TABLE_NAME, Buffer.from(`${table}\0`)));
    // made first, so that there is one to delete
    return [
      { type: messageType(NEW_TABLE), flags: NLM.create | NLM.ack, body },
      { type: messageType(DELETE_TABLE), flags: NLM.ack, body },
    ];
  });
  await commit(netnsFd, { doing: "delete nf_tables tables", requests });
}

/** A chain of a table of family inet. */
export interface InetChain {
  readonly table: string;
  readonly chain: string;
}

/**
 * Deletes every rule of the chains, in one step; the chains stay, and stay where they are hooked.
 *
 * @throws NetlinkError ENOENT: no such table or chain, EPERM; nothing was deleted then
 * @throws NativeError if the conversation with the kernel failed
 */
export async function emptyInetChains(netnsFd: number, chains: readonly InetChain[]): Promise<void> {
  if (chains.length === 0) return;
  const requests = chains.map(({ table, chain }) => ({
    type: messageType(DELETE_RULE),
    flags: NLM.ack,
    body: concatBytes(
      header(FAMILY_INET),
      encodeAttribute(RULE.table, Buffer.from(`${table}\0`)),
      encodeAttribute(RULE.chain, Buffer.from(`${chain}\0`)),
    ),
  }));
  await commit(netnsFd, { doing: "empty nf_tables chains", requests });
}

async function commit(
  netnsFd: number,
  { doing, requests }: { doing: string; requests: readonly NetlinkRequest[] },
): Promise<void> {
  const end = (type: number) => ({ type, flags: 0, body: Uint8Array.of(0, 0, 0, NFNL_SUBSYS_NFTABLES) });
  const answers = await exchange(netnsFd, NETLINK_NETFILTER, [end(BATCH.begin), ...requests, end(BATCH.end)]);
  const refusal = answers.find(({ error }) => error !== undefined && error !== 0);
  // the two ends are answered only when the batch is not taken at all
  for (const answer of refusal === undefined ? answers.slice(1, -1) : [refusal]) check(doing, answer);
}

function messageType(message: number): number {
  return (NFNL_SUBSYS_NFTABLES << 8) | message;
}

/** struct nfgenmsg */
function header(family: number): Uint8Array {
  return Uint8Array.of(family, 0, 0, 0);
}

/** Whether all messages are of one generation of the ruleset: each dump alone is, but rules may change between two. */
export function haveOneGeneration(answers: readonly NetlinkAnswer[]): boolean {
  const seen = new Set<number>();
  for (const { messages } of answers) {
    for (const { body } of messages) seen.add(((body[2] ?? 0) << 8) | (body[3] ?? 0));
  }
  return seen.size <= 1;
}

function assemble(
  tableMessages: readonly NetlinkMessage[],
  chainMessages: readonly NetlinkMessage[],
  ruleMessages: readonly NetlinkMessage[],
): NftTable[] {
  const tables = new Map<string, MutableTable>();
  const chains = new Map<string, MutableChain>();
  for (const { body } of tableMessages) {
    const family = FAMILIES.get(body[0] ?? 0);
    if (family === undefined) continue;
    const table = stringOf(decodeAttributes(body, HEADER_BYTES).get(TABLE_NAME));
    tables.set(`${family} ${table}`, { family, table, chains: [] });
  }
  for (const { body } of chainMessages) {
    const attributes = decodeAttributes(body, HEADER_BYTES);
    const key = `${FAMILIES.get(body[0] ?? 0)} ${stringOf(attributes.get(CHAIN.table))}`;
    const chain = decodeChain(attributes);
    chains.set(`${key} ${chain.name}`, chain);
    tables.get(key)?.chains.push(chain);
  }
  for (const { body } of ruleMessages) {
    const rule = locateRule(body);
    const family = FAMILIES.get(body[0] ?? 0);
    chains.get(`${family} ${rule.table} ${rule.chain}`)?.rules.push(decodeRule(body, rule.start, rule.end));
  }
  return [...tables.values()];
}

function locateRule(body: Uint8Array): { table: string; chain: string; start: number; end: number } {
  const rule = { table: "", chain: "", start: 0, end: 0 };
  forEachAttribute(body, HEADER_BYTES, body.length, (type, start, end) => {
    if (type === RULE.table) rule.table = decodeString(body, start, end);
    else if (type === RULE.chain) rule.chain = decodeString(body, start, end);
    else if (type === RULE.expressions) Object.assign(rule, { start, end });
  });
  return rule;
}

function decodeChain(attributes: Map<number, Uint8Array>): MutableChain {
  const name = stringOf(attributes.get(CHAIN.name));
  const hookBytes = attributes.get(CHAIN.hook);
  if (hookBytes === undefined) return { name, rules: [] };
  const hook = decodeAttributes(hookBytes);
  const number = numberOf(hook.get(HOOK.number)) ?? -1;
  const policy = numberOf(attributes.get(CHAIN.policy));
  return {
    name,
    type: stringOf(attributes.get(CHAIN.type)),
    hook: HOOKS[number] ?? `hook ${number}`,
    priority: numberOf(hook.get(HOOK.priority)) ?? 0,
    ...(policy === undefined ? {} : { policy: policy === 1 ? "accept" : "drop" }),
    rules: [],
  };
}

/** The list of expressions is between the two offsets. Clears what is stateful where it was received: no copy is made. */
function decodeRule(body: Uint8Array, start: number, end: number): NftRule {
  let jumpTarget: string | undefined;
  forEachAttribute(body, start, end, (_, from, to) => {
    let name = "";
    forEachAttribute(body, from, to, (type, valueStart, valueEnd) => {
      if (type === EXPRESSION.name) name = decodeString(body, valueStart, valueEnd);
      else if (type !== EXPRESSION.data) return;
      else if (STATEFUL.has(name)) body.fill(0, valueStart, valueEnd);
      else if (name === "immediate")
        jumpTarget = decodeJump(body.subarray(valueStart, valueEnd)) ?? jumpTarget;
    });
  });
  const expressions = body.subarray(start, end);
  return jumpTarget === undefined ? { expressions } : { expressions, jumpTarget };
}

function decodeJump(immediate: Uint8Array): string | undefined {
  const data = decodeAttributes(immediate).get(IMMEDIATE_DATA);
  const verdict = data && decodeAttributes(data).get(DATA_VERDICT);
  if (verdict === undefined) return undefined;
  const attributes = decodeAttributes(verdict);
  const code = numberOf(attributes.get(VERDICT.code));
  return code === NFT_JUMP || code === NFT_GOTO ? stringOf(attributes.get(VERDICT.chain)) : undefined;
}

/** Signed, in network order, as verdicts and priorities are. */
function numberOf(value: Uint8Array | undefined): number | undefined {
  return value?.length === 4 ? viewOf(value).getInt32(0) : undefined;
}

function stringOf(value: Uint8Array | undefined): string {
  return value === undefined ? "" : decodeString(value);
}
