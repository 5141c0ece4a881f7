// SPDX-License-Identifier: Apache-2.0
// What stands before the redirection's rules in a pod: where those rules are and which marks they let pass, for the look itself.
import type { Netns } from "../linux/netns.ts";
import { type BypassReport, findBypasses } from "../netfilter/bypass/bypass.ts";
import type { OwnPlaces } from "../netfilter/bypass/bypass-walk.ts";
import type { PassingMarks } from "../netfilter/bypass/mark-change.ts";
import type { Family } from "../netfilter/family.ts";
import { NATIVE_TABLE_NAMES } from "../netfilter/native/native-tables.ts";
import { CHAIN_HOOKS, CHAIN_NAMES, type RedirectOptions, redirectTables } from "./rules.ts";

/** ztunnel's own packets, and packets of connections that it opened: the marks that {@link redirectRules} leaves alone. */
const MARKS: PassingMarks = { mask: 0xfff, prerouting: [0x539], output: [0x539, 0x111] };

/** Where the rules of a pod are. */
export interface BypassOptions {
  readonly variant: "nft" | "legacy" | "native";
  /** Families that are redirected. */
  readonly families: readonly Family[];
  /** How the pod is redirected. */
  readonly redirect: RedirectOptions;
}

/** Looks into one namespace; not into its nf_tables where it is given what was found there at the count that they still have. */
export type FindBypasses = (
  netns: Netns,
  redirect: RedirectOptions,
  known?: BypassReport,
) => Promise<BypassReport>;

/** Looks once; a pod in which our rules do not stand has nothing before them. @throws as findBypasses */
export function findPodBypasses(
  netns: { readonly fd: number },
  options: BypassOptions,
  known?: BypassReport,
): Promise<BypassReport> {
  const { variant, families, redirect } = options;
  const chains = CHAIN_NAMES.map((chain) => ({ chain, hook: CHAIN_HOOKS[chain] }));
  const tables = redirectTables(redirect);
  const places: OwnPlaces = {
    variant,
    own: families.flatMap((family) => tables.map((table) => ({ family, table, chains }))),
    // in another mode they are not verified, whoever wrote them
    inetTables: variant === "native" ? NATIVE_TABLE_NAMES : [],
    marks: MARKS,
  };
  return findBypasses(netns, places, known);
}
