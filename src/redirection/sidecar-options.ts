// SPDX-License-Identifier: Apache-2.0
// What the annotations of an injected pod and its proxy container ask of the sidecar's redirection. Pure.
import { isIPv4, isIPv6 } from "node:net";
import { cutText } from "../bounds/bounded.ts";
import { bounds } from "../bounds/bounds.ts";
import { addressBytes, addressText, canonicalAddress } from "../linux/address.ts";
import { isInterfaceName } from "./rules.ts";

/**
 * Annotations by which a pod has a say in its sidecar's redirection.
 * Source: Istio documentation, "Resource Annotations"; istio/istio cni/pkg/plugin/sidecar_redirect.go, annotationRegistry.
 */
export const sidecarAnnotations = {
  interceptionMode: "sidecar.istio.io/interceptionMode",
  includeInboundPorts: "traffic.sidecar.istio.io/includeInboundPorts",
  excludeInboundPorts: "traffic.sidecar.istio.io/excludeInboundPorts",
  includeOutboundPorts: "traffic.sidecar.istio.io/includeOutboundPorts",
  excludeOutboundPorts: "traffic.sidecar.istio.io/excludeOutboundPorts",
  includeOutboundCidrs: "traffic.sidecar.istio.io/includeOutboundIPRanges",
  excludeOutboundCidrs: "traffic.sidecar.istio.io/excludeOutboundIPRanges",
  excludeInterfaces: "traffic.sidecar.istio.io/excludeInterfaces",
  virtualInterfaces: "istio.io/reroute-virtual-interfaces",
  /** Older name of the same, which counts where the other is absent. */
  kubevirtInterfaces: "traffic.sidecar.istio.io/kubevirtInterfaces",
} as const;

/** How inbound connections reach the proxy: by a changed destination, or as they are, with the client's address. */
export type InterceptionMode = "REDIRECT" | "TPROXY";

/** What the proxy's container says of the redirection. */
export interface ProxyFacts {
  /** Of the proxy's own processes, whose traffic goes out as it is; absent: {@link PROXY_ID}. */
  readonly uid?: number;
  readonly gid?: number;
  readonly dnsCapture: boolean;
  /** The proxy listens on both families; otherwise IPv6 is its own only where the pod has nothing else. */
  readonly dualStack: boolean;
  /** Packets that belong to no connection are dropped, in place of being answered with a reset. */
  readonly dropInvalid: boolean;
}

/** All that can differ from one sidecar pod to the next. */
export interface SidecarOptions {
  readonly mode: InterceptionMode;
  readonly proxyUid: number;
  readonly proxyGid: number;
  /** `*`: all but those that are excluded, which count for nothing else. */
  readonly includeInboundPorts: "*" | readonly number[];
  readonly excludeInboundPorts: readonly number[];
  /** These go to the proxy whatever their address, unless that is excluded. */
  readonly includeOutboundPorts: readonly number[];
  readonly excludeOutboundPorts: readonly number[];
  /** Of both families, in canonical form without host bits. */
  readonly includeOutboundCidrs: "*" | readonly string[];
  readonly excludeOutboundCidrs: readonly string[];
  readonly excludeInterfaces: readonly string[];
  /** Interfaces of virtual machines: what arrives there counts as outbound. */
  readonly virtualInterfaces: readonly string[];
  readonly dnsCapture: boolean;
  readonly dualStack: boolean;
  readonly dropInvalid: boolean;
}

/** An annotation cannot be followed, so that no rules can be written that would do what the pod asks for. */
export class SidecarOptionsError extends Error {
  override readonly name = "SidecarOptionsError";
  readonly code = "INVALID_SIDECAR_OPTIONS";
}

/** User and group of the proxy in a pod that does not say. Source: istio/istio tools/istio-iptables/pkg/constants, DefaultProxyUID. */
export const PROXY_ID = 1337;
/** Where the agent beside the proxy answers probes and gives metrics. Source: Istio documentation, "Ports used by Istio". */
const STATUS_PORT = 15020;
/** Never captured, whatever the annotations say. Source: as above; 15021 is for probes, 15090 for Prometheus. */
const STATUS_PORTS = [STATUS_PORT, 15021, 15090];
const MAX_PORT = 65535;

/** What a pod asks for that its annotations say nothing of. */
export function defaultSidecarOptions(changes: Partial<SidecarOptions> = {}): SidecarOptions {
  return { ...sidecarOptionsOf({}, { dnsCapture: false, dualStack: false, dropInvalid: false }), ...changes };
}

/**
 * The options of a pod, annotations over defaults.
 * Source: istio/istio cni/pkg/plugin/sidecar_redirect.go, NewRedirect (defaults, and which annotation counts before which).
 * @throws {SidecarOptionsError} with the annotation, its value and the remedy
 */
