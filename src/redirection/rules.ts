// SPDX-License-Identifier: Apache-2.0
// The redirection rules of one pod as data: which rule stands in which chain, and what it is for.
import { isIPv4, isIPv6 } from "node:net";
import type { Family } from "../netfilter/family.ts";

/** Tables that can hold our chains, in the order in which they are written. */
export const TABLE_NAMES = ["mangle", "nat", "raw"] as const;
export type TableName = (typeof TABLE_NAMES)[number];

/** Our chains and the built-in chain that jumps to each of them. */
export const CHAIN_HOOKS = { ISTIO_PRERT: "PREROUTING", ISTIO_OUTPUT: "OUTPUT" } as const;
export type ChainName = keyof typeof CHAIN_HOOKS;
export const CHAIN_NAMES: readonly ChainName[] = ["ISTIO_PRERT", "ISTIO_OUTPUT"];

/** What can differ from pod to pod. */
export interface RedirectOptions {
  readonly dnsCapture: boolean;
  /** Ingress mode (`ambient.istio.io/bypass-inbound-capture`): plaintext inbound traffic goes straight to the app. */
  readonly ingressMode: boolean;
  /** Interfaces whose incoming TCP counts as outbound traffic; at most 15 characters each. */
  readonly virtualInterfaces: readonly string[];
  /** Source address of kubelet probes as the pod sees them, per family. */
  readonly probeSnatV4: string;
  readonly probeSnatV6: string;
  /** Default "keep". */
  readonly establishedConnections?: EstablishedConnections;
}

/**
 * What the rules do to TCP connections that are older than they are. Connection tracking begins with the rules and takes the first
 * packet that it sees of such a connection for the first of all.
 * - `keep`: only packets that open a connection are redirected; older ones go on outside the mesh until they end
 * - `reset`: istio's own rules, which redirect whatever is seen first: ztunnel does not know the connection and resets it
 */
export type EstablishedConnections = "keep" | "reset";

/** One rule of one of our chains. */
export interface RedirectRule {
  readonly table: TableName;
  readonly chain: ChainName;
  /** Everything that follows `-A CHAIN`. */
  readonly args: readonly string[];
  /** Another form that counts as this rule and is left as it is: istio's own, in a pod that istio-cni captured. */
  readonly accepted?: readonly string[];
  readonly comment: string;
}

/** Thrown when options cannot be turned into rules. */
export class RedirectOptionsError extends Error {
  override readonly name = "RedirectOptionsError";
  readonly code = "INVALID_REDIRECT_OPTIONS";
}

const ZTUNNEL_OUTBOUND = "15001";
const ZTUNNEL_INBOUND_PLAINTEXT = "15006";
const ZTUNNEL_INBOUND_HBONE = "15008";
const ZTUNNEL_DNS = "15053";
/** That of ztunnel's own packets, and that of connections that it opened; no other bits of a mark are looked at. */
export const MARKS = [0x539, 0x111] as const;
export const MARK_MASK = 0xfff;
const [ZTUNNEL_MARK, CONNECTION_MARK] = MARKS.map((mark) => `0x${mark.toString(16)}/0xfff`) as [
  string,
  string,
];
const FULL_MASK = "0xffffffff";
/** A packet that opens a connection: iptables' --syn. */
const OPENING = ["--tcp-flags", "FIN,SYN,RST,ACK", "SYN"];
const MARKED = ["-m", "mark", "--mark", ZTUNNEL_MARK];
const NOT_MARKED = ["-m", "mark", "!", "--mark", ZTUNNEL_MARK];

/**
 * The rules of one pod and family. The order within one chain of one table is significant.
 * @throws {RedirectOptionsError} for an interface name or probe address that no rule can hold.
 * Source: istio/istio cni/pkg/iptables/iptables.go AppendInpodRules; istio/istio pull request 58577 (connection mark in ingress mode).
 */
