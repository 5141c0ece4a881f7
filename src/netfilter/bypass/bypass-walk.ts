// SPDX-License-Identifier: Apache-2.0
// Follows the rules of one base chain, and of the chains that they lead into, and notes what can take traffic past ztunnel.

import type { NftFamily } from "../nft/nft-wire.ts";
import type { OwnTable } from "../told-rules.ts";
import { type BypassKind, type Judgement, judge, type Position } from "./bypass-judgement.ts";
import type { PacketHook, RuleMeaning } from "./foreign-rule.ts";
import type { PassingMarks } from "./mark-change.ts";
import type { Effect } from "./xt-targets.ts";

/** Something before our rules that can take the pod's traffic past ztunnel. */
export interface Bypass {
  readonly kind: BypassKind;
  /** `ip`, `ip6`, `inet` or `netdev`; of iptables-legacy `ip` or `ip6`. */
  readonly family: string;
  readonly table: string;
  /** The base chain. */
  readonly chain: string;
  /** One bounded sentence of printable ASCII: which rule, and what it can do. */
  readonly detail: string;
}

/** Where our rules stand, and what they let pass. */
export interface OwnPlaces {
  /** Which engine holds them. */
  readonly variant: "nft" | "legacy" | "native";
  /** Our chains and the base chains that lead to them; with `native` their families alone count. */
  readonly own: readonly OwnTable[];
  /** Tables of family inet that are ours as a whole. */
  readonly inetTables: readonly string[];
  readonly marks: PassingMarks;
}

/** A base chain that packets of the pod pass. */
export interface RootChain {
  readonly family: NftFamily;
  readonly table: string;
  readonly chain: string;
  readonly key: string;
  readonly hook: PacketHook;
  /** Where its rules stand, until one jumps to a chain of ours. */
  readonly positions: ReadonlySet<Position>;
  /** Where the rules stand behind that. */
  readonly positionsBehind: ReadonlySet<Position>;
  /** Keys of our chains. */
  readonly ours: ReadonlySet<string>;
}

/** Where rules are read. */
export interface ChainSource {
  /** @returns the rules of a chain, each as it is asked for, and whether that is all */
  rules(key: string, hook: PacketHook): Promise<{ rules: Iterable<RuleMeaning>; isComplete: boolean }>;
  /** Chains of a chain's table that are no base chains. */
  siblings(key: string): readonly string[];
  /** A chain's name. */
  nameOf(key: string): string;
}

/** Rules that are followed in one look, a chain that is led into twice counted twice. */
const MAX_RULES = 20_000;
/** Findings kept: one of each kind in each base chain. */
const MAX_FINDINGS = 16;
const MAX_NAME = 40;

/** What one look has found. */
export class BypassWalk {
  readonly #source: ChainSource;
  readonly #marks: PassingMarks;
  readonly #found = new Map<string, Bypass>();
  #ruleCount = 0;
  /** Nothing was left out. */
  isComplete = true;

  constructor(source: ChainSource, marks: PassingMarks) {
    this.#source = source;
    this.#marks = marks;
  }

  get bypasses(): Bypass[] {
    return [...this.#found.values()];
  }

  /** Follows a base chain. @throws as the source */
  async follow(root: RootChain): Promise<void> {
    const { rules, isComplete } = await this.#source.rules(root.key, root.hook);
    let { positions } = root;
    let seen = new Set<string>();
    let index = 0;
    for (const rule of rules) {
      index++;
      if (!this.#count()) return;
      if (rule.isUnconditional && rule.leads.some((key) => root.ours.has(key))) {
        positions = root.positionsBehind;
        if (positions.size === 0) return;
        seen = new Set();
        continue;
      }
      const place = { root, positions, where: `rule ${index}` };
      // whoever does not come back ends the base chain
      if (rule.isGoto && !rule.leads.every((key) => root.ours.has(key)))
        this.#note({ does: "accept" }, place);
      for (const effect of rule.effects) this.#note(effect, place);
      await this.#followLeads(rule, { key: root.key, place, seen });
    }
    if (!isComplete) this.isComplete = false;
  }

  async #followLeads(
    rule: RuleMeaning,
    { key, place, seen }: { key: string; place: Place; seen: Set<string> },
  ): Promise<void> {
    // a stack and no recursion: the order of findings does not matter, and depth is the pod's to choose
    const waiting = [...rule.leads, ...(rule.leadsAnywhere ? this.#source.siblings(key) : [])];
    for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
      if (seen.has(next) || place.root.ours.has(next)) continue;
      seen.add(next);
      const { rules, isComplete } = await this.#source.rules(next, place.root.hook);
      if (!isComplete) this.isComplete = false;
      const where = `${place.where}, by way of chain ${printableName(this.#source.nameOf(next))},`;
      for (const inner of rules) {
        if (!this.#count()) return;
        for (const effect of inner.effects)
          if (effect.does !== "return") this.#note(effect, { ...place, where });
        waiting.push(...inner.leads, ...(inner.leadsAnywhere ? this.#source.siblings(next) : []));
      }
    }
  }

  /** @returns false when enough was followed */
  #count(): boolean {
    if (++this.#ruleCount <= MAX_RULES) return true;
    this.isComplete = false;
    return false;
  }

  #note(effect: Effect, { root, positions, where }: Place): void {
    const judgement = judge(effect, { positions, hook: root.hook, marks: this.#marks });
    if (judgement === undefined) return;
    const id = `${judgement.kind} ${root.key}`;
    if (this.#found.has(id)) return;
    if (this.#found.size >= MAX_FINDINGS) {
      this.isComplete = false;
      return;
    }
    this.#found.set(id, describe({ effect, judgement, root, where }));
  }
}

interface Place {
  readonly root: RootChain;
  readonly positions: ReadonlySet<Position>;
  readonly where: string;
}

function describe(found: { effect: Effect; judgement: Judgement; root: RootChain; where: string }): Bypass {
  const { effect, judgement, root, where } = found;
  const family = root.family === 4 ? "ip" : root.family === 6 ? "ip6" : root.family;
  const [table, chain] = [printableName(root.table), printableName(root.chain)];
  const what = effect.does === "unknown" ? ` (${printableName(effect.what)})` : "";
  return {
    kind: judgement.kind,
    family,
    table,
    chain,
    detail: `${where} of table ${family} ${table}, chain ${chain}, ${judgement.words}${what}`.replace(
      ",, ",
      ", ",
    ),
  };
}

/** A name of the namespace's, which may be any bytes, as a few printable ones. */
export function printableName(name: string): string {
  const shown = name
    .slice(0, MAX_NAME)
    .replaceAll(/[^!-~]|\\/g, (character) =>
      character === " " ? " " : `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`,
    );
  return name.length > MAX_NAME ? `${shown}...` : shown;
}
