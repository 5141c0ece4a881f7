// SPDX-License-Identifier: Apache-2.0
// The host's chain and the jump to it: what should be in the nat table, what is, and the smallest text between. Pure.

import type { Family } from "../netfilter/family.ts";
import { renderChain, renderTable } from "../netfilter/restore-text.ts";
import { normaliseRule } from "../netfilter/rule-tokens.ts";
import { joinWords, type SavedRuleset } from "../netfilter/save-parser.ts";
import type { ProbeDrift } from "./probe-drift.ts";
import { PROBE_SETS } from "./probe-set.ts";

/** The host's chain, and the built-in chain whose first rule jumps to it. */
export const PROBE_CHAIN = "ISTIO_POSTRT";
export const PROBE_HOOK = "POSTROUTING";
export const PROBE_TABLE = "nat";

/** What distinguishes a probe from other connections: the arguments of a match, as any host process or one of them. */
export type ProbeMatchArgs = readonly string[];

/** Any socket of the host itself: forwarded packets have none. Source: iptables-extensions(8), owner. */
export const ANY_SOCKET: ProbeMatchArgs = ["-m", "owner", "--socket-exists"];

/** Our share of the nat table. */
export interface ProbeRuleState {
  /** Rules of the chain in normal form; undefined when it is not there. */
  readonly chain: readonly string[] | undefined;
  /** Position of each plain jump in the built-in chain, from 1, as the words that delete it. */
  readonly jumps: readonly { readonly position: number; readonly words: string }[];
  /** Rules elsewhere that lead into the chain, as `CHAIN words…`. */
  readonly strays: readonly string[];
}

/**
 * The one rule of the chain: a probe to an enrolled pod gets the source address that the pod's own rules let past ztunnel.
 * Source: istio/istio cni/pkg/iptables/iptables.go AppendHostRules.
 */
export function probeRule(family: Family, rule: { match: ProbeMatchArgs; snat: string }): readonly string[] {
  const isMember = ["-m", "set", "--match-set", PROBE_SETS[family], "dst"];
  return ["-p", "tcp", ...rule.match, ...isMember, "-j", "SNAT", "--to-source", rule.snat];
}

/** Our share of a dump. */
export function observeProbeRules(dump: SavedRuleset): ProbeRuleState {
  const table = dump.tables.get(PROBE_TABLE);
  const chain: string[] = [];
  const jumps: { position: number; words: string }[] = [];
  const strays: string[] = [];
  let position = 0;
  for (const rule of table?.rules ?? []) {
    if (rule.chain === PROBE_HOOK) position++;
    if (rule.chain === PROBE_CHAIN) {
      chain.push(rule.tokens.join(" "));
    } else if (rule.target === PROBE_CHAIN) {
      const words = joinWords([rule.chain, ...rule.words]);
      const isJump = rule.chain === PROBE_HOOK && rule.tokens.join(" ") === `-j ${PROBE_CHAIN}`;
      if (isJump) jumps.push({ position, words });
      else strays.push(words);
    }
  }
  return { chain: table?.chains.has(PROBE_CHAIN) === true ? chain : undefined, jumps, strays };
}

/** How the chain and its jump differ from what they should be. */
export function compareProbeRules(
  state: ProbeRuleState,
  { family, rule }: { family: Family; rule: readonly string[] },
): ProbeDrift[] {
  const drift: ProbeDrift[] = [];
  if (state.chain === undefined) {
    drift.push({ kind: "missing-chain", family, detail: `chain ${PROBE_CHAIN} is not there` });
  } else if (!isRightChain(state, rule)) {
    const found = state.chain.map((each) => `"${each}"`).join(", ") || "nothing";
    drift.push({ kind: "wrong-rules", family, detail: `chain ${PROBE_CHAIN} holds ${found}` });
  }
  const [first, ...others] = state.jumps;
  if (first === undefined) {
    drift.push({ kind: "missing-jump", family, detail: `${PROBE_HOOK} does not jump to ${PROBE_CHAIN}` });
  } else {
    if (first.position !== 1) {
      const detail = `${first.position - 1} rules of others stand before the jump to ${PROBE_CHAIN}`;
      drift.push({ kind: "jump-not-first", family, detail });
    }
    if (others.length > 0) {
      const detail = `${PROBE_HOOK} jumps to ${PROBE_CHAIN} ${state.jumps.length} times`;
      drift.push({ kind: "duplicate-jump", family, detail });
    }
  }
  return drift;
}

/**
 * Input for `iptables-restore --noflush` that puts the rule into the chain and the jump first, one atomic step; it names
 * our chain and jumps to it and nothing else.
 * @param wanted.rewrite write the chain even if its text is right
 */
export function planProbeRules(
  state: ProbeRuleState,
  { rule, rewrite }: { rule: readonly string[]; rewrite: boolean },
): string | undefined {
  const writesChain = rewrite || !isRightChain(state, rule);
  const isOnlyAndFirst = state.jumps.length === 1 && state.jumps[0]?.position === 1;
  const lines = [
    ...(writesChain ? [renderChain(PROBE_CHAIN), `-A ${PROBE_CHAIN} ${joinWords(rule)}`] : []),
    // never by position: another program may have moved the rules since they were read
    ...(isOnlyAndFirst ? [] : state.jumps.map(({ words }) => `-D ${words}`)),
    ...(isOnlyAndFirst ? [] : [`-I ${PROBE_HOOK} 1 -j ${PROBE_CHAIN}`]),
  ];
  return lines.length === 0 ? undefined : renderTable(PROBE_TABLE, lines);
}

/** Input for `iptables-restore --noflush` that removes everything of ours; undefined when there is nothing. */
export function planProbeRemoval(state: ProbeRuleState): string | undefined {
  const leading = [...state.jumps.map(({ words }) => words), ...state.strays];
  const chain = state.chain === undefined ? [] : [`-F ${PROBE_CHAIN}`, `-X ${PROBE_CHAIN}`];
  const lines = [...leading.map((words) => `-D ${words}`), ...chain];
  return lines.length === 0 ? undefined : renderTable(PROBE_TABLE, lines);
}

function isRightChain(state: ProbeRuleState, rule: readonly string[]): boolean {
  return state.chain?.length === 1 && state.chain[0] === normaliseRule(rule).tokens.join(" ");
}
