// SPDX-License-Identifier: Apache-2.0
// The host's chain and the jump to it: what should be in the nat table, and the words for how it differs. Pure.

import type { Family } from "../netfilter/family.ts";
import type { Finding } from "../netfilter/rule-engine.ts";
import { type OwnTable, type ToldRules, toldRule } from "../netfilter/told-rules.ts";
import type { ProbeDrift } from "./probe-drift.ts";
import { PROBE_SETS } from "./probe-set.ts";

/** The host's chain, and the built-in chain whose first rule jumps to it. */
export const PROBE_CHAIN = "ISTIO_POSTRT";
export const PROBE_HOOK = "POSTROUTING";
export const PROBE_TABLE = "nat";

/** All that can be ours on the host. */
export const PROBE_TABLES: readonly OwnTable[] = ([4, 6] as const).map((family) => ({
  family,
  table: PROBE_TABLE,
  chains: [{ chain: PROBE_CHAIN, hook: PROBE_HOOK, isFirst: true }],
}));

/** What distinguishes a probe from other connections: the arguments of a match, as any host process or one of them. */
export type ProbeMatchArgs = readonly string[];

/** Any socket of the host itself: forwarded packets have none. Source: iptables-extensions(8), owner. */
export const ANY_SOCKET: ProbeMatchArgs = ["-m", "owner", "--socket-exists"];

/**
 * The one rule of the chain: a probe to an enrolled pod gets the source address that the pod's own rules let past ztunnel.
 * Source: istio/istio cni/pkg/iptables/iptables.go AppendHostRules.
 */
export function probeRule(family: Family, rule: { match: ProbeMatchArgs; snat: string }): readonly string[] {
  const isMember = ["-m", "set", "--match-set", PROBE_SETS[family], "dst"];
  return ["-p", "tcp", ...rule.match, ...isMember, "-j", "SNAT", "--to-source", rule.snat];
}

/** What the host should have, as an engine is told it. */
export function toldProbeRules(
  families: readonly Family[],
  rule: { match: ProbeMatchArgs; snat: Readonly<Record<Family, string>> },
): ToldRules {
  const place = (family: Family) => ({ family, table: PROBE_TABLE });
  return {
    own: PROBE_TABLES,
    wanted: families.map(place),
    rules: families.map((family) =>
      toldRule(
        { ...place(family), chain: PROBE_CHAIN },
        probeRule(family, { match: rule.match, snat: rule.snat[family] }),
      ),
    ),
  };
}

const DRIFT_KINDS: Readonly<Record<Finding["kind"], ProbeDrift["kind"]>> = {
  "missing-chain": "missing-chain",
  "missing-rule": "wrong-rules",
  "extra-rule": "wrong-rules",
  reordered: "wrong-rules",
  "missing-jump": "missing-jump",
  "duplicate-jump": "duplicate-jump",
  "jump-not-first": "jump-not-first",
  "unexpected-table": "leftover",
};

/** How the chain and its jump differ from what they should be. */
export function ruleDrift(findings: readonly Finding[]): ProbeDrift[] {
  return findings.map(({ kind, family, detail }) => ({ kind: DRIFT_KINDS[kind], family, detail }));
}
