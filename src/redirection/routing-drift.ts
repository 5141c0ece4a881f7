// SPDX-License-Identifier: Apache-2.0
// What is missing of the ip rule and the route that bring marked replies back to ztunnel, and of the device they need, in words.
import type { RoutingLook, RoutingState } from "../linux/netlink/rtnetlink.ts";
import type { Drift } from "./fingerprint.ts";

/** The missing parts, in each family that is in use. @param look.loUp false: what leads to the device goes nowhere, or ended with it */
export function routingDrift({ v4, v6 }: RoutingState, { loUp }: Pick<RoutingLook, "loUp">): Drift[] {
  const drift: Drift[] = [];
  if (!loUp)
    drift.push({ kind: "loopback-down", family: 4, table: "", chain: "", detail: "the device lo is down" });
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

/** Whether a kind of difference says nothing of the rules. */
export function isOfRouting(kind: Drift["kind"]): boolean {
  return kind === "missing-ip-rule" || kind === "missing-route" || kind === "loopback-down";
}
