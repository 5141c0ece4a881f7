// SPDX-License-Identifier: Apache-2.0
// The redirection's rules as an engine is told them.
import type { Family } from "../netfilter/family.ts";
import { renderRestoreText } from "../netfilter/restore-text.ts";
import type { WantedRules } from "../netfilter/rule-engine.ts";
import { type ChainProof, type OwnTable, type ToldRules, toldRule } from "../netfilter/told-rules.ts";
import {
  CHAIN_HOOKS,
  CHAIN_NAMES,
  keepsEstablished,
  MARK_MASK,
  MARKS,
  type RedirectOptions,
  redirectRules,
  redirectTables,
  redirectVariantKey,
  TABLE_NAMES,
} from "./rules.ts";

export const ALL_FAMILIES: readonly Family[] = [4, 6];

/**
 * The marks and their mask, which stand in at least one chain of each of our tables and of istio-cni's: a sidecar's ISTIO_OUTPUT in
 * table nat has no mark, and its marks in other tables have no mask. As the kernel keeps them, in a match of xtables and in nf_tables.
 * Source: istio/istio tools/istio-iptables/pkg/capture (sidecars), linux/netfilter/xt_mark.h, xt_connmark.h.
 */
const OUR_MARKS: ChainProof = [MARKS.map(hostOrder), [hostOrder(MARK_MASK)]];

/** All that can be ours in a pod, in both families. */
export const REDIRECT_TABLES: readonly OwnTable[] = ownTables(ALL_FAMILIES);

function ownTables(families: readonly Family[]): readonly OwnTable[] {
  const chains = CHAIN_NAMES.map((chain) => ({ chain, hook: CHAIN_HOOKS[chain] }));
  return families.flatMap((family) =>
    TABLE_NAMES.map((table) => ({ family, table, chains, proof: OUR_MARKS })),
  );
}

/** Every architecture we build for is little-endian. */
function hostOrder(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return bytes;
}

/** @throws {RedirectOptionsError} as redirectRules does */
export function toldRedirection(options: RedirectOptions, families: readonly Family[]): ToldRules {
  const wanted = redirectTables(options);
  return {
    own: REDIRECT_TABLES,
    wanted: families.flatMap((family) => wanted.map((table) => ({ family, table }))),
    rules: families.flatMap((family) =>
      redirectRules(options, family).map(({ args, table, chain }) =>
        toldRule({ family, table, chain }, args),
      ),
    ),
  };
}

/**
 * The input of `iptables-restore --noflush` that redirects a pod without rules of ours, for people to read; chains of others stay as they are.
 * @throws {RedirectOptionsError} as redirectRules does
 */
export function renderRedirectText(options: RedirectOptions, family: Family): string {
  return renderRestoreText(toldRedirection(options, [family]), family);
}

/**
 * What a pod with these options should have. Istio's own rules count as ours where connections from before the capture live on.
 * @param known.families that the agent writes at all, for which bytes are recorded
 * @throws {RedirectOptionsError} as redirectRules does
 */
export function wantedRedirection(
  options: RedirectOptions,
  { families, known }: { readonly families: readonly Family[]; readonly known: readonly Family[] },
): WantedRules {
  const form = (each: RedirectOptions) => ({
    key: known.map((family) => redirectVariantKey(each, family)).join("\n"),
    told: () => toldRedirection(each, known),
  });
  const wanted = { ...form(options), families };
  return keepsEstablished(options)
    ? { ...wanted, accepted: form({ ...options, establishedConnections: "reset" }) }
    : wanted;
}
