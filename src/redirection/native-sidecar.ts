// SPDX-License-Identifier: Apache-2.0
// Where a sidecar's rules stand in nf_tables when no iptables is used: named as istio-cni names them in this mode.
import type { Family } from "../netfilter/family.ts";
import type { NativeBase, NativeChainLayout, NativeLayout } from "../netfilter/native/native-layout.ts";
import { nativeTables, printTables } from "../netfilter/native/native-rules.ts";
import type { SidecarOptions } from "./sidecar-options.ts";
import { SIDECAR_CHAINS, type SidecarChain, type SidecarTableName } from "./sidecar-rule.ts";
import { toldSidecar } from "./told-sidecar.ts";

type Bases = Readonly<Record<NonNullable<SidecarChain["hook"]>, NativeBase>>;

/** Source: istio/istio tools/istio-nftables/pkg/capture/run.go, addIstioNatTableRules, …MangleTableRules, …RawTableRules. */
const BASES: Readonly<Record<SidecarTableName, Bases>> = {
  mangle: basesAt(-150, { prerouting: "filter", output: "route" }),
  nat: basesAt(-100, { prerouting: "nat", output: "nat" }),
  raw: basesAt(-300, { prerouting: "filter", output: "filter" }),
};

/** Source: istio/istio tools/istio-nftables/pkg/constants/constants.go. */
const CHAIN_NAMES: Readonly<Record<SidecarChain["chain"], string>> = {
  ISTIO_INBOUND: "istio-inbound",
  ISTIO_IN_REDIRECT: "istio-in-redirect",
  ISTIO_OUTPUT: "istio-output",
  ISTIO_REDIRECT: "istio-redirect",
  ISTIO_OUTPUT_DNS: "istio-output-dns",
  // what Istio has in the base chain itself; the table is the sidecar's alone, so that no other mode has such a chain in it
  ISTIO_OUTPUT_TPROXY: "istio-output",
  ISTIO_DIVERT: "istio-divert",
  ISTIO_TPROXY: "istio-tproxy",
  ISTIO_DROP: "istio-drop",
};

/**
 * All that can be a sidecar's. The rules are those that iptables is told, one for one and in the same order, but for these:
 * - base chains lead on packets of the pod's families alone, where istio-cni's redirect IPv6 of a pod whose proxy listens on IPv4 only
 * - a packet that TPROXY finds no socket for is dropped as with iptables, where istio-cni's goes on to the app, past the proxy
 * - several ports in one rule are compared one by one
 * - what no socket sent has no owner: it matches no rule about one, also none that leaves out the proxy's, as with istio-cni's
 * Source: istio/istio tools/istio-nftables/pkg/capture/run.go and pkg/constants/constants.go; linux net/netfilter/nft_meta.c.
 */
export const SIDECAR_LAYOUT: NativeLayout = (["nat", "mangle", "raw"] as const).map((table) => ({
  told: table,
  table: `istio-proxy-${table}`,
  chains: SIDECAR_CHAINS[table].map((chain) => layoutOf(chain, BASES[table])),
  isForFamilies: true,
}));

/**
 * What `nft --stateless list table` shows in a pod with these rules, one table after the other.
 * @throws {SidecarOptionsError} as sidecarRules does Source: nft 1.0.6; later versions may spell the same otherwise
 */
export function renderNativeSidecarText(options: SidecarOptions, families: readonly Family[]): string {
  return printTables(nativeTables(toldSidecar(options, families), { layout: SIDECAR_LAYOUT, families }));
}

function layoutOf({ chain: told, hook }: SidecarChain, bases: Bases): NativeChainLayout {
  const chain = CHAIN_NAMES[told];
  return hook === undefined ? { told, chain } : { told, chain, base: bases[hook] };
}

function basesAt(
  priority: number,
  types: Readonly<Record<"prerouting" | "output", NativeBase["hook"]["type"]>>,
): Bases {
  const base = (hook: "prerouting" | "output"): NativeBase => ({
    chain: hook,
    hook: { type: types[hook], hook, priority },
  });
  return { PREROUTING: base("prerouting"), OUTPUT: base("output") };
}
