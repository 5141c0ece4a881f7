// SPDX-License-Identifier: Apache-2.0
// What can take a pod's traffic past ztunnel, and what cannot: which effect counts in which place, and why. Pure.
import type { PacketHook } from "./foreign-rule.ts";
import { canBecome, type PassingMarks } from "./mark-change.ts";
import type { Effect } from "./xt-targets.ts";

/** How a rule can take traffic past ztunnel; `unknown`: what it does is not known here. */
export type BypassKind = "accepts" | "marks" | "translates" | "untracked" | "diverts" | "queues" | "unknown";

/**
 * Where a rule stands, seen from our rules.
 * - `base`: in a base chain that jumps to a chain of ours (mangle or nat), before that jump
 * - `nat`: in a chain of type nat that is asked before ours
 * - `hook`: in a chain that the packet passes before it is translated
 * - `tracking`: in a chain that the packet passes before its connection is known
 */
export type Position = "base" | "nat" | "hook" | "tracking";

/** One line of the judgement. */
export interface Judgement {
  readonly kind: BypassKind;
  /** Where it counts; everywhere else it is harmless. */
  readonly counts: readonly Position[];
  /** What it does, in words. */
  readonly words: string;
}

/**
 * Source: linux net/netfilter/core.c nf_hook_slow; nf_nat_core.c nf_nat_inet_fn; nf_tables_core.c nft_do_chain; nft_ct.c
 * nft_notrack_eval; nfnetlink_queue.c nf_reinject.
 */
const JUDGEMENTS: Readonly<Record<Effect["does"], Judgement>> = {
  // accept ends this base chain alone: the next one of the hook is asked all the same, and so is the next of type nat
  accept: {
    kind: "accepts",
    counts: ["base"],
    words: "ends the chain before our jump",
  },
  // in a base chain it is the chain's policy that decides then; elsewhere the rule behind the jump goes on
  return: {
    kind: "accepts",
    counts: ["base"],
    words: "leaves the chain before our jump",
  },
  // our rules in nat pass over packets that have ztunnel's mark, whoever gave it to them before
  mark: {
    kind: "marks",
    counts: ["hook"],
    words: "can set the packet mark by which ztunnel's own packets are known",
  },
  // our rule in mangle makes it the packet's mark; set after translation it is too late for this connection
  "mark-connection": {
    kind: "marks",
    counts: ["hook"],
    words: "can set the connection mark by which ztunnel's connections are known",
  },
  // the first chain of type nat that translates a connection decides for all of them
  translate: {
    kind: "translates",
    counts: ["nat"],
    words: "sends connections to another address before we do",
  },
  // our rules see the address that was written, and leave loopback addresses alone
  rewrite: {
    kind: "translates",
    counts: ["hook"],
    words: "rewrites addresses or ports of packets",
  },
  // a packet without a connection is never translated; once it has one, this does nothing
  untrack: {
    kind: "untracked",
    counts: ["tracking"],
    words: "keeps connections from being tracked",
  },
  // what has been assigned to a socket, or sent on, meets no rule of ours or does not heed it
  divert: {
    kind: "diverts",
    counts: ["hook"],
    words: "hands packets or copies of them to somebody else",
  },
  // the program may mark or rewrite the packet, and an accepted one goes on behind the base chain
  queue: {
    kind: "queues",
    counts: ["hook"],
    words: "lets a program decide on packets",
  },
  // it may be any of these
  unknown: {
    kind: "unknown",
    counts: ["hook"],
    words: "does something that this version does not know",
  },
};

/** The judgement of an effect in a place; undefined: it takes nothing past ztunnel there. */
export function judge(
  effect: Effect,
  place: {
    readonly positions: ReadonlySet<Position>;
    readonly hook: PacketHook;
    readonly marks: PassingMarks;
  },
): Judgement | undefined {
  const { positions, hook, marks } = place;
  const judgement = JUDGEMENTS[effect.does];
  if (!judgement.counts.some((position) => positions.has(position))) return undefined;
  if (effect.does !== "mark" && effect.does !== "mark-connection") return judgement;
  const values = hook === "output" ? marks.output : marks.prerouting;
  return canBecome(effect.change, values, marks.mask) ? judgement : undefined;
}
