// SPDX-License-Identifier: Apache-2.0
// A host's nat table as kube-proxy in iptables mode writes it for many services: of each three chains and five rules.
// Source: kubernetes/kubernetes pkg/proxy/iptables/proxier.go.

/** Text for iptables-restore. */
export function kubeProxyRules(services: number): string {
  const each = Array.from({ length: services }, (_, index) => {
    const { name, ip, pod, comment } = describe(index);
    return {
      chains: ["SVC", "SEP", "EXT"].map((kind) => `:KUBE-${kind}-${name} - [0:0]`),
      rules: [
        `-A KUBE-SERVICES -d ${ip}/32 -p tcp ${comment} -m tcp --dport 80 -j KUBE-SVC-${name}`,
        `-A KUBE-EXT-${name} ${comment} -j KUBE-SVC-${name}`,
        `-A KUBE-SVC-${name} ${comment} -j KUBE-SEP-${name}`,
        `-A KUBE-SEP-${name} -s ${pod}/32 ${comment} -j MARK --set-xmark 0x4000/0x4000`,
        `-A KUBE-SEP-${name} -p tcp ${comment} -m tcp -j DNAT --to-destination ${pod}:8080`,
      ],
    };
  });
  const chains = each.flatMap((service) => service.chains);
  const rules = each.flatMap((service) => service.rules);
  const jumps = ["PREROUTING", "OUTPUT"].map((hook) => `-A ${hook} -j KUBE-SERVICES`);
  return ["*nat", ":KUBE-SERVICES - [0:0]", ...chains, ...jumps, ...rules, "COMMIT", ""].join("\n");
}

/** The same for `nft -f`, in the table of iptables-nft, whose own restore (1.8.9) takes minutes for 20,000 services. */
export function kubeProxyRuleset(services: number): string {
  const each = Array.from({ length: services }, (_, index) => describe(index));
  const chain = (name: string, ...lines: readonly string[]) => [`chain ${name} {`, ...lines, "}"].join("\n");
  return [
    "table ip nat {",
    ...each.flatMap(({ name, pod }) => [
      chain(
        `KUBE-SEP-${name}`,
        `ip saddr ${pod} counter meta mark set mark or 0x4000`,
        `meta l4proto tcp counter dnat to ${pod}:8080`,
      ),
      chain(`KUBE-SVC-${name}`, `counter jump KUBE-SEP-${name}`),
      chain(`KUBE-EXT-${name}`, `counter jump KUBE-SVC-${name}`),
    ]),
    chain(
      "KUBE-SERVICES",
      ...each.map(({ name, ip }) => `ip daddr ${ip} tcp dport 80 counter jump KUBE-SVC-${name}`),
    ),
    ...[
      ["PREROUTING", "prerouting priority dstnat"],
      ["OUTPUT", "output priority -100"],
    ].map(([name = "", hook]) => chain(name, `type nat hook ${hook};`, "counter jump KUBE-SERVICES")),
    "}",
    "",
  ].join("\n");
}

function describe(index: number): { name: string; ip: string; pod: string; comment: string } {
  const rest = `${index >> 16}.${(index >> 8) & 255}.${index & 255}`;
  return {
    name: index.toString(36).toUpperCase().padStart(16, "0"),
    ip: `10.${rest}`,
    pod: `11.${rest}`,
    comment: `-m comment --comment "team-${index % 50}/some-service-${index}:http cluster IP"`,
  };
}
