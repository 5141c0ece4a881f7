// SPDX-License-Identifier: Apache-2.0
// Finds what is ours in a table of iptables-legacy: two walks over the kernel's bytes that keep nothing of others' rules.
import { viewOf } from "../linux/netlink/message.ts";
import type { Family } from "./family.ts";
import { NetfilterFault } from "./netfilter-fault.ts";
import type { OwnTable } from "./told-rules.ts";
import {
  canonicalRule,
  ENTRY,
  HOOKS,
  INFO,
  isErrorTarget,
  NEXT_RULE,
  startsWith,
  TARGET,
  type XtablesRule,
} from "./xtables-entry.ts";

/** A chain of ours as it is. */
export interface XtablesChain {
  /** In order, the first {@link MAX_RULES_KEPT} of them. */
  readonly rules: readonly XtablesRule[];
  readonly ruleCount: number;
  /** What iptables puts behind the last rule of each chain. */
  readonly end: XtablesRule | undefined;
}

/** A rule of a chain that is not ours that leads into one that is. */
export interface XtablesLead {
  readonly chain: string;
  /** The chain it stands in; undefined for a name that is no plain word, which is not read. */
  readonly from: string | undefined;
  readonly isBase: boolean;
  /** In that chain, from 1. */
  readonly position: number;
  readonly rule: XtablesRule;
}

/** What is ours in a table, and what leads there. */
export interface XtablesView {
  /** Those that are there. */
  readonly chains: ReadonlyMap<string, XtablesChain>;
  readonly leads: readonly XtablesLead[];
}

/** More rules than told are told apart up to here, and counted from there on. */
export const MAX_RULES_KEPT = 256;
/** Nobody leads into our chains that often but to burden whoever looks. */
const MAX_LEADS = 10_000;
const MAX_NAME_BYTES = 29;

/**
 * @param table as `xtablesInNetns` gives it
 * @throws {NetfilterFault} UNREADABLE_TABLE for bytes that are no such table; TOO_MANY_RULES when ten thousand rules lead into our chains
 */
export function findOwn(table: Uint8Array, own: OwnTable): XtablesView {
  const walk = new Walk(table, own);
  const chains = walk.findChains();
  return {
    chains: new Map(chains.map((found) => [found.chain, walk.readChain(found, chains)])),
    leads: chains.length === 0 ? [] : walk.findLeads(chains),
  };
}

/** Offsets are those of the entries, which is how verdicts name them. */
interface FoundChain {
  readonly chain: string;
  /** First entry behind the one with the name. */
  readonly start: number;
  /** Where the next chain begins. */
  end: number;
}

class Walk {
  readonly #own: OwnTable;
  readonly #info: DataView;
  readonly #entries: Uint8Array;
  readonly #view: DataView;

  constructor(table: Uint8Array, own: OwnTable) {
    this.#own = own;
    this.#info = viewOf(table);
    this.#entries = table.subarray(INFO.size);
    this.#view = viewOf(this.#entries);
    const isWhole =
      table.length >= INFO.size && this.#info.getUint32(INFO.entriesSize, true) === this.#entries.length;
    if (!isWhole) throw this.#unreadable();
  }

