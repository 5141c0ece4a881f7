// SPDX-License-Identifier: Apache-2.0
// Whether an ambient agent, ours or another, wrote in a namespace.
import { hasRouting, readRedirectRouting } from "../linux/netlink/rtnetlink.ts";
import type { Netns } from "../linux/netns.ts";
import { NetnsVisit } from "../linux/netns-visit.ts";
import { allDone } from "../loop/all-done.ts";
import { findChains, findLegacyChains } from "../netfilter/find-chains.ts";
import { findNativeTables } from "../netfilter/native/native-tables.ts";
import { TABLE_NAMES } from "../redirection/rules.ts";

/**
 * Chains that no sidecar has: ISTIO_OUTPUT of table nat is a sidecar's too, and must stay there.
 * Source: istio/istio tools/istio-iptables pkg/constants.
 */
const TELLING = ([4, 6] as const).flatMap((family) => [
  ...TABLE_NAMES.map((table) => ({ family, table, chain: "ISTIO_PRERT" })),
  { family, table: "mangle", chain: "ISTIO_OUTPUT" },
]);

/**
 * Whether there is a sign of a capture: ip rule or route, which are written first and removed last, a table or a chain that only ambient
 * mode has. One visit of the namespace, and a look at x_tables.
 * @throws NetlinkError, NativeError when the kernel cannot be asked
 */
export async function isTouched(netns: Netns): Promise<boolean> {
  const visit = new NetnsVisit({ fd: netns.fd });
  const [routing, own] = await allDone([
    readRedirectRouting(visit, { v6: true }),
    Promise.allSettled([findNativeTables(visit), findChains(visit, TELLING)]),
  ]);
  // whatever else can be asked
  if (hasRouting(routing)) return true;
  for (const found of own) {
    if (found.status === "rejected") throw found.reason;
    if (found.value.length > 0) return true;
  }
  return (await findLegacyChains(netns.fd, TELLING)).length > 0;
}
