// SPDX-License-Identifier: Apache-2.0
// Reads what is ours in a namespace, asked for by name: what others have there is not listed, however much it is.

import type { NetlinkAnswer } from "../../linux/netlink/message.ts";
import { NetfilterFault } from "../netfilter-fault.ts";
import { CHANGE_COUNT, changeCountIn } from "./change-count.ts";
import { checkFound, steady } from "./nft-answers.ts";
import {
  decodeChain,
  decodeRule,
  decodeTable,
  generationOf,
  type NftChainObject,
  type NftRuleObject,
  type NftTableObject,
} from "./nft-objects.ts";
import { type Ask, ask, type TablePlace } from "./nft-wire.ts";
import { type AskedTable, type Question, type Questions, questionsAbout } from "./own-tables.ts";

/** A chain as it is. */
export interface SeenChain extends NftChainObject {
  readonly rules: readonly NftRuleObject[];
  /** False: there are more rules than are read. */
  readonly isComplete: boolean;
}

/** A table as it is, with those of our chains and their base chains that are there. */
export interface SeenTable extends NftTableObject, TablePlace {
  readonly chains: ReadonlyMap<string, SeenChain>;
  /** Rules in chains of others that lead into ours, as far as the table was read. */
  readonly foreign: readonly NftRuleObject[];
}

/** What was read. */
export interface SeenObjects {
  /** Those that are there, in the order asked. */
  readonly tables: readonly SeenTable[];
  /** False: the rules changed while they were read, each time; each chain by itself is as it was at one moment. */
  readonly isSteady: boolean;
  /** Low bits of the kernel's count of changes in this namespace; absent where nothing was told of, or while it changes. */
  readonly generation?: number | undefined;
  /** All bits of it; absent where the generation is, or the kernel does not say. */
  readonly changeCount?: number | undefined;
}

/** A namespace in which nothing of ours can be, nor a table that we need: one that was made just now. */
export const NOTHING_SEEN: SeenObjects = { tables: [], isSteady: true };

/** Bounds in bytes of what is heard of rules. */
const LIMITS = {
  /** Of whole tables, where most pods have nothing but what is ours. */
  tables: 64 * 1024,
  /** Of our chains and base chains together, then of one of them that did not fit. */
  chains: 256 * 1024,
} as const;
const MAX_READS = 5;

/** Handles of namespaces in whose tables others have so much that our chains are asked for one by one. */
const crowded = new WeakSet<object>();

/**
 * Reads our tables, our chains and the base chains that lead to them, in one conversation of some 0.2 ms; of a base chain or a
 * chain of ours no more than 256 KiB.
 * @param options.ask how the kernel is asked, default {@link ask}
 * @param options.wantedBytes about as much as a list of what should be there takes; default: less than 32 KiB
 * @throws {NetfilterFault} UNSTEADY @throws NetlinkError EPERM
 * @throws NativeError if the conversation with the kernel failed (EPROTONOSUPPORT: a kernel without nfnetlink)
 */
export async function readOwnObjects(
  netns: { readonly fd: number },
  own: readonly AskedTable[],
  options: { readonly ask?: Ask; readonly wantedBytes?: number } = {},
): Promise<SeenObjects> {
  const askKernel: Ask = options.ask ?? ((requests, enoughBytes) => ask(netns.fd, requests, { enoughBytes }));
  const tableBytes = Math.max(LIMITS.tables, 2 * (options.wantedBytes ?? 0));
  for (let attempt = 1; ; attempt++) {
    const reading = new Reading(own);
    const isLast = attempt === MAX_READS;
    if (!(await readInto(reading, askKernel, { byChain: crowded.has(netns), tableBytes }))) {
      if (isLast) throw unsteady();
      continue;
    }
    if (reading.isCrowded) crowded.add(netns);
    const { tables, isSteady, generation, changeCount } = reading;
    if (isSteady || isLast) return { tables, isSteady, ...(isSteady ? { generation, changeCount } : {}) };
  }
}

/** @returns false when a list changed while it was made, or an answer was lost */
async function readInto(
  reading: Reading,
  askKernel: Ask,
  { byChain, tableBytes }: { byChain: boolean; tableBytes: number },
): Promise<boolean> {
  const { heads, chainLists, tableLists } = reading.questions;
  const first = [...heads, ...(byChain ? chainLists : tableLists)];
  if (!(await tell(first, byChain ? LIMITS.chains : tableBytes, { isFirst: true }))) return false;
  if (!byChain && !(await tell(reading.unprovenLists(), LIMITS.chains))) return false;
  for (const list of reading.cutLists()) if (!(await tell([list], LIMITS.chains))) return false;
  return true;

  async function tell(
    questions: readonly Question[],
    enoughBytes: number,
    { isFirst = false } = {},
  ): Promise<boolean> {
    if (questions.length === 0) return true;
    const requests = questions.map(({ request }) => request);
    const all = await steady(askKernel(isFirst ? [CHANGE_COUNT, ...requests] : requests, enoughBytes));
    if (all === undefined) return false;
    if (isFirst) reading.takeCount(all[0]);
    const answers = isFirst ? all.slice(1) : all;
    for (const [index, answer] of answers.entries()) {
      const question = questions[index];
      if (question !== undefined) reading.take(question, answer);
    }
    return true;
  }
}

