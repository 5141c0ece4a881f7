// SPDX-License-Identifier: Apache-2.0
// The rules of a pod with a sidecar as data: which rule stands in which chain, and what it is for.
import { bounds } from "../bounds/bounds.ts";
import type { Family } from "../netfilter/family.ts";
import { mangleRules } from "./sidecar-mangle-rules.ts";
import { natRules } from "./sidecar-nat-rules.ts";
import { type SidecarOptions, SidecarOptionsError } from "./sidecar-options.ts";
import {
  dport,
  ownersOf,
  PROXY_DNS,
  ruleOf,
  SIDECAR_CHAINS,
  type SidecarChain,
  type SidecarRule,
  type SidecarTableName,
  UDP,
} from "./sidecar-rule.ts";

/**
 * The rules of one pod and family. The order within one chain of one table is significant.
 * @throws {SidecarOptionsError} for more rules in one chain than are told apart there
 * Source: istio/istio tools/istio-iptables/pkg/capture/run.go (which connections, in which order); cni/pkg/plugin/testdata.
 */
export function sidecarRules(options: SidecarOptions, family: Family): SidecarRule[] {
  const rules = [...mangleRules(options, family), ...natRules(options, family), ...rawRules(options)];
  const counts = new Map<string, number>();
  const { count: maxRules } = bounds.sidecarRules;
  for (const { table, chain } of rules) {
    const count = (counts.get(`${table} ${chain}`) ?? 0) + 1;
    if (count > maxRules)
      throw new SidecarOptionsError(
        `Cannot redirect with more than ${maxRules} rules in ${chain} of table ${table}: the pod's annotations traffic.sidecar.istio.io/… ` +
          "name more ports, ranges and interfaces; name fewer, such as larger ranges",
      );
    counts.set(`${table} ${chain}`, count);
  }
  return rules;
}

/**
 * Chains that a table has for some rules, in the order in which they are made; none for a table without a rule. All that are entered from
 * built-in chains, with a rule in them or not: so nothing of other options that a pod had before leads anywhere.
 */
export function sidecarChains(
  rules: readonly SidecarRule[],
  table: SidecarTableName,
): readonly SidecarChain[] {
  const used = new Set(rules.filter((rule) => rule.table === table).map(({ chain }) => chain));
  if (used.size === 0) return [];
  return SIDECAR_CHAINS[table].filter(({ chain, hook }) => hook !== undefined || used.has(chain));
}

/** Questions of apps and those of the agent are tracked apart, so that their ports never collide. */
function rawRules(options: SidecarOptions): SidecarRule[] {
  if (!options.dnsCapture) return [];
  const rule = ruleOf("raw");
  const zone = (number: 1 | 2) => ["-j", "CT", "--zone", `${number}`];
  const answers = ["-m", "udp", "--sport", PROXY_DNS];
  return [
    rule("ISTIO_INBOUND", [...UDP, "-m", "udp", "--sport", "53", ...zone(1)], {
      comment: "answers to the agent's own questions",
    }),
    ...ownersOf(options).flatMap(({ is }) => [
      rule("ISTIO_OUTPUT_DNS", [...UDP, ...dport("udp", 53), ...is, ...zone(1)], {
        comment: "the agent's own questions",
      }),
      rule("ISTIO_OUTPUT_DNS", [...UDP, ...answers, ...is, ...zone(2)], {
        comment: "the agent's answers to apps",
      }),
    ]),
    rule("ISTIO_OUTPUT_DNS", [...UDP, ...dport("udp", 53), ...zone(2)], { comment: "questions of apps" }),
  ];
}
