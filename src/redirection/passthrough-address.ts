// SPDX-License-Identifier: Apache-2.0
// The address from which a sidecar opens its own connections to the app over IPv6.
import { setTimeout as delay } from "node:timers/promises";
import type { InterfaceAddress } from "../linux/netlink/interface-addresses.ts";
import { ensureLoopbackAddress } from "../linux/netlink/loopback-address.ts";
import type { NetnsAt } from "../linux/netns-visit.ts";
import { untilLoopbackUp } from "./pod-routing.ts";

/**
 * IPv4 has a range of loopback addresses for it, IPv6 has not.
 * Source: istio/istio tools/common/tproxy, configureIPv6Addresses; pilot, the inbound passthrough cluster.
 */
export const PASSTHROUGH_V6 = "::6";
/** The loopback device is the first of every namespace. */
const LO_INDEX = 1;
/** From when the loopback plugin brings the device up until it has looked: its whole run takes 5 to 10 ms, on a busy machine 45 ms. */
const PLUGIN_ENDS_MS = 100;

/**
 * Gives "lo" the address; that it has it already is success. In a new namespace it waits until the loopback plugin, which containerd runs
 * beside the chain, has brought the device up and looked at it: an address that is no loopback address fails that plugin, and the pod's
 * sandbox with it. Source: containernetworking/plugins plugins/main/loopback/loopback.go, cmdAdd.
 * @param options.addresses of the namespace, as they were seen just now @param options.isNew the runtime made it just now
 * @throws NetlinkError ENETDOWN when the device stays down for 5 s; as {@link ensureLoopbackAddress}
 */
export async function ensurePassthroughAddress(
  at: NetnsAt,
  { addresses, isNew }: { readonly addresses: readonly InterfaceAddress[]; readonly isNew: boolean },
): Promise<void> {
  // the kernel gives the device its own address when it comes up
  const isUp = addresses.some(({ ifindex, address }) => ifindex === LO_INDEX && address === "::1");
  if (isNew && !isUp) {
    await untilLoopbackUp(at);
    await delay(PLUGIN_ENDS_MS);
  }
  await ensureLoopbackAddress(at, PASSTHROUGH_V6);
}
