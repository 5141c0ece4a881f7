// SPDX-License-Identifier: Apache-2.0
// Sets of a sidecar's options, as annotations and the proxy's container ask for them.
import {
  sidecarAnnotations as name,
  type ProxyFacts,
  type SidecarOptions,
  sidecarOptionsOf,
} from "../../src/redirection/sidecar-options.ts";

const plain: ProxyFacts = { dnsCapture: false, dualStack: false, dropInvalid: false };

function variant(annotations: Record<string, string>, proxy: Partial<ProxyFacts> = {}): SidecarOptions {
  return sidecarOptionsOf(annotations, { ...plain, ...proxy });
}

export const SIDECAR_VARIANTS: Readonly<Record<string, SidecarOptions>> = {
  basic: variant({}),
  dns: variant({}, { dnsCapture: true, dualStack: true }),
  "drop-invalid": variant({}, { dropInvalid: true }),
  "own-ids": variant({}, { uid: 1000670000, gid: 1000670001, dnsCapture: true }),
  tproxy: variant({ [name.interceptionMode]: "TPROXY" }),
  "tproxy-all": variant(
    {
      [name.interceptionMode]: "TPROXY",
      [name.includeInboundPorts]: "8080,9090",
      [name.excludeInterfaces]: "eth7",
      [name.virtualInterfaces]: "vm0",
    },
    { uid: 1000670000, gid: 1000670001, dnsCapture: true, dropInvalid: true },
  ),
  "no-inbound": variant({ [name.includeInboundPorts]: "" }),
  "inbound-ports": variant({ [name.includeInboundPorts]: "8080, 9090" }),
  "excluded-inbound-ports": variant({ [name.excludeInboundPorts]: "22,15020,22" }),
  "outbound-ports": variant({
    [name.includeOutboundCidrs]: "",
    [name.includeOutboundPorts]: "443,5432",
    [name.excludeOutboundPorts]: "25",
  }),
  "outbound-ranges": variant({
    [name.includeOutboundCidrs]: "10.1.2.3/8,2001:DB8::1/32",
    [name.excludeOutboundCidrs]: "10.96.0.1/32,2001:db8:ffff::/48",
  }),
  "loopback-range": variant({ [name.includeOutboundCidrs]: "127.0.0.0/8,::1/128" }),
  interfaces: variant({ [name.excludeInterfaces]: "eth7,tun+", [name.kubevirtInterfaces]: "vm0,vm1" }),
  "interfaces-ranges": variant({
    [name.virtualInterfaces]: "vm0",
    [name.kubevirtInterfaces]: "never",
    [name.includeOutboundCidrs]: "10.0.0.0/8,192.0.2.0/24,fd00::/8",
  }),
};
