// SPDX-License-Identifier: Apache-2.0
// Tells what is ours in a table of iptables-legacy from our share of the kernel's bytes.
import { viewOf } from "../../linux/netlink/message.ts";
import type { ChainLead, SeenShare } from "../chain-verdict.ts";
import type { Family } from "../family.ts";
import { NetfilterFault } from "../netfilter-fault.ts";
import type { OwnTable } from "../told-rules.ts";
import {
  CHAIN_NAME_BYTES,
  canonicalRule,
  entriesIn,
  fieldText,
  HOOKS,
  INFO,
  isErrorTarget,
  isStandardTarget,
  NEXT_RULE,
  PLACE,
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

/** A rule of a chain that is not ours that leads into one that is. The name of its chain is only read where it is a plain word. */
export interface XtablesLead extends ChainLead {
  readonly rule: XtablesRule;
}

/** What is ours in a table, those chains that are there, and what leads there. */
export type XtablesView = SeenShare<XtablesChain, XtablesLead>;

/** More rules than told are told apart up to here, and counted from there on. */
export const MAX_RULES_KEPT = 256;
const NAMELESS = "(a chain of others)";
/** Nobody leads into our chains that often but to burden whoever looks. One less than a share has of them. */
const MAX_LEADS = 10_000;

/**
 * @param share as `existingXtablesInNetns` gives it for the table's chains
 * @throws {NetfilterFault} UNREADABLE_TABLE for bytes that are no such share; TOO_MANY_RULES when ten thousand rules lead into our chains
 */
export function findOwn(share: Uint8Array, own: OwnTable): XtablesView {
  const reader = new ShareReader(share, own);
  const entries = reader.entries();
  const found = reader.findChains(entries);
  return {
    chains: new Map(found.map((each) => [each.chain, reader.readChain(each, found)])),
    leads: reader.findLeads(entries, found),
  };
}

/** Offsets are those in the table, which is how verdicts name them; `at` and `targetAt` are those in the share. */
interface Entry {
  readonly offset: number;
  readonly next: number;
  readonly position: number;
  readonly at: number;
  readonly targetAt: number;
  readonly isChain: boolean;
}

interface FoundChain {
  readonly chain: string;
  readonly start: number;
  readonly end: number;
  readonly entries: readonly Entry[];
}

class ShareReader {
  readonly #own: OwnTable;
  readonly #family: Family;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;

  constructor(share: Uint8Array, own: OwnTable) {
    this.#own = own;
    this.#family = own.family;
    this.#bytes = share;
    this.#view = viewOf(share);
    if (share.length < INFO.size) throw this.#unreadable();
  }

  /** @throws {NetfilterFault} UNREADABLE_TABLE for an entry that is none */
  entries(): Entry[] {
    const found = [...entriesIn(this.#bytes, this.#family, PLACE.size)];
    if ((found.at(-1)?.end ?? INFO.size) !== this.#bytes.length) throw this.#unreadable();
    return found.map(({ at, targetAt, end }) => {
      const place = at - PLACE.size;
      const offset = this.#view.getUint32(place + PLACE.offset, true);
      return {
        offset,
        next: offset + end - at,
        position: this.#view.getUint32(place + PLACE.position, true),
        at,
        targetAt,
        isChain: isErrorTarget(this.#bytes, targetAt),
      };
    });
  }

  /** Our chains, the first of each name. */
  findChains(entries: readonly Entry[]): FoundChain[] {
    const found: FoundChain[] = [];
    for (const [index, head] of entries.entries()) {
      const chain = head.isChain ? this.#ownNameOf(head) : undefined;
      if (chain === undefined || found.some((each) => each.chain === chain)) continue;
      const end = entries.findIndex(({ isChain }, at) => at > index && isChain);
      const own = entries.slice(index + 1, end < 0 ? undefined : end);
      found.push({ chain, start: head.next, end: own.at(-1)?.next ?? head.next, entries: own });
    }
    return found;
  }

  readChain({ entries }: FoundChain, chains: readonly FoundChain[]): XtablesChain {
    const last = entries.at(-1);
    if (last === undefined) return { rules: [], ruleCount: 0, end: undefined };
    const ruleCount = last.position - 1;
    const kept = entries.slice(0, Math.min(entries.length - 1, MAX_RULES_KEPT));
    return {
      rules: kept.map((entry) => this.#rule(entry, chains)),
      ruleCount,
      end: this.#rule(last, chains),
    };
  }

  /** What stands outside of our chains and leads into one of them, at its head or further down. */
  findLeads(entries: readonly Entry[], chains: readonly FoundChain[]): XtablesLead[] {
    const leads: XtablesLead[] = [];
    let head: Entry | undefined;
    for (const entry of entries) {
      if (entry.isChain) head = entry;
      if (entry.isChain || chains.some(({ start, end }) => entry.offset >= start && entry.offset < end))
        continue;
      const verdict = this.#verdictOf(entry);
      const chain = chains.find(({ start, end }) => verdict >= start && verdict < end)?.chain;
      if (chain === undefined) continue;
      if (leads.length === MAX_LEADS) throw this.#tooManyLeads();
      const { from, isBase } = this.#placeOf(entry, head);
      const rule = this.#rule(entry, chains);
      const { position } = entry;
      leads.push({ chain, from, shown: from ?? NAMELESS, isBase, position, rule });
    }
    return leads;
  }

  /** The base chain or the user's chain that begins last before an entry; neither behind a base chain's policy. */
  #placeOf(entry: Entry, head: Entry | undefined): Pick<XtablesLead, "from" | "isBase"> {
    const valid = this.#view.getUint32(INFO.validHooks, true);
    const offsetAt = (field: number, index: number) => this.#view.getUint32(field + 4 * index, true);
    let base: { hook: string; start: number; policy: number } | undefined;
    for (const [index, hook] of HOOKS.entries()) {
      const start = offsetAt(INFO.hookEntry, index);
      if ((valid & (1 << index)) === 0 || start > entry.offset || start < (base?.start ?? 0)) continue;
      base = { hook, start, policy: offsetAt(INFO.underflow, index) };
    }
    if (base === undefined || (head !== undefined && head.offset > base.start))
      return { from: head === undefined ? undefined : this.#nameOf(head), isBase: false };
    return entry.offset <= base.policy
      ? { from: base.hook, isBase: true }
      : { from: undefined, isBase: false };
  }

  #rule(entry: Entry, chains: readonly FoundChain[]): XtablesRule {
    const { at, targetAt, offset, next } = entry;
    const verdict = this.#verdictOf(entry);
    const leadsTo = verdict === next ? NEXT_RULE : chains.find(({ start }) => start === verdict)?.chain;
    return canonicalRule(this.#bytes.subarray(at, at + next - offset), {
      family: this.#family,
      targetAt: targetAt - at,
      leadsTo,
    });
  }

  /** Where the rule goes on, negative for a final verdict and for targets that are modules. */
  #verdictOf({ targetAt }: Entry): number {
    const isVerdict = isStandardTarget(this.#bytes, targetAt);
    return isVerdict ? this.#view.getInt32(targetAt + TARGET.data, true) : -1;
  }

  #ownNameOf({ targetAt }: Entry): string | undefined {
    return this.#own.chains.find(({ chain }) =>
      startsWith(this.#bytes, targetAt + TARGET.data, Buffer.from(`${chain}\0`, "latin1")),
    )?.chain;
  }

  /** A chain's name, where it is a word that means nothing else to anybody. */
  #nameOf({ targetAt }: Entry): string | undefined {
    const name = fieldText(this.#bytes, targetAt + TARGET.data, CHAIN_NAME_BYTES);
    return /^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,27}$/.test(name) ? name : undefined;
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