export function redirectRules(options: RedirectOptions, family: Family): RedirectRule[] {
  const probe = probeAddress(options, family);
  const notLoopback = ["!", "-d", family === 4 ? "127.0.0.1/32" : "::1/128"];
  const shared = { notLoopback, keep: keepsEstablished(options) };
  const inbound = options.ingressMode ? [] : inboundRules(probe, shared);
  return [
    ...options.virtualInterfaces.flatMap(virtualInterfaceRules),
    markRule("ISTIO_PRERT", [...MARKED, "-j", "CONNMARK", "--set-xmark", CONNECTION_MARK], {
      comment:
        "a connection that ztunnel opened is marked, so that its replies find their way back to ztunnel",
    }),
    markRule("ISTIO_OUTPUT", ["-m", "connmark", "--mark", CONNECTION_MARK, ...restoreMark()], {
      comment: "replies on a marked connection carry the mark, which routes them to ztunnel's socket",
    }),
    natRule("ISTIO_OUTPUT", ["-d", probe, "-p", "tcp", "-m", "tcp", "-j", "ACCEPT"], {
      comment: "answers to kubelet probes go out untouched",
    }),
    ...inbound,
    ...(options.dnsCapture ? dnsRules(notLoopback) : []),
    ...outboundRules(shared),
  ];
}

/** Whether connections that are older than the rules live on. */
export function keepsEstablished({ establishedConnections }: RedirectOptions): boolean {
  return establishedConnections !== "reset";
}

/** The tables in which our chains stand with these options, in the order of {@link TABLE_NAMES}. */
export function redirectTables(options: RedirectOptions): TableName[] {
  return TABLE_NAMES.filter((table) => table !== "raw" || options.dnsCapture);
}

/** Text that is equal for two sets of options exactly when they give the same rules in this family. */
export function redirectVariantKey(options: RedirectOptions, family: Family): string {
  const { dnsCapture, ingressMode, virtualInterfaces } = options;
  return JSON.stringify([
    family,
    dnsCapture,
    ingressMode,
    virtualInterfaces,
    probeAddress(options, family),
    keepsEstablished(options),
  ]);
}

/**
 * Whether a name can stand behind `-i`: the kernel's rules for device names, narrowed to characters that need no
 * quoting, with iptables' trailing `+` as wildcard. The names come from a pod annotation, so anybody can write them.
 * Source: linux net/core/dev.c dev_valid_name; iptables(8) `--in-interface`.
 */
export function isInterfaceName(name: string): boolean {
  return name.length <= 15 && /^[A-Za-z0-9_][A-Za-z0-9_.@-]*\+?$/.test(name);
}

/** What the rules in both directions have in common. */
interface Shared {
  readonly notLoopback: readonly string[];
  /** Only packets that open a connection are redirected. */
  readonly keep: boolean;
}

function inboundRules(probe: string, { notLoopback, keep }: Shared): RedirectRule[] {
  const notHbone = ["!", "--dport", ZTUNNEL_INBOUND_HBONE];
  return [
    natRule("ISTIO_PRERT", ["-s", probe, "-p", "tcp", "-m", "tcp", "-j", "ACCEPT"], {
      comment: "kubelet probes reach the app without ztunnel",
    }),
    captureRule("ISTIO_PRERT", [...notLoopback, "-p", "tcp", ...notHbone], {
      keep,
      port: ZTUNNEL_INBOUND_PLAINTEXT,
      comment: "plaintext that arrives goes through ztunnel; its own HBONE port needs no redirect",
    }),
  ];
}

