// SPDX-License-Identifier: Apache-2.0
// What an istio-cni with NATIVE_NFTABLES tells nft for a pod, as data: its chains, and its rules in their order.
// Source: istio/istio cni/pkg/nftables/nftables.go, and cni/pkg/nftables/testdata.
import type { Family } from "../../src/netfilter/family.ts";
import type { RedirectOptions } from "../../src/redirection/rules.ts";

type Chain = "istio-prerouting" | "istio-output";
/** A rule of both families, or of one. */
type Rule = readonly [table: string, chain: Chain, text: string, family?: Family];

const BASES = {
  nat: { prerouting: "type nat hook prerouting priority -100", output: "type nat hook output priority -100" },
  mangle: {
    prerouting: "type filter hook prerouting priority -150",
    output: "type route hook output priority -150",
  },
  raw: {
    prerouting: "type filter hook prerouting priority -300",
    output: "type filter hook output priority -300",
  },
} as const;
const PRE = "istio-prerouting";
const OUT = "istio-output";
const toZtunnel = "meta mark and 0xfff != 0x539";

/** The input of `nft -f`. */
export function istioNativeText(options: RedirectOptions, families: readonly Family[]): string {
  const rules = rulesOf(options).filter(
    ([, , , family]) => family === undefined || families.includes(family),
  );
  return (["nat", "mangle", "raw"] as const)
    .filter((table) => rules.some((rule) => rule[0] === table))
    .map((table) => {
      const place = `inet istio-ambient-${table}`;
      const bases = Object.entries(BASES[table]);
      return [
        `add table ${place}`,
        `flush table ${place}`,
        ...bases.map(([name, base]) => `add chain ${place} ${name} { ${base} ; }`),
        ...bases.map(([name]) => `add chain ${place} istio-${name}`),
        ...bases.map(([name]) => `add rule ${place} ${name} jump istio-${name}`),
        ...rules
          .filter((rule) => rule[0] === table)
          .map(([, chain, text]) => `add rule ${place} ${chain} ${text}`),
      ].join("\n");
    })
    .join("\n");
}

function rulesOf(options: RedirectOptions): Rule[] {
  const { probeSnatV4: v4, probeSnatV6: v6, ingressMode } = options;
  return [
    ...options.virtualInterfaces.flatMap((name): Rule[] => [
      ["nat", PRE, `iifname ${name} meta l4proto tcp counter redirect to :15001`],
      ["nat", PRE, `iifname ${name} meta l4proto tcp counter return`],
    ]),
    ["mangle", PRE, "meta mark & 0xfff == 0x539 counter ct mark set ct mark & 0xfffff000 | 0x111"],
    ["mangle", OUT, "ct mark and 0xfff == 0x111 counter meta mark set ct mark"],
    ...(ingressMode ? [] : inbound(v4, v6)),
    ["nat", OUT, `meta l4proto tcp ip daddr ${v4} counter accept`, 4],
    ["nat", OUT, `meta l4proto tcp ip6 daddr ${v6} counter accept`, 6],
    ...(options.dnsCapture ? dns : []),
    ["nat", OUT, "meta l4proto tcp mark and 0xfff == 0x111 counter accept"],
    ["nat", OUT, "oifname lo ip daddr != 127.0.0.1/32 counter accept", 4],
    ["nat", OUT, "oifname lo ip6 daddr != ::1/128 counter accept", 6],
    ["nat", OUT, `meta l4proto tcp ip daddr != 127.0.0.1/32 ${toZtunnel} counter redirect to :15001`, 4],
    ["nat", OUT, `meta l4proto tcp ip6 daddr != ::1/128 ${toZtunnel} counter redirect to :15001`, 6],
  ];
}

function inbound(v4: string, v6: string): Rule[] {
  return [
    ["nat", PRE, `meta l4proto tcp ip saddr ${v4} counter accept`, 4],
    ["nat", PRE, `meta l4proto tcp ip6 saddr ${v6} counter accept`, 6],
    ["nat", PRE, `ip daddr != 127.0.0.1/32 tcp dport != 15008 ${toZtunnel} counter redirect to :15006`, 4],
    ["nat", PRE, `ip6 daddr != ::1/128 tcp dport != 15008 ${toZtunnel} counter redirect to :15006`, 6],
  ];
}

const dns: Rule[] = [
  ["nat", OUT, `oifname != lo ${toZtunnel} udp dport 53 counter redirect to :15053`],
  ["nat", OUT, `ip daddr != 127.0.0.1/32 tcp dport 53 ${toZtunnel} counter redirect to :15053`, 4],
  ["nat", OUT, `ip6 daddr != ::1/128 tcp dport 53 ${toZtunnel} counter redirect to :15053`, 6],
  ["raw", OUT, "udp dport 53 meta mark and 0xfff == 0x539 counter ct zone set 1"],
  ["raw", PRE, `udp sport 53 ${toZtunnel} counter ct zone set 1`],
];
