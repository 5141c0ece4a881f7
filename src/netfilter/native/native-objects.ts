// SPDX-License-Identifier: Apache-2.0
// Reads tables of family inet that are ours by name, and all that is in them, in one conversation; what others have is not listed.
import { NativeError } from "../../linux/native.ts";
import { check, errorCode } from "../../linux/netlink/exchange.ts";
import {
  decodeAttributes,
  type NetlinkAnswer,
  type NetlinkRequest,
  viewOf,
} from "../../linux/netlink/message.ts";
import { NetfilterFault } from "../netfilter-fault.ts";
import { CHANGE_COUNT, changeCountIn } from "../nft/change-count.ts";
import {
  decodeChain,
  decodeRule,
  decodeTable,
  generationOf,
  type NftChainObject,
  type NftRuleObject,
  type NftTableObject,
} from "../nft/nft-objects.ts";
import { type Ask, getChain, getRules, getTable, HEADER_BYTES, TABLE } from "../nft/nft-wire.ts";
import { hookedChains, type NativeLayout, type NativeTableLayout } from "./native-layout.ts";

/** A chain of ours as it is. */
export interface SeenNativeChain extends NftChainObject {
  readonly rules: readonly NftRuleObject[];
}

/** A table of ours as it is. */
export interface SeenNativeTable extends NftTableObject {
  readonly table: string;
  /** How many chains, sets and other objects are in it, whosever they are. */
  readonly use: number;
  /** Those of our chains that are there. */
  readonly chains: ReadonlyMap<string, SeenNativeChain>;
  /** False: it holds more than is read. */
  readonly isComplete: boolean;
}

/** What was read. */
export interface SeenNative {
  readonly tables: readonly SeenNativeTable[];
  /** False: it changed while it was read, each time. */
  readonly isSteady: boolean;
  /** Low bits of the kernel's count of changes; absent where nothing was told of, or while it changes. */
  readonly generation?: number | undefined;
  /** All bits of it; absent where the generation is, or the kernel does not say. */
  readonly changeCount?: number | undefined;
}

/** Bound of what is heard of rules at once, unless more should be there; an ambient pod's take 8 KiB. */
const ENOUGH_BYTES = 256 * 1024;
const MAX_READS = 5;
const EINTR = 4;

/** What is asked about one table: it, its chains, and last its rules. */
interface Questions {
  readonly layout: NativeTableLayout;
  readonly chains: readonly string[];
  readonly heads: readonly NetlinkRequest[];
  readonly list: NetlinkRequest;
}

/** The same layout is asked about all the time. */
const questionsOf = new WeakMap<NativeLayout, readonly Questions[]>();

/**
 * @param wantedBytes about as much as a list of what should be there takes
 * @throws {NetfilterFault} UNSTEADY @throws NetlinkError EPERM
 * @throws NativeError if the conversation with the kernel failed (EPROTONOSUPPORT: a kernel without nfnetlink)
 */
export async function readNativeObjects(
  ask: Ask,
  layout: NativeLayout,
  wantedBytes = 0,
): Promise<SeenNative> {
  const enoughBytes = Math.max(ENOUGH_BYTES, 2 * wantedBytes);
  const questions = questionsAbout(layout);
  for (let attempt = 1; ; attempt++) {
    const isLast = attempt === MAX_READS;
    const seen = await readOnce(ask, questions, enoughBytes);
    if (seen !== undefined && (seen.isSteady || isLast)) return seen;
    if (isLast)
      throw new NetfilterFault(
        "UNSTEADY",
        `Cannot read the rules of this network namespace: they changed during each of ${MAX_READS} attempts; ` +
          "look for a program in the pod that writes rules without end",
      );
  }
}

