// SPDX-License-Identifier: Apache-2.0
// The rules of a pod with a sidecar as data: which rule stands in which chain, and what it is for.
import { isIPv4 } from "node:net";
import { bounds } from "../bounds/bounds.ts";
import type { Family } from "../netfilter/family.ts";
import { type SidecarOptions, SidecarOptionsError } from "./sidecar-options.ts";

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
const PROXY_OUTBOUND = "15001";
const PROXY_INBOUND = "15006";
const TUNNEL = "15008";
const PROXY_DNS = "15053";
/**
 * Of packets for the proxy that keep their address, and of the proxy's own that look like a client's; and of those that the proxy sends to
 * the pod's own address. Source: Istio documentation, INBOUND_TPROXY_MARK; istio/istio tools/istio-iptables/pkg/constants, OutboundMark.
 */
export const TPROXY_MARK = 1337;
const OWN_ADDRESS_MARK = 1338;
/** Where a proxy's own connections to the app come from. Source: istio/istio pilot/pkg/networking/core, the inbound passthrough cluster. */
const PASSTHROUGH: Readonly<Record<Family, string>> = { 4: "127.0.0.6/32", 6: "::6/128" };
const LOOPBACK: Readonly<Record<Family, string>> = { 4: "127.0.0.1/32", 6: "::1/128" };

const TCP = ["-p", "tcp"];
const UDP = ["-p", "udp"];
const LO = ["-o", "lo"];
const RETURN = ["-j", "RETURN"];
const MARKED = ["-m", "mark", "--mark", hex(TPROXY_MARK)];

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

function mangleRules(options: SidecarOptions, family: Family): SidecarRule[] {
  const isTproxy = capturesInbound(options) && options.mode === "TPROXY";
  return [
    ...(isTproxy ? excludedInterfaces(options, { table: "mangle", inbound: true }) : []),
    ...(options.dropInvalid ? dropRules() : []),
    ...(isTproxy ? [...tproxyInbound(options, family), ...tproxyOutbound(options, family)] : []),
  ];
}

function dropRules(): SidecarRule[] {
  const rule = ruleOf("mangle");
  return [
    rule("ISTIO_INBOUND", ["-m", "conntrack", "--ctstate", "INVALID", "-j", "ISTIO_DROP"], {
      comment:
        "what belongs to no connection, such as a packet outside of its window, is not answered with a reset",
    }),
    rule("ISTIO_DROP", ["-j", "DROP"], { comment: "but goes nowhere" }),
  ];
}