function dnsRules(notLoopback: string[]): RedirectRule[] {
  return [
    natRule(
      "ISTIO_OUTPUT",
      ["!", "-o", "lo", "-p", "udp", ...NOT_MARKED, "-m", "udp", "--dport", "53", ...redirectTo(ZTUNNEL_DNS)],
      { comment: "DNS queries over UDP are answered by ztunnel" },
    ),
    natRule(
      "ISTIO_OUTPUT",
      [...notLoopback, "-p", "tcp", "--dport", "53", ...NOT_MARKED, ...redirectTo(ZTUNNEL_DNS)],
      { comment: "DNS queries over TCP are answered by ztunnel" },
    ),
    rawRule(
      "ISTIO_OUTPUT",
      ["-p", "udp", ...MARKED, "-m", "udp", "--dport", "53", "-j", "CT", "--zone", "1"],
      {
        comment: "ztunnel's own queries are tracked apart, so that their ports never collide with the app's",
      },
    ),
    rawRule(
      "ISTIO_PRERT",
      ["-p", "udp", ...NOT_MARKED, "-m", "udp", "--sport", "53", "-j", "CT", "--zone", "1"],
      {
        comment: "answers to ztunnel's own queries belong to the same zone as the queries",
      },
    ),
  ];
}

function outboundRules({ notLoopback, keep }: Shared): RedirectRule[] {
  return [
    natRule("ISTIO_OUTPUT", ["-p", "tcp", "-m", "mark", "--mark", CONNECTION_MARK, "-j", "ACCEPT"], {
      comment: "replies on connections that ztunnel opened are not redirected again",
    }),
    natRule("ISTIO_OUTPUT", [...notLoopback, "-o", "lo", "-j", "ACCEPT"], {
      comment: "an app that calls itself by the pod's address stays inside the pod",
    }),
    captureRule("ISTIO_OUTPUT", [...notLoopback, "-p", "tcp"], {
      keep,
      port: ZTUNNEL_OUTBOUND,
      comment: "all other TCP that the pod sends goes through ztunnel",
    }),
  ];
}

function virtualInterfaceRules(name: string): RedirectRule[] {
  if (!isInterfaceName(name)) {
    throw new RedirectOptionsError(
      `Cannot redirect traffic of interface ${JSON.stringify(name)}: not an interface name; ` +
        "correct the pod's annotation istio.io/reroute-virtual-interfaces",
    );
  }
  const incoming = ["-i", name, "-p", "tcp"];
  return [
    natRule("ISTIO_PRERT", [...incoming, ...redirectTo(ZTUNNEL_OUTBOUND)], {
      comment: "TCP from a virtual machine or nested container behind this interface counts as outbound",
    }),
    natRule("ISTIO_PRERT", [...incoming, "-j", "RETURN"], {
      comment: "and skips the inbound rules below",
    }),
  ];
}

function probeAddress(options: RedirectOptions, family: Family): string {
  const [address, isValid] = family === 4 ? [options.probeSnatV4, isIPv4] : [options.probeSnatV6, isIPv6];
  if (isValid(address)) return address;
  throw new RedirectOptionsError(
    `Cannot let probes pass from "${address}": not an IPv${family} address; ` +
      `correct ${family === 4 ? "HOST_PROBE_SNAT_IP" : "HOST_PROBE_SNAT_IPV6"}`,
  );
}

/** A rule that leads TCP to ztunnel; `matches` end with those of `-p tcp`. */
function captureRule(
  chain: ChainName,
  matches: readonly string[],
  { keep, port, comment }: { keep: boolean; port: string; comment: string },
): RedirectRule {
  const target = [...NOT_MARKED, ...redirectTo(port)];
  const istios = natRule(chain, [...matches, ...target], { comment });
  return keep ? { ...istios, args: [...matches, ...OPENING, ...target], accepted: istios.args } : istios;
}

function redirectTo(port: string): string[] {
  return ["-j", "REDIRECT", "--to-ports", port];
}

function restoreMark(): string[] {
  return ["-j", "CONNMARK", "--restore-mark", "--nfmask", FULL_MASK, "--ctmask", FULL_MASK];
}

function markRule(chain: ChainName, args: string[], { comment }: { comment: string }): RedirectRule {
  return { table: "mangle", chain, args, comment };
}

function natRule(chain: ChainName, args: string[], { comment }: { comment: string }): RedirectRule {
  return { table: "nat", chain, args, comment };
}

function rawRule(chain: ChainName, args: string[], { comment }: { comment: string }): RedirectRule {
  return { table: "raw", chain, args, comment };
}
