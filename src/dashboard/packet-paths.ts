// SPDX-License-Identifier: Apache-2.0
// Which of a packet's ways through a captured pod each rule belongs to, and what the kernel has counted on it. No I/O.

import type { Family } from "../netfilter/family.ts";
import { normaliseRule } from "../netfilter/rule-tokens.ts";
import { joinWords, type SavedRuleset } from "../netfilter/save-parser.ts";
import {
  CHAIN_HOOKS,
  CHAIN_NAMES,
  type ChainName,
  type RedirectOptions,
  type RedirectRule,
  redirectRules,
  redirectTables,
  TABLE_NAMES,
} from "../redirection/rules.ts";
import type { HookReport, PacketPath, PathStage, RuleReport } from "./rules-report.ts";

/** A rule's counters. */
export interface RuleCount {
  readonly packets: number;
  readonly bytes: number;
}

/** A dump with counters: `counts` has one entry for each rule of the table, in order. */
export interface CountedRuleset {
  readonly ruleset: SavedRuleset;
  readonly counts: ReadonlyMap<string, readonly RuleCount[]>;
}

interface FoundRule extends RuleCount {
  readonly tokens: string;
  readonly text: string;
}

const NOTHING: RuleCount = { packets: 0, bytes: 0 };

/** The counters of each table's rules in the output of `iptables-save -c`, in its order. */
export function readCounts(text: string): Map<string, RuleCount[]> {
  const tables = new Map<string, RuleCount[]>();
  let counts: RuleCount[] = [];
  for (const line of text.split("\n")) {
    const name = /^\*(\S+)/.exec(line)?.[1];
    if (name !== undefined) {
      counts = tables.get(name) ?? [];
      tables.set(name, counts);
    }
    const rule = /^(?:\[(\d+):(\d+)\] )?-A /.exec(line);
    if (rule !== null) counts.push({ packets: Number(rule[1] ?? 0), bytes: Number(rule[2] ?? 0) });
  }
  return tables;
}

/**
 * Our rules as they are beside our rules as they should be, in the order in which a packet meets them.
 * @param wanted `undefined`: the pod should have none, and what is found is left over
 * @throws {RedirectOptionsError} for options that no rule can hold
 */
export function explainRules(
  found: CountedRuleset,
  wanted: RedirectOptions | undefined,
  family: Family,
): { rules: RuleReport[]; hooks: HookReport[] } {
  const rules: RuleReport[] = [];
  const hooks: HookReport[] = [];
  const wantedRules = wanted === undefined ? [] : redirectRules(wanted, family);
  const wantedTables = wanted === undefined ? [] : redirectTables(wanted);
  for (const table of TABLE_NAMES) {
    for (const chain of CHAIN_NAMES) {
      const place = { table, chain };
      const there = rulesOf(found, place);
      const should = wantedRules.filter((rule) => rule.table === table && rule.chain === chain);
      rules.push(...match(there, should, { ...place, probes: probesOf(wanted) }));
      const hook = hookOf(found, place);
      if (hook !== undefined) hooks.push({ ...place, from: CHAIN_HOOKS[chain], present: true, ...hook });
      else if (wantedTables.includes(table))
        hooks.push({ ...place, from: CHAIN_HOOKS[chain], present: false, ...NOTHING });
    }
  }
  return { rules: rules.sort((a, b) => stageRank(a) - stageRank(b)), hooks };
}

/** Order in which a packet of each path meets the rules. */
export const PATH_STAGES: Readonly<Record<PacketPath, readonly PathStage[]>> = {
  in: ["capture", "mark", "reply", "let-go"],
  out: ["virtual-interface", "self", "capture"],
  dns: ["capture", "apart", "apart-back"],
  probe: ["arrive", "answer"],
  other: ["unknown"],
};

const PATHS: readonly PacketPath[] = ["in", "out", "dns", "probe", "other"];

function stageRank({ path, stage }: RuleReport): number {
  return 10 * PATHS.indexOf(path) + PATH_STAGES[path].indexOf(stage);
}

/** What one of our rules is for. */
export function purposeOf(
  { table, chain, args }: RedirectRule,
  probes: readonly string[],
): { path: PacketPath; stage: PathStage } {
  const isInbound = chain === "ISTIO_PRERT";
  if (args.some((arg) => probes.includes(arg)))
    return { path: "probe", stage: isInbound ? "arrive" : "answer" };
  if (args.includes("53"))
    return { path: "dns", stage: table !== "raw" ? "capture" : isInbound ? "apart-back" : "apart" };
  if (table === "mangle") return { path: "in", stage: isInbound ? "mark" : "reply" };
  if (args[0] === "-i") return { path: "out", stage: "virtual-interface" };
  if (isInbound) return { path: "in", stage: "capture" };
  if (args.includes("REDIRECT")) return { path: "out", stage: "capture" };
  return args.includes("-o") ? { path: "out", stage: "self" } : { path: "in", stage: "let-go" };
}

function match(
  there: readonly FoundRule[],
  should: readonly RedirectRule[],
  { table, chain, probes }: { table: string; chain: ChainName; probes: readonly string[] },
): RuleReport[] {
  const open = [...there];
  const reports = should.map((rule): RuleReport => {
    const forms = [rule.args, rule.accepted ?? rule.args].map((args) => normaliseRule(args).tokens.join(" "));
    const at = open.findIndex((each) => forms.includes(each.tokens));
    const [seen] = at < 0 ? [] : open.splice(at, 1);
    return {
      table,
      chain,
      ...purposeOf(rule, probes),
      state: seen === undefined ? "missing" : "present",
      text: seen?.text ?? joinWords(rule.args),
      comment: rule.comment,
      packets: seen?.packets ?? 0,
      bytes: seen?.bytes ?? 0,
    };
  });
  const foreign = open.map(
    ({ text, packets, bytes }): RuleReport => ({
      table,
      chain,
      path: "other",
      stage: "unknown",
      state: "foreign",
      text,
      comment: null,
      packets,
      bytes,
    }),
  );
  return [...reports, ...foreign];
}

function rulesOf({ ruleset, counts }: CountedRuleset, place: { table: string; chain: string }): FoundRule[] {
  const rules = ruleset.tables.get(place.table)?.rules ?? [];
  const numbers = counts.get(place.table) ?? [];
  return rules.flatMap(({ chain, tokens, words }, index) =>
    chain === place.chain
      ? [{ tokens: tokens.join(" "), text: joinWords(words), ...(numbers[index] ?? NOTHING) }]
      : [],
  );
}

/** Counters of the jump into a chain of ours. */
function hookOf(
  found: CountedRuleset,
  { table, chain }: { table: string; chain: ChainName },
): RuleCount | undefined {
  const jump = rulesOf(found, { table, chain: CHAIN_HOOKS[chain] }).find(
    ({ tokens }) => tokens === `-j ${chain}`,
  );
  return jump && { packets: jump.packets, bytes: jump.bytes };
}

function probesOf(options: RedirectOptions | undefined): string[] {
  return options === undefined ? [] : [options.probeSnatV4, options.probeSnatV6];
}
