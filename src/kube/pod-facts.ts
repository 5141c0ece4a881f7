// SPDX-License-Identifier: Apache-2.0
// What the agent keeps of a pod and of a namespace: a few hundred bytes in place of whole API objects.
import { isIP } from "node:net";
import { isDeepStrictEqual } from "node:util";
import { listOf, recordOf, textOf, textsOf } from "./json-fields.ts";

/** Annotations the agent reads or writes; all others are dropped. */
export const podAnnotations = {
  sidecarStatus: "sidecar.istio.io/status",
  redirection: "ambient.istio.io/redirection",
  bypassInboundCapture: "ambient.istio.io/bypass-inbound-capture",
  dnsCapture: "ambient.istio.io/dns-capture",
  rerouteVirtualInterfaces: "istio.io/reroute-virtual-interfaces",
  configHash: "kubernetes.io/config.hash",
  configMirror: "kubernetes.io/config.mirror",
} as const;

const keptAnnotations: readonly string[] = Object.values(podAnnotations);

/** A pod as the agent sees it; lists and maps are empty where the pod has none. */
export interface PodFacts {
  /** Key in the cache: the UID. */
  readonly key: string;
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
  readonly serviceAccount: string;
  readonly nodeName: string;
  readonly hostNetwork: boolean;
  /** "Pending", "Running", "Succeeded", "Failed", "Unknown" or "". */
  readonly phase: string;
  /** Addresses from the status, valid ones only, IPv4 and IPv6. */
  readonly ips: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  /** Container ids from the status without the runtime's prefix. */
  readonly containerIds: readonly string[];
  /** Name of the DaemonSet that controls the pod. */
  readonly ownerDaemonSet?: string;
  /** True once the pod is being deleted. */
  readonly deletionTimestamp?: true;
  readonly resourceVersion: string;
}

/** A namespace as the agent sees it. */
export interface NamespaceFacts {
  /** Key in the cache: the name. */
  readonly key: string;
  readonly name: string;
  /** Another one for a namespace that was made anew under the same name. */
  readonly uid: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly resourceVersion: string;
}

/** Converts a pod from the API's JSON; undefined when UID, namespace or name is missing, every other gap is tolerated. */
export function toPodFacts(raw: unknown): PodFacts | undefined {
  const pod = recordOf(raw);
  const metadata = recordOf(pod.metadata);
  const spec = recordOf(pod.spec);
  const status = recordOf(pod.status);
  const uid = textOf(metadata.uid);
  const namespace = textOf(metadata.namespace);
  const name = textOf(metadata.name);
  if (uid === "" || namespace === "" || name === "") return undefined;
  const ownerDaemonSet = daemonSetOf(metadata.ownerReferences);
  return {
    key: uid,
    uid,
    namespace,
    name,
    serviceAccount: textOf(spec.serviceAccountName) || textOf(spec.serviceAccount) || "default",
    nodeName: textOf(spec.nodeName),
    hostNetwork: spec.hostNetwork === true,
    phase: textOf(status.phase),
    ips: addressesOf(status),
    labels: textsOf(metadata.labels),
    annotations: keptOf(textsOf(metadata.annotations)),
    containerIds: containerIdsOf(status),
    ...(ownerDaemonSet === undefined ? {} : { ownerDaemonSet }),
    ...(textOf(metadata.deletionTimestamp) === "" ? {} : { deletionTimestamp: true as const }),
    resourceVersion: textOf(metadata.resourceVersion),
  };
}

/** Whether all its containers have ended for good. Source: Kubernetes' pod lifecycle, pod phase. */
export function hasFinished({ phase }: Pick<PodFacts, "phase">): boolean {
  return phase === "Succeeded" || phase === "Failed";
}

/** Converts a namespace, or the metadata of one, from the API's JSON; undefined when the name is missing. */
export function toNamespaceFacts(raw: unknown): NamespaceFacts | undefined {
  const metadata = recordOf(recordOf(raw).metadata);
  const name = textOf(metadata.name);
  if (name === "") return undefined;
  return {
    key: name,
    name,
    uid: textOf(metadata.uid),
    labels: textsOf(metadata.labels),
    resourceVersion: textOf(metadata.resourceVersion),
  };
}

/** Whether two states differ in nothing but the version: most writes to a pod are of no interest to the agent. */
export function sameFacts<T extends { readonly resourceVersion: string }>(a: T, b: T): boolean {
  return isDeepStrictEqual({ ...a, resourceVersion: "" }, { ...b, resourceVersion: "" });
}

function keptOf(annotations: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  return Object.fromEntries(Object.entries(annotations).filter(([key]) => keptAnnotations.includes(key)));
}

function addressesOf(status: Readonly<Record<string, unknown>>): string[] {
  const several = listOf(status.podIPs).map((entry) => textOf(recordOf(entry).ip));
  const all = several.length > 0 ? several : [textOf(status.podIP)];
  return [...new Set(all.filter((address) => isIP(address) !== 0))];
}

function containerIdsOf(status: Readonly<Record<string, unknown>>): string[] {
  const lists = [status.initContainerStatuses, status.containerStatuses, status.ephemeralContainerStatuses];
  const ids = lists.flatMap(listOf).map((entry) => textOf(recordOf(entry).containerID));
  return ids.map((id) => id.replace(/^[a-z0-9.+-]+:\/\//i, "")).filter((id) => id !== "");
}

function daemonSetOf(ownerReferences: unknown): string | undefined {
  const owners = listOf(ownerReferences).map(recordOf);
  const owner = owners.find(({ kind, controller }) => kind === "DaemonSet" && controller === true);
  return textOf(owner?.name) || undefined;
}
