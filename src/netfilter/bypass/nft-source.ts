// SPDX-License-Identifier: Apache-2.0
// Rules of nf_tables for whoever follows them: read as they are asked for, within one bound for all.
import type { NetnsAt } from "../../linux/netns-visit.ts";
import { targetsIn } from "../nft/nft-objects.ts";
import type { NftFamily } from "../nft/nft-wire.ts";
import type { ChainSource } from "./bypass-walk.ts";
import { type ChainList, type ChainRules, type ForeignChain, keyOf, readChains } from "./foreign-chains.ts";
import type { PacketHook, RuleMeaning } from "./foreign-rule.ts";
import { meaningOfNftRule } from "./nft-rule-meaning.ts";

/** Bytes of rules that are heard in one look: some 5000 of them. */
const MAX_RULE_BYTES = 1024 * 1024;
/** Chains of which rules are read one by one. */
const MAX_CHAINS = 256;

/** Rules of nf_tables, read as they are asked for. */
export class NftSource implements ChainSource {
  readonly #at: NetnsAt;
  readonly #list: ChainList;
  #known: ReadonlyMap<string, ForeignChain> | undefined;
  readonly #read = new Map<string, ChainRules>();
  #bytesLeft = MAX_RULE_BYTES;
  isSteady = true;

  constructor(at: NetnsAt, list: ChainList) {
    this.#at = at;
    this.#list = list;
  }

  get #chains(): ReadonlyMap<string, ForeignChain> {
    const { bases, others } = this.#list;
    this.#known ??= new Map([...bases, ...others()].map((chain) => [keyOf(chain), chain]));
    return this.#known;
  }

  /** Reads chains in one conversation. */
  async read(keys: readonly string[]): Promise<void> {
    const room = Math.max(0, MAX_CHAINS - this.#read.size);
    const chains = keys.flatMap((key) => this.#chains.get(key) ?? []).slice(0, room);
    if (chains.length === 0 || this.#bytesLeft <= 0) return;
    const options = { maxBytes: this.#bytesLeft, generation: this.#list.generation };
    const { byKey, bytes, isSteady } = await readChains(this.#at, chains, options);
    for (const [key, rules] of byKey) this.#read.set(key, rules);
    this.#bytesLeft -= bytes;
    if (!isSteady) this.isSteady = false;
  }

  async rules(key: string, hook: PacketHook) {
    if (!this.#read.has(key)) await this.read([key]);
    const read = this.#read.get(key);
    const family = this.#chains.get(key)?.family ?? "inet";
    return {
      rules: meanings(read?.rules ?? [], { key, family, hook }),
      isComplete: read?.isComplete === true,
    };
  }

  /**
   * Whether the lists of chains that were read have all that their chains count: a list ends without a word before a rule that is
   * too long for it. A chain counts the verdicts that lead into it as well, so that whoever may lead there is read too.
   */
  async isProven(): Promise<boolean> {
    if (this.#doubtful().length === 0) return true;
    await this.read(this.#doubtful().flatMap((key) => this.#neighbours(key)));
    return this.#doubtful().length === 0;
  }

  /** Chains with more than their rules and the verdicts that were read account for. */
  #doubtful(): string[] {
    const references = new Map<string, number>();
    for (const [key, { rules }] of this.#read)
      for (const rule of rules)
        for (const name of targetsIn(rule)) {
          const target = `${tableOf(key)}\0${name}`;
          references.set(target, (references.get(target) ?? 0) + 1);
        }
    return [...this.#read].flatMap(([key, { rules }]) => {
      const chain = this.#chains.get(key);
      if (chain === undefined || chain.base !== undefined) return [];
      return chain.use > rules.length + (references.get(key) ?? 0) ? [key] : [];
    });
  }

  #neighbours(key: string): string[] {
    return [...this.#chains.keys()].filter((each) => tableOf(each) === tableOf(key) && !this.#read.has(each));
  }

  siblings(key: string): readonly string[] {
    const chain = this.#chains.get(key);
    return this.#list
      .others()
      .filter(({ family, table }) => family === chain?.family && table === chain?.table)
      .map(keyOf);
  }

  nameOf(key: string): string {
    return this.#chains.get(key)?.chain ?? "";
  }
}

function* meanings(
  rules: readonly Uint8Array[],
  seen: { readonly key: string; readonly family: NftFamily; readonly hook: PacketHook },
): Iterable<RuleMeaning> {
  const place = tableOf(seen.key);
  for (const rule of rules) {
    const meaning = meaningOfNftRule(rule, seen);
    yield { ...meaning, leads: meaning.leads.map((chain) => `${place}\0${chain}`) };
  }
}

function tableOf(key: string): string {
  return key.slice(0, key.lastIndexOf("\0"));
}
