// SPDX-License-Identifier: Apache-2.0
// What the kernel lists of a table, a chain and a rule, without what differs from namespace to namespace.
import { decodeAttributes, decodeString, forEachAttribute, viewOf } from "../../linux/netlink/message.ts";
import { NOTHING_COUNTED, type RuleCount } from "../rule-engine.ts";
import { CHAIN, HEADER_BYTES, RULE, TABLE } from "./nft-wire.ts";

/** An expression, its data where that is a value or a verdict, and a verdict. */
export const EXPRESSION = { name: 1, data: 2 } as const;
export const DATA = { value: 1, verdict: 2 } as const;
export const VERDICT = { code: 1, chain: 2 } as const;
const HOOK = { number: 1, priority: 2 } as const;
const IMMEDIATE_DATA = 2;
const NFT_JUMP = -3;
const NFT_GOTO = -4;
const COUNTER = { bytes: 1, packets: 2 } as const;
/** Expressions whose data is what has happened, not what shall happen. */
export const STATEFUL: ReadonlySet<string> = new Set(["counter", "last"]);
// Source: linux/netfilter/nf_tables.h, enum nft_table_flags.
export const TABLE_FLAG = { dormant: 1, owner: 2 } as const;

/** A table without what is in it. */
export interface NftTableObject {
  /** None of its rules is looked at. */
  readonly isDormant: boolean;
  /** It belongs to a process, and goes with it. */
  readonly isOwned: boolean;
  /** How many chains, sets and other objects are in it, whosever they are. */
  readonly use: number;
  /** What the program that made it noted; travels along. */
  readonly userdata?: Uint8Array;
}

/** A chain without its rules. */
export interface NftChainObject {
  readonly name: string;
  /** Number of its rules and of the verdicts that lead into it, wherever they stand. */
  readonly use: number;
  /** Present in a base chain. */
  readonly base?: NftBase;
}

/** Where a base chain hangs. */
export interface NftBase {
  readonly type: string;
  readonly number: number;
  readonly priority: number;
  /** The hook and the policy as the kernel encodes them. */
  readonly hook: Uint8Array;
  readonly policy: Uint8Array;
}

/** A rule. */
export interface NftRuleObject {
  readonly chain: string;
  /** What the rule can be deleted by, in this namespace alone. */
  readonly handle: Uint8Array;
  /** The list of expressions as the kernel encodes it, counters at zero; equal rules have equal bytes. */
  readonly expressions: Uint8Array;
  /** What the program that made it noted. Says nothing of what the rule does. */
  readonly userdata?: Uint8Array;
  /** Chains that verdicts of the rule lead into. */
  readonly targets: readonly string[];
  /** Of its first counter, as it was before it was set to zero. */
  readonly count: RuleCount;
}

/** The body of NFT_MSG_NEWTABLE. */
export function decodeTable(body: Uint8Array): NftTableObject {
  const attributes = decodeAttributes(body, HEADER_BYTES);
  const flags = numberOf(attributes.get(TABLE.flags)) ?? 0;
  const userdata = attributes.get(TABLE.userdata);
  return {
    isDormant: (flags & TABLE_FLAG.dormant) !== 0,
    isOwned: (flags & TABLE_FLAG.owner) !== 0,
    use: numberOf(attributes.get(TABLE.use)) ?? 0,
    ...(userdata === undefined ? {} : { userdata: userdata.slice() }),
  };
}

/** The body of NFT_MSG_NEWCHAIN. */
export function decodeChain(body: Uint8Array): NftChainObject {
  const attributes = decodeAttributes(body, HEADER_BYTES);
  const chain = {
    name: decodeName(attributes.get(CHAIN.name)),
    use: numberOf(attributes.get(CHAIN.use)) ?? 0,
  };
  const hook = attributes.get(CHAIN.hook);
  if (hook === undefined) return chain;
  const inner = decodeAttributes(hook);
  return {
    ...chain,
    base: {
      type: decodeName(attributes.get(CHAIN.type)),
      number: numberOf(inner.get(HOOK.number)) ?? -1,
      priority: numberOf(inner.get(HOOK.priority)) ?? 0,
      hook: hook.slice(),
      policy: (attributes.get(CHAIN.policy) ?? Uint8Array.of(0, 0, 0, 1)).slice(),
    },
  };
}

