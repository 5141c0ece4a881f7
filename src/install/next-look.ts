// SPDX-License-Identifier: Apache-2.0
// What to do after a look at the CNI folder, and when to look again. Pure: no I/O, no clock.
import type { ChainOptions, ChainPlan } from "../conflist/chain-options.ts";
import { planChain } from "../conflist/chain-plan.ts";
import type { Action, ConfFolder } from "../conflist/conf-folder.ts";
import { istioCniType } from "../conflist/conflist-edit.ts";
import { type Fight, fightRemedy, noFight, recordRewrite } from "./fight.ts";

/** What is remembered between looks; times are ms of a clock that never goes back. */
export interface ChainMemory {
  /** Our entry was in place at the last look. */
  readonly isPresent: boolean;
  /** Settings that differ are ours to mend at once. */
  readonly mendsSettings: boolean;
  readonly repairDueMs: number;
  readonly differsSinceMs: number | undefined;
  readonly orphanSinceMs: number | undefined;
  /** Since when which files cannot be parsed. */
  readonly brokenSinceMs: ReadonlyMap<string, number>;
  readonly fight: Fight;
}

export const freshMemory: ChainMemory = {
  isPresent: false,
  mendsSettings: true,
  repairDueMs: 0,
  differsSinceMs: undefined,
  orphanSinceMs: undefined,
  brokenSinceMs: new Map(),
  fight: noFight,
};

/** How long things are left as they are, in ms. */
export interface ChainGraces {
  /** How long a file that cannot be parsed may be half written, default 2000. */
  readonly halfWrittenMs: number;
  /** How long another agent's settings are left alone, default 60 000: a rolling upgrade runs two of us. */
  readonly settingsGraceMs: number;
  /** How long the own file outlives the primary it is a copy of, default 60 000. */
  readonly ownedGraceMs: number;
}

/** What was seen. */
export interface ChainView {
  readonly folder: ConfFolder;
  readonly nowMs: number;
  readonly wanted: Omit<ChainOptions, "keepSettings">;
  readonly graces: ChainGraces;
}

/** For the log and for people. */
export type ChainNews =
  | { readonly what: "rewritten"; readonly rewrites: number; readonly pauseMs: number }
  | { readonly what: "fight"; readonly rewrites: number; readonly remedy: string }
  | { readonly what: "stood-aside" }
  | { readonly what: "orphan" };

/** The decision. */
export interface NextLook {
  readonly plan: ChainPlan;
  /** Nothing is to be done or concluded now; look again. */
  readonly waits: boolean;
  readonly actions: readonly Action[];
  /** In so many ms at the latest; undefined: the usual pace. */
  readonly againMs: number | undefined;
  readonly news: readonly ChainNews[];
  /** From now on. */
  readonly memory: ChainMemory;
  /** Once the actions are done. */
  readonly done: ChainMemory;
}

/** Soon enough for a file that is being written. */
const halfWrittenLookMs = 30;

/** Says what comes next. */
export function nextLook(before: ChainMemory, view: ChainView): NextLook {
  const chosen = choosePlan(before, view);
  const { plan } = chosen;
  const broken = brokenSince(before, plan.invalid.keys(), view.nowMs);
  const memory = { ...before, differsSinceMs: chosen.differsSinceMs, brokenSinceMs: broken };
  const isYoung = [...broken.values()].some((sinceMs) => view.nowMs - sinceMs < view.graces.halfWrittenMs);
  if (isYoung) return { ...waiting(plan, memory), againMs: halfWrittenLookMs };
  const orphan = orphanStep({ ...memory, isPresent: memory.isPresent && !plan.istioCni }, plan, view);
  const repair = repairStep(orphan.memory, plan, view.nowMs);
  const stoodAside: ChainNews[] = plan.istioCni && before.isPresent ? [{ what: "stood-aside" }] : [];
  const news = [...orphan.news, ...stoodAside, ...repair.news];
  if (repair.leftMs > 0) return { ...waiting(plan, repair.memory), againMs: repair.leftMs, news };
  const isIn = plan.fileName !== undefined;
  return {
    plan,
    waits: false,
    actions: [...orphan.actions, ...plan.actions],
    againMs: soonest(chosen.againMs, orphan.againMs),
    news,
    memory: repair.memory,
    done: isIn ? { ...repair.memory, isPresent: true, mendsSettings: false } : repair.memory,
  };
}

