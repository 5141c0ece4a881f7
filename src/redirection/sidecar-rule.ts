// SPDX-License-Identifier: Apache-2.0
// One rule of a pod with a sidecar, the chains that can hold it, and what the rules of several tables are made of.
import type { Family } from "../netfilter/family.ts";
import type { SidecarOptions } from "./sidecar-options.ts";

/** Tables that can hold a sidecar's chains, in the order in which they are written. */
export const SIDECAR_TABLE_NAMES = ["mangle", "nat", "raw"] as const;
export type SidecarTableName = (typeof SIDECAR_TABLE_NAMES)[number];

/** A chain, and the built-in chain that jumps to it; without one only rules of ours lead there. */
export interface SidecarChain {
  readonly chain: ChainName;
  readonly hook?: "PREROUTING" | "OUTPUT";
}

type ChainName =
  | "ISTIO_INBOUND"
  | "ISTIO_IN_REDIRECT"
  | "ISTIO_OUTPUT"
  | "ISTIO_REDIRECT"
  | "ISTIO_OUTPUT_DNS"
  | "ISTIO_OUTPUT_TPROXY"
  | "ISTIO_DIVERT"
  | "ISTIO_TPROXY"
  | "ISTIO_DROP";

/**
 * All chains that can be there. They are called as Istio's; what Istio has beside them in built-in chains themselves stands at the same
 * place in the chain that is jumped to from there, so that all of it is told by name. ISTIO_OUTPUT of table mangle is ambient mode's.
 * Source: istio/istio tools/istio-iptables/pkg/constants; pkg/capture/run.go.
 */
export const SIDECAR_CHAINS: Readonly<Record<SidecarTableName, readonly SidecarChain[]>> = {
  mangle: [
    { chain: "ISTIO_INBOUND", hook: "PREROUTING" },
    { chain: "ISTIO_DROP" },
    { chain: "ISTIO_DIVERT" },
    { chain: "ISTIO_TPROXY" },
    { chain: "ISTIO_OUTPUT_TPROXY", hook: "OUTPUT" },
  ],
  nat: [
    { chain: "ISTIO_INBOUND", hook: "PREROUTING" },
    { chain: "ISTIO_IN_REDIRECT" },
    { chain: "ISTIO_OUTPUT", hook: "OUTPUT" },
    { chain: "ISTIO_OUTPUT_DNS" },
    { chain: "ISTIO_REDIRECT" },
  ],
  raw: [
    { chain: "ISTIO_INBOUND", hook: "PREROUTING" },
    { chain: "ISTIO_OUTPUT_DNS", hook: "OUTPUT" },
  ],
};

/** One rule of one chain. */
export interface SidecarRule {
  readonly table: SidecarTableName;
  readonly chain: ChainName;
  /** Everything that follows `-A CHAIN`. */
  readonly args: readonly string[];
  readonly comment: string;
}

// Source: Istio documentation, "Ports used by Istio".
export const PROXY_OUTBOUND = "15001";
export const PROXY_INBOUND = "15006";
export const TUNNEL = "15008";
export const PROXY_DNS = "15053";
/**
 * Of packets for the proxy that keep their address, and of the proxy's own that look like a client's; and of those that the proxy sends to
 * the pod's own address. Source: Istio documentation, INBOUND_TPROXY_MARK; istio/istio tools/istio-iptables/pkg/constants, OutboundMark.
 */
export const TPROXY_MARK = 1337;
export const OWN_ADDRESS_MARK = 1338;
/** Where a proxy's own connections to the app come from. Source: istio/istio pilot/pkg/networking/core, the inbound passthrough cluster. */
export const PASSTHROUGH: Readonly<Record<Family, string>> = { 4: "127.0.0.6/32", 6: "::6/128" };
export const LOOPBACK: Readonly<Record<Family, string>> = { 4: "127.0.0.1/32", 6: "::1/128" };

export const TCP = ["-p", "tcp"];
export const UDP = ["-p", "udp"];
export const LO = ["-o", "lo"];
export const RETURN = ["-j", "RETURN"];
export const MARKED = ["-m", "mark", "--mark", hex(TPROXY_MARK)];

/** Packets on these interfaces are not looked at. */
export function excludedInterfaces(
  { excludeInterfaces }: SidecarOptions,
  { table, inbound }: { readonly table: "mangle" | "nat"; readonly inbound: boolean },
): SidecarRule[] {
  const outbound = table === "nat" ? "ISTIO_OUTPUT" : "ISTIO_OUTPUT_TPROXY";
  return excludeInterfaces.map((name) =>
    ruleOf(table)(inbound ? "ISTIO_INBOUND" : outbound, [inbound ? "-i" : "-o", name, ...RETURN], {
      comment: "an interface that the pod leaves out",
    }),
  );
}

/** Inbound connections to these ports are not looked at. */
export function returnPorts(table: "mangle" | "nat", ports: readonly number[]): SidecarRule[] {
  return ports.map((port) =>
    ruleOf(table)("ISTIO_INBOUND", [...TCP, ...dport("tcp", port), ...RETURN], {
      comment: "a port that the pod leaves out, or of the proxy's own",
    }),
  );
}

/** Whether any inbound connection goes to the proxy. */
export function capturesInbound({ includeInboundPorts }: SidecarOptions): boolean {
  return includeInboundPorts === "*" || includeInboundPorts.length > 0;
}

/** Whose packets are the proxy's. */
export interface ProxyOwner {
  readonly isUser: boolean;
  readonly is: readonly string[];
  readonly isNot: readonly string[];
}

/** The user first, for which more is asked. */
export function ownersOf({ proxyUid, proxyGid }: SidecarOptions): ProxyOwner[] {
  return [
    { isUser: true, option: "--uid-owner", id: proxyUid },
    { isUser: false, option: "--gid-owner", id: proxyGid },
  ].map(({ isUser, option, id }) => ({
    isUser,
    is: ["-m", "owner", option, `${id}`],
    isNot: ["-m", "owner", "!", option, `${id}`],
  }));
}

/** The match of a destination port; `-p` stands before it. */
export function dport(protocol: "tcp" | "udp", port: number | string): string[] {
  return ["-m", protocol, "--dport", `${port}`];
}

/** As iptables prints a mark. */
export function hex(mark: number): string {
  return `0x${mark.toString(16)}`;
}

/** What makes rules of one table. */
export function ruleOf(table: SidecarTableName) {
  return (
    chain: ChainName,
    args: readonly string[],
    { comment }: { readonly comment: string },
  ): SidecarRule => ({ table, chain, args, comment });
}