/** How many verdicts in our own chains lead into one of them, as far as they were read. */
export function leadsOf({ chains }: Pick<SeenTable, "chains">, chain: string): number {
  let count = 0;
  for (const { base, rules } of chains.values()) {
    if (base !== undefined) continue;
    for (const { targets } of rules) count += targets.filter((target) => target === chain).length;
  }
  return count;
}

interface ReadChain extends NftChainObject {
  rules: NftRuleObject[];
  isComplete: boolean;
}

interface ReadTable extends NftTableObject, TablePlace {
  readonly chains: Map<string, ReadChain>;
  /** Verdicts in any listed rule of the table that lead into a chain. */
  readonly references: Map<string, number>;
  readonly foreign: NftRuleObject[];
}

/** One attempt, as far as it went. */
class Reading {
  readonly questions: Questions;
  readonly #tables = new Map<AskedTable, ReadTable>();
  readonly #cut = new Set<AskedTable>();
  generation: number | undefined;
  changeCount: number | undefined;
  isSteady = true;

  constructor(own: readonly AskedTable[]) {
    this.questions = questionsAbout(own);
  }

  get tables(): SeenTable[] {
    return [...this.#tables.values()];
  }

  /** A table has more rules than were heard. */
  get isCrowded(): boolean {
    return this.#cut.size > 0;
  }

  takeCount(answer: NetlinkAnswer | undefined): void {
    if (answer === undefined) return;
    for (const { body } of answer.messages) this.#noteGeneration(generationOf(body));
    this.changeCount = changeCountIn(answer);
  }

  /** @throws NetlinkError for an answer that is neither what was asked for nor "not there" */
  take(question: Question, answer: NetlinkAnswer): void {
    checkFound("look for rules", answer);
    for (const { body } of answer.messages) this.#noteGeneration(generationOf(body));
    const { own, chain } = question;
    const table = this.#tables.get(own);
    if (question.isList) {
      if (table === undefined) return;
      if (chain === undefined) this.#takeTableRules(own, table, answer);
      else takeChainRules(table.chains.get(chain), answer);
      return;
    }
    const [message] = answer.messages;
    if (message === undefined) return;
    if (chain === undefined) {
      const { family, table: name } = own;
      const object = decodeTable(message.body);
      const none = { chains: new Map(), references: new Map(), foreign: [] };
      this.#tables.set(own, { ...object, family, table: name, ...none });
    } else table?.chains.set(chain, { ...decodeChain(message.body), rules: [], isComplete: false });
  }

  /**
   * Lists to ask for one by one. A table's list is believed where it has as many rules and verdicts as the chain's own count tells
   * of: a list ends before a rule that is too long for it, without a word.
   */
  unprovenLists(): Question[] {
    return this.questions.chainLists.filter(({ own, chain = "" }) => {
      const table = this.#tables.get(own);
      const seen = table?.chains.get(chain);
      if (table === undefined || seen === undefined) return false;
      return this.#cut.has(own) || seen.rules.length + (table.references.get(chain) ?? 0) !== seen.use;
    });
  }

  /** Lists that ended in the middle for want of room. */
  cutLists(): Question[] {
    return this.questions.chainLists.filter(
      ({ own, chain = "" }) => this.#tables.get(own)?.chains.get(chain)?.isComplete === false,
    );
  }

  #takeTableRules(own: AskedTable, table: ReadTable, answer: NetlinkAnswer): void {
    if (answer.error === undefined) {
      this.#cut.add(own);
      return;
    }
    for (const chain of table.chains.values()) chain.isComplete = true;
    for (const { body } of answer.messages) {
      const rule = decodeRule(body);
      const chain = table.chains.get(rule.chain);
      if (chain !== undefined) chain.rules.push(rule);
      else if (rule.targets.some((target) => table.chains.has(target))) table.foreign.push(rule);
      for (const target of rule.targets)
        table.references.set(target, (table.references.get(target) ?? 0) + 1);
    }
  }

  #noteGeneration(generation: number): void {
    this.generation ??= generation;
    if (generation !== this.generation) this.isSteady = false;
  }
}

function takeChainRules(chain: ReadChain | undefined, answer: NetlinkAnswer): void {
  if (chain === undefined) return;
  chain.rules = answer.messages.map(({ body }) => decodeRule(body));
  chain.isComplete = answer.error === 0;
}

function unsteady(): NetfilterFault {
  return new NetfilterFault(
    "UNSTEADY",
    `Cannot read the rules of this network namespace: they changed during each of ${MAX_READS} attempts; ` +
      "look for a program in the pod that writes rules without end",
  );
}
