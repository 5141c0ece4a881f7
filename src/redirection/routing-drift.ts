// SPDX-License-Identifier: Apache-2.0
// What is missing of the ip rule and the route that bring marked replies back to ztunnel, in words.
import type { RoutingState } from "../linux/netlink/rtnetlink.ts";
import type { Drift } from "./fingerprint.ts";

/** The missing parts, in each family that is in use. */
export function routingDrift({ v4, v6 }: RoutingState): Drift[] {
  const drift: Drift[] = [];
  for (const [family, routing] of [[4, v4] as const, [6, v6] as const]) {
    if (!routing.supported) continue;
    if (!routing.rule) {
      const detail = "no rule fwmark 0x111/0xfff lookup 100 of priority 32764";
      drift.push({ kind: "missing-ip-rule", family, table: "100", chain: "", detail });
    }
    if (!routing.route) {
      const detail = "no route local default dev lo table 100";
      drift.push({ kind: "missing-route", family, table: "100", chain: "", detail });
    }
  }
  return drift;
}
