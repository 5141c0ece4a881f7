// SPDX-License-Identifier: Apache-2.0
// A sidecar's rules as an engine is told them.
import type { Family } from "../netfilter/family.ts";
import { renderRestoreText } from "../netfilter/restore-text.ts";
import type { WantedRules } from "../netfilter/rule-engine.ts";
import { type OwnTable, type ToldRules, toldRule } from "../netfilter/told-rules.ts";
import type { SidecarOptions } from "./sidecar-options.ts";
import { SIDECAR_CHAINS, SIDECAR_TABLE_NAMES } from "./sidecar-rule.ts";
import { sidecarChains, sidecarRules } from "./sidecar-rules.ts";

/** All that can be a sidecar's in a pod, in both families. */
export const SIDECAR_TABLES: readonly OwnTable[] = ([4, 6] as const).flatMap((family) =>
  SIDECAR_TABLE_NAMES.map((table) => ({ family, table, chains: SIDECAR_CHAINS[table] })),
);

/** @throws {SidecarOptionsError} as sidecarRules does */
export function toldSidecar(options: SidecarOptions, families: readonly Family[]): ToldRules {
  const all = families.map((family) => ({ family, rules: sidecarRules(options, family) }));
  // which chains there are does not depend on the family
  const some = all[0]?.rules ?? [];
  const chainsOf = (table: (typeof SIDECAR_TABLE_NAMES)[number]) => sidecarChains(some, table);
  const tables = SIDECAR_TABLE_NAMES.filter((table) => chainsOf(table).length > 0);
  return {
    own: SIDECAR_TABLES.map((own) => {
      const table = tables.find((each) => each === own.table);
      return table === undefined ? own : { ...own, chains: chainsOf(table) };
    }),
    wanted: families.flatMap((family) => tables.map((table) => ({ family, table }))),
    rules: all.flatMap(({ family, rules }) =>
      rules.map(({ args, table, chain }) => toldRule({ family, table, chain }, args)),
    ),
  };
}

/**
 * What a pod with these options should have.
 * @param known.families of this pod, and those for which bytes are recorded
 */
export function wantedSidecar(
  options: SidecarOptions,
  { families, known }: { readonly families: readonly Family[]; readonly known: readonly Family[] },
): WantedRules {
  // which families a pod has is asked of its namespace, not of its rules
  const { dualStack, ...rules } = options;
  return { key: JSON.stringify([known, rules]), told: () => toldSidecar(options, known), families };
}

/** The input of `iptables-restore --noflush` that redirects a pod, for people to read. @throws as {@link toldSidecar} */
export function renderSidecarText(options: SidecarOptions, family: Family): string {
  return renderRestoreText(toldSidecar(options, [family]), family);
}