/** The body of NFT_MSG_NEWRULE. Counters are set to zero where they were received; the rest are views of it. */
export function decodeRule(body: Uint8Array): NftRuleObject {
  const attributes = decodeAttributes(body, HEADER_BYTES);
  const expressions = attributes.get(RULE.expressions) ?? new Uint8Array();
  const userdata = attributes.get(RULE.userdata);
  return {
    chain: decodeName(attributes.get(RULE.chain)),
    handle: attributes.get(RULE.handle) ?? new Uint8Array(),
    expressions,
    ...(userdata === undefined ? {} : { userdata }),
    ...readExpressions(expressions),
  };
}

/** The low 16 bits of the generation of rules that a message tells of. Source: nfnl_msg_put, nft_base_seq. */
export function generationOf(body: Uint8Array): number {
  return ((body[2] ?? 0) << 8) | (body[3] ?? 0);
}

/** Whether two encodings are the same, byte by byte. */
export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  // most that are compared differ in length, and the comparison itself is a call out of JavaScript
  return a.length === b.length && Buffer.compare(a, b) === 0;
}

/** Whether packets reach two base chains at the same moment. What becomes of those that no rule decides on may differ. */
export function sameHook(a: NftBase, b: NftBase): boolean {
  return a.type === b.type && a.number === b.number && a.priority === b.priority;
}

/** Chains that verdicts of a rule lead into, whichever packets it sees. @param expressions as {@link decodeRule} has them, or received */
export function targetsIn(expressions: Uint8Array): readonly string[] {
  return readExpressions(expressions).targets;
}

function readExpressions(bytes: Uint8Array): Pick<NftRuleObject, "targets" | "count"> {
  const targets: string[] = [];
  let count = NOTHING_COUNTED;
  forEachExpression(bytes, (name, start, end) => {
    if (STATEFUL.has(name)) {
      if (name === "counter" && count === NOTHING_COUNTED) count = readCounter(bytes, start, end);
      clearValues(bytes, start, end);
    } else if (name === "immediate") targets.push(...targetOf(bytes.subarray(start, end)));
  });
  return { targets, count };
}

/** Calls `visit` for each expression of a list, in order, with its name and the offsets of its data. */
export function forEachExpression(
  bytes: Uint8Array,
  visit: (name: string, start: number, end: number) => void,
): void {
  forEachAttribute(bytes, 0, bytes.length, (_, from, to) => {
    let name = "";
    let dataStart = to;
    let dataEnd = to;
    forEachAttribute(bytes, from, to, (type, start, end) => {
      if (type === EXPRESSION.name) name = decodeString(bytes, start, end);
      else if (type === EXPRESSION.data) {
        dataStart = start;
        dataEnd = end;
      }
    });
    visit(name, dataStart, dataEnd);
  });
}

/** Source: linux/netfilter/nf_tables.h, enum nft_counter_attributes; both u64. */
function readCounter(bytes: Uint8Array, start: number, end: number): RuleCount {
  let [packets, byteCount] = [0, 0];
  const view = viewOf(bytes);
  forEachAttribute(bytes, start, end, (type, from, to) => {
    if (to - from !== 8) return;
    if (type === COUNTER.packets) packets = Number(view.getBigUint64(from));
    else if (type === COUNTER.bytes) byteCount = Number(view.getBigUint64(from));
  });
  return { packets, bytes: byteCount };
}

/** The headers stay, so that the rule can be sent again. */
function clearValues(bytes: Uint8Array, start: number, end: number): void {
  forEachAttribute(bytes, start, end, (_, from, to) => {
    bytes.fill(0, from, to);
  });
}

function targetOf(immediate: Uint8Array): string[] {
  const data = decodeAttributes(immediate).get(IMMEDIATE_DATA);
  const verdict = data && decodeAttributes(data).get(DATA.verdict);
  if (verdict === undefined) return [];
  const attributes = decodeAttributes(verdict);
  const code = numberOf(attributes.get(VERDICT.code));
  return code === NFT_JUMP || code === NFT_GOTO ? [decodeName(attributes.get(VERDICT.chain))] : [];
}

/** Signed, in network order, as verdicts and priorities are. */
export function numberOf(value: Uint8Array | undefined): number | undefined {
  return value?.length === 4 ? viewOf(value).getInt32(0) : undefined;
}

export function decodeName(value: Uint8Array | undefined): string {
  return value === undefined ? "" : decodeString(value);
}
