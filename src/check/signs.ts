// SPDX-License-Identifier: Apache-2.0
// Whether an ambient agent, ours or another, wrote in a namespace.
import { hasRouting, readRedirectRouting } from "../linux/netlink/rtnetlink.ts";
import type { Netns } from "../linux/netns.ts";
import { NetnsVisit } from "../linux/netns-visit.ts";
import { allDone } from "../loop/all-done.ts";
import { findChains, findLegacyChains } from "../netfilter/find-chains.ts";
import { LegacyEngine } from "../netfilter/legacy/legacy-engine.ts";
import { findNativeTables } from "../netfilter/native/native-tables.ts";
import { NftEngine } from "../netfilter/nft/nft-engine.ts";
import type { RuleEngine } from "../netfilter/rule-engine.ts";
import { TABLE_NAMES } from "../redirection/rules.ts";
import { REDIRECT_TABLES } from "../redirection/told-redirection.ts";

/**
 * Chains that no sidecar has: ISTIO_OUTPUT of table nat is a sidecar's too, and must stay there.
 * Source: istio/istio tools/istio-iptables pkg/constants.
 */
const TELLING = ([4, 6] as const).flatMap((family) => [
  ...TABLE_NAMES.map((table) => ({ family, table, chain: "ISTIO_PRERT" })),
  { family, table: "mangle", chain: "ISTIO_OUTPUT" },
]);

const own = REDIRECT_TABLES;
const reading = { own, program: undefined, timeoutMs: 0, assertUsable: () => {} };
const nft = new NftEngine(reading);
const legacy = new LegacyEngine(reading);

/**
 * Whether there is a sign of a capture: ip rule or route, which are written first and removed last, a table or a chain that only ambient
 * mode has, with rules that only it has. One visit of the namespace, and a look at x_tables, where nothing is there.
 * @throws NetlinkError, NativeError when the kernel cannot be asked
 */
export async function isTouched(netns: Netns): Promise<boolean> {
  const visit = new NetnsVisit({ fd: netns.fd });
  const [routing, [tables, chains]] = await allDone([
    readRedirectRouting(visit, { v6: true }),
    Promise.allSettled([findNativeTables(visit), findChains(visit, TELLING)]),
  ]);
  // whatever else can be asked
  if (hasRouting(routing) || foundIn(tables).length > 0) return true;
  if (foundIn(chains).length > 0 && (await holdsOurs(nft, netns))) return true;
  return (await findLegacyChains(netns.fd, TELLING)).length > 0 && (await holdsOurs(legacy, netns));
}

function foundIn<T>(found: PromiseSettledResult<readonly T[]>): readonly T[] {
  if (found.status === "rejected") throw found.reason;
  return found.value;
}

/** A name is a reason to look; what stands in the chains says whose they are. */
async function holdsOurs(engine: Pick<RuleEngine, "present">, netns: Netns): Promise<boolean> {
  return (await engine.present({ netns })).length > 0;
}
