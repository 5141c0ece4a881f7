// SPDX-License-Identifier: Apache-2.0
// What an istio-cni with NATIVE_NFTABLES leaves in a captured pod and on its node, as input for `nft -f`.
// Source: istio/istio cni/pkg/nftables/nftables.go, host_sets.go.

const probe = { v4: "169.254.7.127", v6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff" };
const unmarked = "meta mark & 0xfff != 0x539";

/** Rules of one kind, with the jumps that lead to them. */
function table(
  name: string,
  options: { base: Record<"prerouting" | "output", string>; prerouting: string[]; output: string[] },
): string {
  const chains = (["prerouting", "output"] as const).map((hook) => {
    const rules = options[hook].map((rule) => `    ${rule}`).join("\n");
    return `  chain istio-${hook} {\n${rules}\n  }
  chain ${hook} {\n    ${options.base[hook]}; policy accept;\n    jump istio-${hook}\n  }`;
  });
  return `table inet istio-ambient-${name} {\n${chains.join("\n")}\n}\n`;
}

function base(
  priority: number,
  types: { prerouting: string; output: string },
): Record<keyof typeof types, string> {
  return {
    prerouting: `type ${types.prerouting} hook prerouting priority ${priority}`,
    output: `type ${types.output} hook output priority ${priority}`,
  };
}

/** Both families of rule, for the pod's own address. */
const notLoopback = ["ip daddr != 127.0.0.1", "ip6 daddr != ::1"];

/** In the pod, DNS captured. */
export const nativePodRules = [
  table("nat", {
    base: base(-100, { prerouting: "nat", output: "nat" }),
    prerouting: [
      `meta l4proto tcp ip saddr ${probe.v4} counter accept`,
      `meta l4proto tcp ip6 saddr ${probe.v6} counter accept`,
      ...notLoopback.map((to) => `${to} tcp dport != 15008 ${unmarked} counter redirect to :15006`),
    ],
    output: [
      `meta l4proto tcp ip daddr ${probe.v4} counter accept`,
      `meta l4proto tcp ip6 daddr ${probe.v6} counter accept`,
      `oifname != "lo" ${unmarked} udp dport 53 counter redirect to :15053`,
      ...notLoopback.map((to) => `${to} tcp dport 53 ${unmarked} counter redirect to :15053`),
      "meta l4proto tcp meta mark & 0xfff == 0x111 counter accept",
      ...notLoopback.map((to) => `oifname "lo" ${to} counter accept`),
      ...notLoopback.map((to) => `meta l4proto tcp ${to} ${unmarked} counter redirect to :15001`),
    ],
  }),
  table("mangle", {
    base: base(-150, { prerouting: "filter", output: "route" }),
    prerouting: ["meta mark & 0xfff == 0x539 counter ct mark set ct mark & 0xfffff000 | 0x111"],
    output: ["ct mark & 0xfff == 0x111 counter meta mark set ct mark"],
  }),
  table("raw", {
    base: base(-300, { prerouting: "filter", output: "filter" }),
    prerouting: [`udp sport 53 ${unmarked} counter ct zone set 1`],
    output: ["udp dport 53 meta mark & 0xfff == 0x539 counter ct zone set 1"],
  }),
].join("");

/** On the node, for the probes of a kubelet that runs as root. */
export const nativeHostRules = `table inet istio-ambient-nat {
  set istio-inpod-probes-v4 { type ipv4_addr; elements = { 10.0.0.1 comment "a" } }
  set istio-inpod-probes-v6 { type ipv6_addr; }
  chain postrouting {
    type nat hook postrouting priority 100; policy accept;
    meta l4proto tcp meta skuid 0 ip daddr @istio-inpod-probes-v4 counter snat ip to ${probe.v4}
    meta l4proto tcp meta skuid 0 ip6 daddr @istio-inpod-probes-v6 counter snat ip6 to ${probe.v6}
  }
}
`;

/** A firewall of somebody else's, which is to stay as it is. */
export const foreignTable = "table inet firewall {\n\tchain input {\n\t\ttcp dport 22 accept\n\t}\n}\n";
