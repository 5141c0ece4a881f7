// SPDX-License-Identifier: Apache-2.0
// What the agent keeps of an injected pod's containers: whether its proxy waits for rules, and what it says of them.
import { bounds } from "../bounds/bounds.ts";
import { listOf, parseGoBool, recordOf, textOf } from "./json-fields.ts";
import { type Fields, NamedItems, TextStart } from "./pick-fields.ts";

/** A proxy that redirects nothing by itself. */
export interface SidecarFacts {
  /** User and group that it runs as; absent: not said. */
  readonly uid?: number;
  readonly gid?: number;
  readonly dnsCapture: boolean;
  readonly dualStack: boolean;
  readonly dropInvalid: boolean;
  /** The pod has a user namespace of its own (`hostUsers: false`). */
  readonly ownUsers?: true;
}

/** Annotations that have a say in a sidecar's redirection, or whether there is one; of other pods they are not kept. */
export const sidecarAnnotationNames: readonly string[] = [
  "sidecar.istio.io/inject",
  "sidecar.istio.io/interceptionMode",
  "traffic.sidecar.istio.io/includeInboundPorts",
  "traffic.sidecar.istio.io/excludeInboundPorts",
  "traffic.sidecar.istio.io/includeOutboundPorts",
  "traffic.sidecar.istio.io/excludeOutboundPorts",
  "traffic.sidecar.istio.io/includeOutboundIPRanges",
  "traffic.sidecar.istio.io/excludeOutboundIPRanges",
  "traffic.sidecar.istio.io/excludeInterfaces",
  "traffic.sidecar.istio.io/kubevirtInterfaces",
];

// Source: istio/istio cni/pkg/plugin/kubernetes.go, ExtractPodInfo; sidecar_redirect.go, NewRedirect; plugin.go, doAddRun.
const PROXY = "istio-proxy";
const INIT = "istio-init";
const VARIABLES = {
  dnsCapture: "ISTIO_META_DNS_CAPTURE",
  dualStack: "ISTIO_DUAL_STACK",
  dropInvalid: "INVALID_DROP",
  noProxy: "DISABLE_ENVOY",
} as const;
/** 32 bits, without the one that stands for nobody. */
const MAX_ID = 0xffff_fffe;

const item = new NamedItems([PROXY, INIT], {
  name: true,
  args: true,
  env: new NamedItems(Object.values(VARIABLES), { name: true, value: new TextStart(16) }),
  securityContext: { runAsUser: true, runAsGroup: true },
  restartPolicy: true,
});

/** What {@link toSidecarFacts} asks for of a pod's `spec`. */
export const sidecarFields: Fields = { containers: item, initContainers: item, hostUsers: true };

/**
 * The proxy for which somebody else has to write rules; undefined for a pod that has none, whose istio-init writes them, or whose proxy
 * is no sidecar. A proxy is a container, or one of those that start first and stay (native sidecar).
 */
export function toSidecarFacts(spec: Readonly<Record<string, unknown>>): SidecarFacts | undefined {
  const containers = firstOf(spec.containers);
  const initial = firstOf(spec.initContainers);
  if ([...containers, ...initial].some(({ name }) => name === INIT)) return undefined;
  const lasting = initial.filter(({ restartPolicy }) => restartPolicy === "Always");
  const proxy = [...lasting, ...containers].findLast(({ name }) => name === PROXY);
  if (proxy === undefined) return undefined;
  const [command, type = ""] = listOf(proxy.args).map(textOf);
  if (command === "proxy" && type !== "" && type !== "sidecar") return undefined;
  const variables = new Map(firstOf(proxy.env).map(({ name, value }) => [textOf(name), textOf(value)]));
  // what is no boolean counts as false, as in Istio
  const isSet = (name: string) => parseGoBool(variables.get(name) ?? "") === true;
  if (isSet(VARIABLES.noProxy)) return undefined;
  const { runAsUser, runAsGroup } = recordOf(proxy.securityContext);
  const [uid, gid] = [idOf(runAsUser), idOf(runAsGroup)];
  return {
    ...(uid === undefined ? {} : { uid }),
    ...(gid === undefined ? {} : { gid }),
    dnsCapture: isSet(VARIABLES.dnsCapture),
    dualStack: isSet(VARIABLES.dualStack),
    dropInvalid: isSet(VARIABLES.dropInvalid),
    ...(spec.hostUsers === false ? { ownUsers: true as const } : {}),
  };
}

/** Of an object that was read as a whole, as many as {@link NamedItems} looks at. */
function firstOf(list: unknown): Readonly<Record<string, unknown>>[] {
  return listOf(list).slice(0, bounds.namedItems.count).map(recordOf);
}

function idOf(value: unknown): number | undefined {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= MAX_ID
    ? value
    : undefined;
}
