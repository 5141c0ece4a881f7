// SPDX-License-Identifier: Apache-2.0
// Reads a pod's rules for people: in this process, through the engine that the agent uses, in the namespace that the pod runs in.
import type { PodProcess } from "../linux/proc-scan.ts";
import type { Family } from "../netfilter/family.ts";
import type { ChainState, RuleState } from "../netfilter/rule-engine.ts";
import { CHAIN_HOOKS, CHAIN_NAMES, TABLE_NAMES, type TableName } from "../redirection/rules.ts";
import type { PodReport } from "../status/state-report.ts";
import type { KernelEyes } from "./kernel-eyes.ts";
import { openAs } from "./pod-check.ts";

/**
 * Our rules as they stand in a pod, and how they differ from what the agent says should be; writes nothing.
 * @param running what scanProc found of the pod
 * @throws Error of a pod without a namespace that could be looked at, and what `PodRedirection.rules` throws
 */
export async function readRules(
  { redirection }: KernelEyes,
  pod: Pick<PodReport, "desired">,
  running: PodProcess | undefined,
  { signal }: { readonly signal?: AbortSignal } = {},
): Promise<RuleState> {
  if (running === undefined) throw new Error("no process of the pod was found");
  using netns = openAs(running);
  if (netns === undefined) throw new Error("its process has ended");
  return await redirection.rules(
    netns,
    pod.desired.redirect ?? undefined,
    signal === undefined ? {} : { signal },
  );
}

/** Tables that are named even where nothing of ours is in them. */
const CLASSIC_TABLES: readonly TableName[] = ["mangle", "nat"];

/** For each table how many rules of ours it has, jumps included, and for IPv4 the rules themselves. */
export function ruleLines(chains: readonly ChainState[], families: readonly Family[]): string[] {
  return families.flatMap((family) =>
    TABLE_NAMES.flatMap((table) => {
      const here = chains.filter((each) => each.family === family && each.table === table);
      const rules = CHAIN_NAMES.flatMap((chain) => {
        const from = CHAIN_HOOKS[chain];
        return here
          .filter((each) => each.chain === chain)
          .flatMap(({ words, jumpCount }) => [
            ...Array<string>(jumpCount).fill(`-A ${from} -j ${chain}`),
            ...words.map((rule) => `-A ${chain} ${rule}`),
          ]);
      });
      if (rules.length === 0 && !CLASSIC_TABLES.includes(table)) return [];
      const standsIn = here.find((each) => each.standsIn !== undefined)?.standsIn;
      const where = `IPv${family} ${table}${standsIn === undefined ? "" : ` (${standsIn})`}`;
      const count = rules.length === 0 ? "no rule of ours" : `${rules.length} rules`;
      return [`${where}: ${count}`, ...(family === 4 ? rules.map((rule) => `  ${rule}`) : [])];
    }),
  );
}