  /** Our chains, the first of each name. */
  findChains(): FoundChain[] {
    const names = this.#own.chains.map(({ chain }) => ({
      chain,
      bytes: Buffer.from(`${chain}\0`, "latin1"),
    }));
    const found: FoundChain[] = [];
    let current: FoundChain | undefined;
    for (let offset = 0, next = 0; offset < this.#entries.length; offset = next) {
      next = this.#nextOf(offset);
      const targetAt = this.#targetOf(offset);
      if (!isErrorTarget(this.#entries, targetAt)) continue;
      if (current !== undefined) current.end = offset;
      current = undefined;
      const name = names.find(({ bytes }) => startsWith(this.#entries, targetAt + TARGET.data, bytes));
      if (name === undefined || found.some(({ chain }) => chain === name.chain)) continue;
      current = { chain: name.chain, start: next, end: this.#entries.length };
      found.push(current);
    }
    return found;
  }

  readChain({ start, end }: FoundChain, chains: readonly FoundChain[]): XtablesChain {
    const rules: XtablesRule[] = [];
    let count = 0;
    let last = start;
    for (let offset = start; offset < end; offset = this.#nextOf(offset), count++) {
      last = offset;
      if (count <= MAX_RULES_KEPT) rules.push(this.#rule(offset, chains));
    }
    if (count === 0) return { rules, ruleCount: 0, end: undefined };
    const kept = rules.slice(0, Math.min(count - 1, MAX_RULES_KEPT));
    return { rules: kept, ruleCount: count - 1, end: this.#rule(last, chains) };
  }

  /** What stands outside of our chains and leads into one of them, at its head or further down. */
  findLeads(chains: readonly FoundChain[]): XtablesLead[] {
    const leads: XtablesLead[] = [];
    const bases = this.#bases();
    let place: { base?: Base | undefined; nameAt?: number; position: number } | undefined;
    for (let offset = 0, next = 0; offset < this.#entries.length; offset = next) {
      next = this.#nextOf(offset);
      const own = chains.find(({ start }) => start === next);
      if (own !== undefined && own.end > next) {
        next = own.end;
        continue;
      }
      const targetAt = this.#targetOf(offset);
      if (isErrorTarget(this.#entries, targetAt)) {
        place = { nameAt: targetAt + TARGET.data, position: 0 };
        continue;
      }
      const base = bases.get(offset);
      if (base !== undefined) place = { base, position: 0 };
      if (place !== undefined) place.position++;
      const here = place;
      // behind its policy a base chain has nothing that a packet reaches
      if (offset === place?.base?.policy) place = undefined;
      const verdict = this.#verdictOf(offset, targetAt);
      if (verdict < 0) continue;
      const chain = chains.find(({ start, end }) => verdict >= start && verdict < end)?.chain;
      if (chain === undefined) continue;
      if (leads.length === MAX_LEADS) throw this.#tooManyLeads();
      const isBase = here?.base !== undefined;
      const from = here?.base?.hook ?? this.#nameAt(here?.nameAt);
      leads.push({ chain, from, isBase, position: here?.position ?? 0, rule: this.#rule(offset, chains) });
    }
    return leads;
  }

  /** By where they begin. */
  #bases(): Map<number, Base> {
    const valid = this.#info.getUint32(INFO.validHooks, true);
    const offsetAt = (field: number, index: number) => this.#info.getUint32(field + 4 * index, true);
    return new Map(
      HOOKS.flatMap((hook, index) => {
        if ((valid & (1 << index)) === 0) return [];
        return [
          [offsetAt(INFO.hookEntry, index), { hook, policy: offsetAt(INFO.underflow, index) }] as const,
        ];
      }),
    );
  }

  #rule(offset: number, chains: readonly FoundChain[]): XtablesRule {
    const next = this.#nextOf(offset);
    const targetAt = this.#targetOf(offset);
    const verdict = this.#verdictOf(offset, targetAt);
    const leadsTo = verdict === next ? NEXT_RULE : chains.find(({ start }) => start === verdict)?.chain;
    return canonicalRule(this.#entries.subarray(offset, next), {
      family: this.#family,
      targetAt: targetAt - offset,
      leadsTo,
    });
  }

  get #family(): Family {
    return this.#own.family;
  }

  /** @throws {NetfilterFault} UNREADABLE_TABLE for an entry that is none */
  #nextOf(offset: number): number {
    const { nextOffset, targetOffset, size } = ENTRY[this.#family];
    const left = this.#entries.length - offset;
    if (left < size) throw this.#unreadable();
    const bytes = this.#view.getUint16(offset + nextOffset, true);
    const targetAt = this.#view.getUint16(offset + targetOffset, true);
    if (targetAt < size || targetAt + TARGET.data + TARGET.verdictSize > bytes || bytes > left)
      throw this.#unreadable();
    return offset + bytes;
  }

  #targetOf(offset: number): number {
    return offset + this.#view.getUint16(offset + ENTRY[this.#family].targetOffset, true);
  }

  /** Where the rule goes on, negative for a final verdict and for targets that are modules. */
  #verdictOf(offset: number, targetAt: number): number {
    const isStandard = offset < targetAt && this.#entries[targetAt + TARGET.name] === 0;
    return isStandard ? this.#view.getInt32(targetAt + TARGET.data, true) : -1;
  }

  /** A chain's name, where it is a word that means nothing else to anybody. */
  #nameAt(at: number | undefined): string | undefined {
    if (at === undefined) return undefined;
    const field = this.#entries.subarray(at, at + MAX_NAME_BYTES);
    const end = field.indexOf(0);
    const name = Buffer.from(field.subarray(0, Math.max(end, 0))).toString("latin1");
    return /^[A-Za-z0-9_][A-Za-z0-9_.:-]*$/.test(name) ? name : undefined;
  }

  #unreadable(): NetfilterFault {
    return new NetfilterFault(
      "UNREADABLE_TABLE",
      `Cannot read the legacy table ${this.#own.table} of IPv${this.#family}: its bytes are not laid out as this agent knows them`,
    );
  }

  #tooManyLeads(): NetfilterFault {
    return new NetfilterFault(
      "TOO_MANY_RULES",
      `Cannot verify the legacy table ${this.#own.table} of IPv${this.#family}: more than ${MAX_LEADS} rules of others lead into ` +
        "our chains; remove them in the pod",
    );
  }
}

interface Base {
  readonly hook: string;
  /** Where its last entry is. */
  readonly policy: number;
}