export function sidecarOptionsOf(
  annotations: Readonly<Record<string, string>>,
  { uid = 0, gid = 0, dnsCapture, dualStack, dropInvalid }: ProxyFacts,
): SidecarOptions {
  const names = sidecarAnnotations;
  const text = (name: string, fallback: string) => checkWhole(name, annotations[name] ?? fallback);
  const ports = (name: string, fallback = "") => readPorts(name, text(name, fallback));
  const rerouted =
    annotations[names.virtualInterfaces] === undefined ? names.kubevirtInterfaces : names.virtualInterfaces;
  return {
    mode: readMode(names.interceptionMode, text(names.interceptionMode, "REDIRECT")),
    // user 0 is no proxy of its own: rules for it would let everything go that root starts
    proxyUid: uid === 0 ? PROXY_ID : uid,
    proxyGid: gid === 0 ? PROXY_ID : gid,
    includeInboundPorts:
      text(names.includeInboundPorts, "*").trim() === "*" ? "*" : ports(names.includeInboundPorts),
    excludeInboundPorts: inOrder([...ports(names.excludeInboundPorts), ...STATUS_PORTS]),
    includeOutboundPorts: ports(names.includeOutboundPorts),
    excludeOutboundPorts: ports(names.excludeOutboundPorts, `${STATUS_PORT}`),
    includeOutboundCidrs:
      text(names.includeOutboundCidrs, "*").trim() === "*"
        ? "*"
        : readCidrs(names.includeOutboundCidrs, text(names.includeOutboundCidrs, "*")),
    excludeOutboundCidrs: readCidrs(names.excludeOutboundCidrs, text(names.excludeOutboundCidrs, "")),
    excludeInterfaces: readInterfaces(names.excludeInterfaces, text(names.excludeInterfaces, "")),
    virtualInterfaces: readInterfaces(rerouted, text(rerouted, "")),
    dnsCapture,
    dualStack,
    dropInvalid,
  };
}

/** A list whose end is not known is not followed as far as it goes: what is behind would be captured, or not, against the pod's word. */
function checkWhole(name: string, text: string): string {
  const { bytes } = bounds.annotation;
  // whoever reads annotations cuts what is longer, and its end shows it
  if (!text.endsWith("…")) return text;
  throw unusable(name, text, {
    why: `it is longer than the ${bytes} bytes that are read`,
    remedy: "use fewer words, such as larger address ranges",
  });
}

function readMode(name: string, text: string): InterceptionMode {
  if (text === "REDIRECT" || text === "TPROXY") return text;
  throw unusable(name, text, { why: "no such mode", remedy: 'use "REDIRECT" or "TPROXY"' });
}

function readPorts(name: string, text: string): number[] {
  const ports = readList(text, (word) => {
    const port = Number(word);
    if (/^\d{1,5}$/.test(word) && port <= MAX_PORT) return port;
    throw unusable(name, text, {
      why: `"${shown(word)}" is no port`,
      remedy: "use numbers from 0 to 65535 with commas between them",
    });
  });
  return inOrder(ports);
}

/** The order of ports does not matter: pods that differ in nothing else have the same rules, recorded once. */
function inOrder(ports: readonly number[]): number[] {
  return distinct(ports).sort((a, b) => a - b);
}

function readCidrs(name: string, text: string): string[] {
  return readList(text, (word) => {
    const cidr = canonicalCidr(word);
    if (cidr !== undefined) return cidr;
    throw unusable(name, text, {
      why: `"${shown(word)}" is no address range`,
      remedy: 'use ranges such as "10.0.0.0/8" with commas between them',
    });
  });
}

function readInterfaces(name: string, text: string): string[] {
  return readList(text, (word) => {
    if (isInterfaceName(word)) return word;
    throw unusable(name, text, {
      why: `"${shown(word)}" is not a name an interface can have`,
      remedy: 'use names of at most 15 letters, digits or "_.@-" with commas between them',
    });
  });
}

/** Each once, in the order given; an empty text is an empty list. */
function readList<T>(text: string, read: (word: string) => T): T[] {
  return text.trim() === "" ? [] : distinct(text.split(",").map((word) => read(word.trim())));
}

function distinct<T>(values: readonly T[]): T[] {
  return [...new Set(values)];
}

/** As the kernel keeps it: without the bits behind its prefix; undefined for what is none. */
export function canonicalCidr(text: string): string | undefined {
  const [, address = "", length = ""] = /^([0-9A-Fa-f:.]+)\/(\d{1,3})$/.exec(text) ?? [];
  if (!isIPv4(address) && !isIPv6(address)) return undefined;
  const bytes = addressBytes(address);
  const prefix = Number(length);
  if (prefix > 8 * bytes.length) return undefined;
  const network = bytes.map((byte, index) => byte & (0xff00 >> Math.min(8, Math.max(0, prefix - 8 * index))));
  return `${canonicalAddress(addressText(network))}/${prefix}`;
}

function unusable(
  name: string,
  value: string,
  { why, remedy }: { readonly why: string; readonly remedy: string },
): SidecarOptionsError {
  return new SidecarOptionsError(`Cannot use annotation ${name}="${shown(value)}": ${why}; ${remedy}`);
}

const shownBytes = { bytes: 63 };

function shown(text: string): string {
  return cutText(JSON.stringify(cutText(text, shownBytes)).slice(1, -1), shownBytes);
}
