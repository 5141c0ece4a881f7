// SPDX-License-Identifier: Apache-2.0
// The smallest text for iptables-legacy-restore that leads from what is there to what should be there. Pure.
import type { Family } from "../family.ts";
import { renderChain, renderJump, renderTable } from "../restore-text.ts";
import { type HookedChain, isHooked } from "../told-rules.ts";
import type { XtablesChainVerdict, XtablesTableVerdict, XtablesVerdict } from "./legacy-verify.ts";
import type { XtablesLead } from "./xtables-table.ts";

/** Input for one run of `iptables-legacy-restore --noflush`. */
export interface RestoreText {
  readonly family: Family;
  readonly text: string;
}

/** The changes that bring about what is wanted, each table in one atomic step; none for a family in which nothing differs. */
export function planXtables(verdict: XtablesVerdict): RestoreText[] {
  return renderFamilies(verdict, (table) => {
    if (table.findings.length === 0) return [];
    return table.wanted === undefined ? removalLines(table.chains) : changeLines(table.chains);
  });
}

/** The changes that take away what leads into our chains of one table, and nothing else. */
export function planXtablesOpening(verdict: XtablesVerdict, opened: string): RestoreText[] {
  return renderFamilies(verdict, ({ table, chains }) => (table === opened ? entryLines(chains) : []));
}

function renderFamilies(
  { tables }: XtablesVerdict,
  linesOf: (table: XtablesTableVerdict) => string[],
): RestoreText[] {
  const texts = new Map<Family, string>();
  for (const table of tables) {
    const lines = linesOf(table);
    if (lines.length === 0) continue;
    texts.set(table.family, (texts.get(table.family) ?? "") + renderTable(table.table, lines));
  }
  return [...texts].map(([family, text]) => ({ family, text }));
}

function changeLines(chains: readonly XtablesChainVerdict[]): string[] {
  const stale = chains.filter(({ hasRules }) => !hasRules);
  return [
    ...stale.map(({ chain }) => renderChain(chain)),
    ...strayLines(chains),
    ...chains.filter(isHooked).flatMap(jumpLines),
    ...stale.flatMap(({ wanted }) => wanted?.rules.map(({ statement }) => statement) ?? []),
  ];
}

function removalLines(all: readonly XtablesChainVerdict[]): string[] {
  const chains = all.filter(({ seen }) => seen !== undefined);
  // what cannot be named leads there still: the chain stays, without rules
  const removable = chains.filter(({ strays }) => strays.every(({ from }) => from !== undefined));
  return [
    ...entryLines(chains),
    ...chains.map(({ chain }) => `-F ${chain}`),
    ...removable.map(({ chain }) => `-X ${chain}`),
  ];
}

function entryLines(chains: readonly XtablesChainVerdict[]): string[] {
  return [
    ...strayLines(chains),
    ...chains.filter(isHooked).flatMap((chain) => deleteJumps(chain, chain.jumps.length)),
  ];
}

/** By position, the last first: what such a rule says is nobody's to read. Before anything else in its chain moves. */
function strayLines(chains: readonly XtablesChainVerdict[]): string[] {
  return chains
    .flatMap(({ strays }) => strays)
    .sort((one, other) => other.position - one.position)
    .flatMap(({ from, position }: XtablesLead) => (from === undefined ? [] : [`-D ${from} ${position}`]));
}

function jumpLines(verdict: XtablesChainVerdict & HookedChain): string[] {
  const { isFirst = false, jumps } = verdict;
  const isRight = jumps.length > 0 && (!isFirst || jumps[0]?.position === 1);
  if (isRight && (!isFirst || jumps.length === 1)) return deleteJumps(verdict, jumps.length - 1);
  // -D takes the first: where that one is the right one, it goes with the others and comes again
  return [...deleteJumps(verdict, jumps.length), renderJump(verdict)];
}

function deleteJumps({ chain, hook }: Pick<HookedChain, "chain" | "hook">, count: number): string[] {
  return Array<string>(count).fill(`-D ${hook} -j ${chain}`);
}
