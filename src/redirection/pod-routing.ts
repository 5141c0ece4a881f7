// SPDX-License-Identifier: Apache-2.0
// The ip rule and route of one pod's namespace, and which families it can have them in.
import { setTimeout as delay } from "node:timers/promises";
import { NetlinkError } from "../linux/netlink/exchange.ts";
import { interfaceAddresses } from "../linux/netlink/interface-addresses.ts";
import { isLoopbackUp } from "../linux/netlink/loopback-address.ts";
import type { MarkRoute } from "../linux/netlink/routing-messages.ts";
import {
  ensureRedirectRouting,
  LO_DOWN,
  type RoutingLook,
  type RoutingState,
} from "../linux/netlink/rtnetlink.ts";
import type { Netns } from "../linux/netns.ts";
import type { NetnsAt } from "../linux/netns-visit.ts";
import type { Family } from "../netfilter/family.ts";
import { assertPodNetns } from "./pod-netns.ts";

/**
 * containerd runs the loopback plugin beside the chain, not before it: "lo" of a new sandbox may come up after our ADD has
 * begun. Source: containerd/go-cni cni.go, Setup (one goroutine for each network).
 */
const LOOPBACK_WAIT_MS = 5_000;
const LOOPBACK_POLL_MS = 10;

/** A family, or the ip rule and route of it, that the namespace cannot have. */
export interface SkippedFamily {
  readonly family: Family;
  readonly part: "all" | "routing";
  readonly reason: string;
}

/**
 * Brings ip rule and route about and verifies them.
 * @param options.found what was seen just now
 * @param options.isNew "lo" may not be up yet: waits for it up to 5 s
 * @throws NetlinkError when the kernel refuses, EAGAIN when it is changed again right after that; as {@link assertPodNetns}
 */
export async function ensureRouting(
  netns: Netns,
  options: {
    readonly ipv6: boolean;
    readonly isNew: boolean;
    readonly hostNetns: ReadonlySet<string>;
    readonly found?: RoutingLook | undefined;
    /** Through which it is asked; default: the namespace's descriptor. */
    readonly at?: NetnsAt;
    /** Default: ambient mode's. */
    readonly route?: MarkRoute;
  },
): Promise<RoutingState> {
  let { found } = options;
  const { ipv6: v6, route } = options;
  const families = route === undefined ? { v6 } : { v6, route };
  const deadline = performance.now() + (options.isNew ? LOOPBACK_WAIT_MS : 0);
  for (;;) {
    assertPodNetns(netns, options.hostNetns);
    try {
      // what it shows is what the kernel showed after the write
      return await ensureRedirectRouting(options.at ?? netns.fd, families, { found });
    } catch (error) {
      const isLoDown = error instanceof NetlinkError && error.code === "ENETDOWN";
      if (!isLoDown || performance.now() >= deadline) throw error;
      found = undefined;
      await delay(LOOPBACK_POLL_MS);
    }
  }
}

/** Waits for "lo" of a new namespace, up to 5 s. @throws NetlinkError ENETDOWN when it stays down */
export async function untilLoopbackUp(at: NetnsAt): Promise<void> {
  const deadline = performance.now() + LOOPBACK_WAIT_MS;
  while (!(await isLoopbackUp(at))) {
    if (performance.now() >= deadline) throw new NetlinkError("use the loopback device", "ENETDOWN", LO_DOWN);
    await delay(LOOPBACK_POLL_MS);
  }
}

/**
 * IPv6 rules are left out only where nothing can use IPv6. With IPv6 off on the loopback device alone they stand
 * without a route: the pod's IPv6 traffic then fails, which is better than passing the mesh by.
 */
export async function familiesOf(
  netns: Netns,
  {
    routing,
    ipv6,
    at = netns.fd,
  }: { readonly routing: RoutingState; readonly ipv6: boolean; readonly at?: NetnsAt },
): Promise<{ families: Family[]; skippedFamilies: SkippedFamily[] }> {
  if (!ipv6) return { families: [4], skippedFamilies: [] };
  if (routing.v6.supported) return { families: [4, 6], skippedFamilies: [] };
  const addresses = await interfaceAddresses(at);
  return addresses.some(({ family }) => family === 6)
    ? { families: [4, 6], skippedFamilies: [{ family: 6, part: "routing", reason: "IPv6 is off on lo" }] }
    : {
        families: [4],
        skippedFamilies: [{ family: 6, part: "all", reason: "IPv6 is off in the namespace" }],
      };
}
