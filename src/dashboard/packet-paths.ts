// SPDX-License-Identifier: Apache-2.0
// Which of a packet's ways through a captured pod each rule belongs to, and what the kernel has counted on it. No I/O.

import type { Family } from "../netfilter/family.ts";
import { type ChainState, NOTHING_COUNTED, type RuleCount, type RuleForm } from "../netfilter/rule-engine.ts";
import { toldRule } from "../netfilter/told-rules.ts";
import {
  CHAIN_HOOKS,
  CHAIN_NAMES,
  type ChainName,
  type RedirectOptions,
  type RedirectRule,
  redirectRules,
  redirectTables,
  TABLE_NAMES,
  type TableName,
} from "../redirection/rules.ts";
import {
  type HookReport,
  PATH_STAGES,
  type PacketPath,
  type PathStage,
  type RuleReport,
} from "./rules-report.ts";

interface FoundRule extends RuleCount {
  readonly words: string;
  readonly form: RuleForm;
}

/**
 * Our rules as they are beside our rules as they should be, in the order in which a packet meets them. Those of others are notes.
 * @param found our chains that are there, of any family
 * @param wanted undefined: the pod should have none, and what is found is left over
 * @throws {RedirectOptionsError} for options that no rule can hold
 */
export function explainRules(
  found: readonly ChainState[],
  wanted: RedirectOptions | undefined,
  family: Family,
): { rules: RuleReport[]; hooks: HookReport[] } {
  const rules: RuleReport[] = [];
  const hooks: HookReport[] = [];
  const wantedRules = wanted === undefined ? [] : redirectRules(wanted, family);
  const wantedTables = wanted === undefined ? [] : redirectTables(wanted);
  for (const table of TABLE_NAMES) {
    for (const chain of CHAIN_NAMES) {
      const state = found.find(
        (each) => each.family === family && each.table === table && each.chain === chain,
      );
      const should = wantedRules.filter((rule) => rule.table === table && rule.chain === chain);
      rules.push(...match(state, should, { table, chain, family, probes: probesOf(wanted) }));
      const present = state !== undefined && state.jumpCount > 0;
      const { packets, bytes } = state?.jumped ?? NOTHING_COUNTED;
      if (present || wantedTables.includes(table))
        hooks.push({ table, chain, from: CHAIN_HOOKS[chain], present, packets, bytes });
    }
  }
  return { rules: rules.sort((a, b) => stageRank(a) - stageRank(b)), hooks };
}

const PATHS = Object.keys(PATH_STAGES);

function stageRank({ path, stage }: RuleReport): number {
  const stages: readonly PathStage[] = PATH_STAGES[path];
  return 10 * PATHS.indexOf(path) + stages.indexOf(stage);
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
  state: ChainState | undefined,
  should: readonly RedirectRule[],
  place: {
    readonly table: TableName;
    readonly chain: ChainName;
    readonly family: Family;
    readonly probes: readonly string[];
  },
): RuleReport[] {
  const { table, chain, family, probes } = place;
  const open = rulesOf(state);
  const reports = should.map((rule): RuleReport => {
    const { words } = toldRule({ family, table, chain }, rule.args);
    const at = open.findIndex((each) => each.form !== "other" && each.words === words);
    const [seen] = at < 0 ? [] : open.splice(at, 1);
    const args = seen?.form === "accepted" ? (rule.accepted ?? rule.args) : rule.args;
    return {
      table,
      chain,
      ...purposeOf(rule, probes),
      state: seen === undefined ? "missing" : "present",
      text: args.join(" "),
      comment: rule.comment,
      packets: seen?.packets ?? 0,
      bytes: seen?.bytes ?? 0,
    };
  });
  return [
    ...reports,
    ...open.map(({ words, packets, bytes }): RuleReport => {
      const purpose = { path: "other", stage: "unknown", state: "foreign", comment: null } as const;
      return { table, chain, ...purpose, text: words, packets, bytes };
    }),
  ];
}

function rulesOf(state: ChainState | undefined): FoundRule[] {
  return (state?.words ?? []).map((words, index) => ({
    words,
    form: state?.forms?.[index] ?? "other",
    ...(state?.counts?.[index] ?? NOTHING_COUNTED),
  }));
}

function probesOf(options: RedirectOptions | undefined): string[] {
  return options === undefined ? [] : [options.probeSnatV4, options.probeSnatV6];
}