/** Inbound connections reach the proxy with both of their addresses. */
function tproxyInbound(options: SidecarOptions, family: Family): SidecarRule[] {
  const rule = ruleOf("mangle");
  const { includeInboundPorts, excludeInboundPorts } = options;
  const lead = (match: readonly string[]) => [
    rule(
      "ISTIO_INBOUND",
      [...TCP, ...match, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ISTIO_DIVERT"],
      { comment: "packets of connections that are open find the proxy's socket by their mark" },
    ),
    rule("ISTIO_INBOUND", [...TCP, ...match, "-j", "ISTIO_TPROXY"], {
      comment: "new connections are given to the proxy as they are",
    }),
  ];
  return [
    rule("ISTIO_INBOUND", [...TCP, ...MARKED, "-j", "CONNMARK", "--save-mark", ...fullMasks()], {
      comment:
        "a connection that the proxy opens in a client's name is marked, so that answers find the proxy",
    }),
    rule("ISTIO_INBOUND", [...TCP, ...MARKED, ...RETURN], { comment: "and is not led to the proxy again" }),
    rule("ISTIO_INBOUND", ["-s", PASSTHROUGH[family], "-i", "lo", ...TCP, ...RETURN], {
      comment: "connections of the proxy to the app",
    }),
    rule(
      "ISTIO_INBOUND",
      ["-i", "lo", ...TCP, "-m", "mark", "!", "--mark", hex(OWN_ADDRESS_MARK), ...RETURN],
      { comment: "an app that calls itself by the pod's address, unless the proxy does it in its place" },
    ),
    ...(includeInboundPorts === "*"
      ? [...returnPorts("mangle", excludeInboundPorts), ...lead([])]
      : includeInboundPorts.flatMap((port) => lead(dport("tcp", port)))),
    rule("ISTIO_DIVERT", ["-j", "MARK", "--set-xmark", `${hex(TPROXY_MARK)}/0xffffffff`], {
      comment: "the mark's route leads to this namespace's own sockets",
    }),
    rule("ISTIO_DIVERT", ["-j", "ACCEPT"], { comment: "whatever else is asked behind" }),
    rule(
      "ISTIO_TPROXY",
      [
        ...["!", "-d", LOOPBACK[family], ...TCP, "-j", "TPROXY"],
        ...["--on-port", PROXY_INBOUND, "--tproxy-mark", `${hex(TPROXY_MARK)}/0xffffffff`],
      ],
      { comment: "the proxy listens for all addresses" },
    ),
  ];
}

function tproxyOutbound(options: SidecarOptions, family: Family): SidecarRule[] {
  const rule = ruleOf("mangle");
  const setMark = ["-j", "MARK", "--set-xmark", `${hex(OWN_ADDRESS_MARK)}/0xffffffff`];
  return [
    ...excludedInterfaces(options, { table: "mangle", inbound: false }),
    rule("ISTIO_OUTPUT_TPROXY", [...LO, ...TCP, ...MARKED, ...RETURN], {
      comment: "the proxy's connections to the app keep the mark that they have",
    }),
    ...ownersOf(options).map((owner) =>
      rule("ISTIO_OUTPUT_TPROXY", ["!", "-d", LOOPBACK[family], ...LO, ...TCP, ...owner.is, ...setMark], {
        comment: "an app that calls itself through the proxy is inbound once more",
      }),
    ),
    rule(
      "ISTIO_OUTPUT_TPROXY",
      [
        ...[...TCP, "-m", "connmark", "--mark", hex(TPROXY_MARK)],
        ...["-j", "CONNMARK", "--restore-mark", ...fullMasks()],
      ],
      { comment: "answers of the app on such connections are led to the proxy's socket" },
    ),
  ];
}

function natRules(options: SidecarOptions, family: Family): SidecarRule[] {
  const rule = ruleOf("nat");
  return [
    ...natInbound(options, family),
    rule("ISTIO_IN_REDIRECT", [...TCP, "-j", "REDIRECT", "--to-ports", PROXY_INBOUND], {
      comment: "to where the proxy takes inbound connections",
    }),
    ...natOutbound(options, family),
    rule("ISTIO_REDIRECT", [...TCP, "-j", "REDIRECT", "--to-ports", PROXY_OUTBOUND], {
      comment: "to where the proxy takes outbound connections",
    }),
  ];
}

function natInbound(options: SidecarOptions, family: Family): SidecarRule[] {
  const rule = ruleOf("nat");
  const { virtualInterfaces, includeInboundPorts, excludeInboundPorts, mode } = options;
  const ranges = outboundRanges(options, family);
  const rerouted = virtualInterfaces.flatMap((name) => [
    ...ranges.map((range) =>
      rule("ISTIO_INBOUND", [...range, "-i", name, "-j", "ISTIO_REDIRECT"], {
        comment: "what a virtual machine behind this interface sends is outbound",
      }),
    ),
    rule("ISTIO_INBOUND", ["-i", name, ...RETURN], { comment: "and never inbound" }),
  ]);
  if (!capturesInbound(options) || mode === "TPROXY") return rerouted;
  return [
    ...rerouted,
    ...excludedInterfaces(options, { table: "nat", inbound: true }),
    rule("ISTIO_INBOUND", [...TCP, ...dport("tcp", TUNNEL), ...RETURN], {
      comment: "the proxy listens for HBONE by itself",
    }),
    ...(includeInboundPorts === "*"
      ? [
          ...returnPorts("nat", excludeInboundPorts),
          rule("ISTIO_INBOUND", [...TCP, "-j", "ISTIO_IN_REDIRECT"], {
            comment: "all other TCP that arrives goes through the proxy",
          }),
        ]
      : includeInboundPorts.map((port) =>
          rule("ISTIO_INBOUND", [...TCP, ...dport("tcp", port), "-j", "ISTIO_IN_REDIRECT"], {
            comment: "a port that the pod names",
          }),
        )),
  ];
}

function natOutbound(options: SidecarOptions, family: Family): SidecarRule[] {
  const rule = ruleOf("nat");
  const { excludeOutboundPorts, includeOutboundPorts, excludeOutboundCidrs, dnsCapture } = options;
  const toProxy = ["-j", "ISTIO_REDIRECT"];
  return [
    ...excludedInterfaces(options, { table: "nat", inbound: false }),
    ...excludeOutboundPorts.flatMap((port) =>
      (["tcp", "udp"] as const).map((protocol) =>
        rule("ISTIO_OUTPUT", ["-p", protocol, ...dport(protocol, port), ...RETURN], {
          comment: "a port that the pod leaves out",
        }),
      ),
    ),
    rule("ISTIO_OUTPUT", ["-s", PASSTHROUGH[family], ...LO, ...RETURN], {
      comment: "connections of the proxy to the app",
    }),
    ...ownersOf(options).flatMap((owner) => ownerRules(owner, options, family)),
    ...(dnsCapture ? natDns() : []),
    rule("ISTIO_OUTPUT", ["-d", LOOPBACK[family], ...RETURN], {
      comment: "who calls the loopback address means it",
    }),
    ...ofFamily(excludeOutboundCidrs, family).map((cidr) =>
      rule("ISTIO_OUTPUT", ["-d", cidr, ...RETURN], { comment: "a range that the pod leaves out" }),
    ),
    ...includeOutboundPorts.map((port) =>
      rule("ISTIO_OUTPUT", [...TCP, ...dport("tcp", port), ...toProxy], {
        comment: "a port that the pod names, whatever the address",
      }),
    ),
    ...outboundRanges(options, family).map((range) =>
      rule("ISTIO_OUTPUT", [...range, ...toProxy], {
        comment: "TCP that the pod sends goes through the proxy",
      }),
    ),
  ];
}

/** What the proxy sends goes out as it is, but for an app that calls itself through the proxy. */
function ownerRules(owner: Owner, options: SidecarOptions, family: Family): SidecarRule[] {
  const rule = ruleOf("nat");
  const { dnsCapture } = options;
  // an agent's own question over TCP would be inbound for the proxy; Istio looks at it for the user alone
  const notInbound =
    dnsCapture && owner.isUser
      ? ["-m", "multiport", "!", "--dports", `53,${TUNNEL}`]
      : ["-m", "tcp", "!", "--dport", TUNNEL];
  const notDns = dnsCapture ? [...TCP, "-m", "tcp", "!", "--dport", "53"] : [];
  return [
    rule(
      "ISTIO_OUTPUT",
      ["!", "-d", LOOPBACK[family], ...LO, ...TCP, ...notInbound, ...owner.is, "-j", "ISTIO_IN_REDIRECT"],
      { comment: "an app that calls itself by a service goes through the proxy twice, out and in" },
    ),
    ...(namesLoopback(options)
      ? []
      : [
          rule("ISTIO_OUTPUT", [...LO, ...notDns, ...owner.isNot, ...RETURN], {
            comment: "an app that calls itself by the pod's address stays inside the pod",
          }),
        ]),
    rule("ISTIO_OUTPUT", [...owner.is, ...RETURN], { comment: "the proxy's own traffic goes out as it is" }),
  ];
}

function natDns(): SidecarRule[] {
  const rule = ruleOf("nat");
  const toAgent = ["-j", "REDIRECT", "--to-ports", PROXY_DNS];
  return [
    rule("ISTIO_OUTPUT", ["-j", "ISTIO_OUTPUT_DNS"], {
      comment: "DNS is looked at before any range or port",
    }),
    ...(["tcp", "udp"] as const).map((protocol) =>
      rule("ISTIO_OUTPUT_DNS", ["-p", protocol, ...dport(protocol, 53), ...toAgent], {
        comment: "queries are answered by the agent beside the proxy",
      }),
    ),
  ];
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

/** Packets on these interfaces are not looked at. */
function excludedInterfaces(
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

function returnPorts(table: "mangle" | "nat", ports: readonly number[]): SidecarRule[] {
  return ports.map((port) =>
    ruleOf(table)("ISTIO_INBOUND", [...TCP, ...dport("tcp", port), ...RETURN], {
      comment: "a port that the pod leaves out, or of the proxy's own",
    }),
  );
}

function capturesInbound({ includeInboundPorts }: SidecarOptions): boolean {
  return includeInboundPorts === "*" || includeInboundPorts.length > 0;
}

/** Matches for what goes to the proxy whatever its port; none where nothing does. */
function outboundRanges({ includeOutboundCidrs }: SidecarOptions, family: Family): string[][] {
  if (includeOutboundCidrs === "*") return [[]];
  return ofFamily(includeOutboundCidrs, family).map((cidr) => ["-d", cidr]);
}

function ofFamily(cidrs: readonly string[], family: Family): string[] {
  return cidrs.filter((cidr) => isIPv4(cidr.split("/", 1)[0] ?? "") === (family === 4));
}

/** An app's calls to its own loopback addresses are asked for by range. */
function namesLoopback({ includeOutboundCidrs }: SidecarOptions): boolean {
  return includeOutboundCidrs !== "*" && includeOutboundCidrs.some((cidr) => /^(127\.|::1\/)/.test(cidr));
}

/** Whose packets are the proxy's. */
interface Owner {
  readonly isUser: boolean;
  readonly is: readonly string[];
  readonly isNot: readonly string[];
}

function ownersOf({ proxyUid, proxyGid }: SidecarOptions): Owner[] {
  return [
    { isUser: true, option: "--uid-owner", id: proxyUid },
    { isUser: false, option: "--gid-owner", id: proxyGid },
  ].map(({ isUser, option, id }) => ({
    isUser,
    is: ["-m", "owner", option, `${id}`],
    isNot: ["-m", "owner", "!", option, `${id}`],
  }));
}

function dport(protocol: "tcp" | "udp", port: number | string): string[] {
  return ["-m", protocol, "--dport", `${port}`];
}

function fullMasks(): string[] {
  return ["--nfmask", "0xffffffff", "--ctmask", "0xffffffff"];
}

function hex(mark: number): string {
  return `0x${mark.toString(16)}`;
}

function ruleOf(table: SidecarTableName) {
  return (
    chain: ChainName,
    args: readonly string[],
    { comment }: { readonly comment: string },
  ): SidecarRule => ({ table, chain, args, comment });
}
