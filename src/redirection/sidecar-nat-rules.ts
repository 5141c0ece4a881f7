// SPDX-License-Identifier: Apache-2.0
// The rules of table nat for a pod with a sidecar: which connections go to the proxy, in which order they are asked.
import { isIPv4 } from "node:net";
import type { Family } from "../netfilter/family.ts";
import type { SidecarOptions } from "./sidecar-options.ts";
import {
  capturesInbound,
  dport,
  excludedInterfaces,
  LO,
  LOOPBACK,
  ownersOf,
  PASSTHROUGH,
  PROXY_DNS,
  PROXY_INBOUND,
  PROXY_OUTBOUND,
  type ProxyOwner,
  RETURN,
  returnPorts,
  ruleOf,
  type SidecarRule,
  TCP,
  TUNNEL,
} from "./sidecar-rule.ts";

/** In their order; the proxy has its two chains in any case. */
export function natRules(options: SidecarOptions, family: Family): SidecarRule[] {
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
function ownerRules(owner: ProxyOwner, options: SidecarOptions, family: Family): SidecarRule[] {
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