/** @returns undefined when a list changed while it was made, or an answer was lost */
async function readOnce(
  ask: Ask,
  questions: readonly Questions[],
  enoughBytes: number,
): Promise<SeenNative | undefined> {
  const requests = [...questions.flatMap(({ heads }) => heads), ...questions.map(({ list }) => list)];
  const all = await askSteadily(ask, [CHANGE_COUNT, ...requests], enoughBytes);
  if (all === undefined) return undefined;
  const [count, ...answers] = all;
  const generations = new Set<number>();
  if (count !== undefined) noteGenerations(count, generations);
  const tables: SeenNativeTable[] = [];
  let at = 0;
  for (const [index, each] of questions.entries()) {
    const heads = answers.slice(at, at + each.heads.length);
    at += each.heads.length;
    let list = answers[answers.length - questions.length + index];
    // hearing ended before it, or in it
    if (list?.error === undefined) [list] = (await askSteadily(ask, [each.list], enoughBytes)) ?? [];
    if (list === undefined) return undefined;
    for (const answer of [...heads, list]) noteGenerations(answer, generations);
    const table = tableOf(each, heads, list);
    if (table !== undefined) tables.push(table);
  }
  const isSteady = generations.size <= 1;
  const [generation] = generations;
  return { tables, isSteady, ...(isSteady ? { generation, changeCount: changeCountIn(count) } : {}) };
}

/** @returns undefined when a list changed while it was made, or an answer was lost */
export async function askSteadily(
  ask: Ask,
  requests: readonly NetlinkRequest[],
  enoughBytes = ENOUGH_BYTES,
): Promise<NetlinkAnswer[] | undefined> {
  try {
    const answers = await ask(requests, enoughBytes);
    return answers.some(({ interrupted, error }) => interrupted || error === -EINTR) ? undefined : answers;
  } catch (error) {
    // the kernel dropped an answer for want of room
    if (error instanceof NativeError && error.code === "ENOBUFS") return undefined;
    throw error;
  }
}

function tableOf(
  { layout, chains: names }: Questions,
  [head, ...chainHeads]: readonly NetlinkAnswer[],
  list: NetlinkAnswer,
): SeenNativeTable | undefined {
  const body = foundIn(head);
  if (body === undefined) return undefined;
  const chains = new Map<string, SeenNativeChain & { rules: NftRuleObject[] }>();
  for (const [index, answer] of chainHeads.entries()) {
    const chain = foundIn(answer);
    if (chain !== undefined) chains.set(names[index] ?? "", { ...decodeChain(chain), rules: [] });
  }
  for (const message of list.messages) {
    const rule = decodeRule(message.body);
    chains.get(rule.chain)?.rules.push(rule);
  }
  const use = decodeAttributes(body, HEADER_BYTES).get(TABLE.use);
  return {
    ...decodeTable(body),
    table: layout.table,
    use: use === undefined ? 0 : viewOf(use).getUint32(0),
    chains,
    isComplete: list.error === 0,
  };
}

/** @throws NetlinkError unless it is there or not */
function foundIn(answer: NetlinkAnswer | undefined): Uint8Array | undefined {
  if (answer === undefined) return undefined;
  const [message] = answer.messages;
  if (message !== undefined) return message.body;
  if (answer.error !== undefined && errorCode(answer.error) !== "ENOENT") check("look for rules", answer);
  return undefined;
}

function noteGenerations({ messages }: NetlinkAnswer, generations: Set<number>): void {
  for (const { body } of messages) generations.add(generationOf(body));
}

function questionsAbout(layout: NativeLayout): readonly Questions[] {
  const known = questionsOf.get(layout);
  if (known !== undefined) return known;
  const questions = layout.map((table): Questions => {
    const place = { family: "inet", table: table.table } as const;
    const chains = [
      ...hookedChains(table).map(({ base }) => base.chain),
      ...table.chains.map(({ chain }) => chain),
    ];
    return {
      layout: table,
      chains,
      heads: [getTable(place), ...chains.map((chain) => getChain({ ...place, chain }))],
      list: getRules(place),
    };
  });
  questionsOf.set(layout, questions);
  return questions;
}