function waiting(plan: ChainPlan, memory: ChainMemory): NextLook {
  return { plan, waits: true, actions: [], againMs: undefined, news: [], memory, done: memory };
}

function soonest(...pauses: readonly (number | undefined)[]): number | undefined {
  const known = pauses.filter((ms) => ms !== undefined);
  return known.length === 0 ? undefined : Math.min(...known);
}

/** Nothing but other settings may be those of a newer agent of this node, which is about to replace this one. */
function choosePlan(
  { mendsSettings, differsSinceMs }: ChainMemory,
  { folder, wanted, nowMs, graces }: ChainView,
): { plan: ChainPlan; differsSinceMs: number | undefined; againMs?: number } {
  const strict = planChain(folder, wanted);
  if (mendsSettings || strict.actions.length === 0) return { plan: strict, differsSinceMs: undefined };
  const lenient = planChain(folder, { ...wanted, keepSettings: true });
  if (lenient.actions.length > 0) return { plan: lenient, differsSinceMs };
  const sinceMs = differsSinceMs ?? nowMs;
  const leftMs = sinceMs + graces.settingsGraceMs - nowMs;
  if (leftMs <= 0) return { plan: strict, differsSinceMs: sinceMs };
  return { plan: lenient, differsSinceMs: sinceMs, againMs: leftMs };
}

function brokenSince(
  { brokenSinceMs }: ChainMemory,
  broken: Iterable<string>,
  nowMs: number,
): ReadonlyMap<string, number> {
  return new Map([...broken].map((name) => [name, brokenSinceMs.get(name) ?? nowMs]));
}

interface PartStep {
  readonly memory: ChainMemory;
  readonly actions: readonly Action[];
  readonly news: readonly ChainNews[];
  readonly againMs?: number;
}

/** Our copy must not outlive its original for long: the network plugin took the node out of service. */
function orphanStep(memory: ChainMemory, plan: ChainPlan, { nowMs, graces, wanted }: ChainView): PartStep {
  if (!plan.orphaned) return { memory: { ...memory, orphanSinceMs: undefined }, actions: [], news: [] };
  const sinceMs = memory.orphanSinceMs ?? nowMs;
  const leftMs = sinceMs + graces.ownedGraceMs - nowMs;
  if (leftMs > 0)
    return { memory: { ...memory, orphanSinceMs: sinceMs }, actions: [], news: [], againMs: leftMs };
  return {
    memory: { ...memory, orphanSinceMs: undefined },
    actions: [{ kind: "remove", name: wanted.ownedFileName }],
    news: [{ what: "orphan" }],
  };
}

/** Counts a rewrite that took our entry away, or put another agent's beside it; in a fight the repair waits. */
function repairStep(
  memory: ChainMemory,
  plan: ChainPlan,
  nowMs: number,
): { memory: ChainMemory; news: readonly ChainNews[]; leftMs: number } {
  const isRepair = plan.actions.length > 0 && (plan.missing || plan.replaces);
  if (!isRepair) return { memory, news: [], leftMs: 0 };
  if (!memory.isPresent) return { memory, news: [], leftMs: memory.repairDueMs - nowMs };
  const { fight, pauseMs, begins } = recordRewrite(memory.fight, nowMs);
  const { rewrites } = fight;
  const news: ChainNews[] = [{ what: "rewritten", rewrites, pauseMs }];
  const types = plan.replaces ? [istioCniType] : plan.types.filter((type) => type !== istioCniType);
  if (begins) news.push({ what: "fight", rewrites, remedy: fightRemedy(types) });
  return {
    memory: { ...memory, isPresent: false, repairDueMs: nowMs + pauseMs, fight },
    news,
    leftMs: pauseMs,
  };
}
