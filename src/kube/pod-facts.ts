// SPDX-License-Identifier: Apache-2.0
// What the agent keeps of a pod and of a namespace: a few hundred bytes in place of whole API objects.
import { isIP } from "node:net";
import { isDeepStrictEqual } from "node:util";
import { cutText, fits } from "../bounds/bounded.ts";
import { bounds } from "../bounds/bounds.ts";
import { controllerOf, listOf, recordOf, textOf, wordOf } from "./json-fields.ts";
import { type Fields, FirstFields, TextStart } from "./pick-fields.ts";
import { type SidecarFacts, sidecarAnnotationNames, sidecarFields, toSidecarFacts } from "./sidecar-facts.ts";

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

/** One byte more than counts, so that it is told. */
const annotationStart = new TextStart(bounds.annotation.bytes + 1);

/** What {@link boundedLabels} asks for: one more than count, so that it is told. */
const labelFields = new FirstFields(bounds.labels.count + 1, decides);

/** What {@link toPodFacts} asks for. */
export const podFields: Fields = {
  metadata: {
    uid: true,
    namespace: true,
    name: true,
    labels: labelFields,
    annotations: Object.fromEntries(
      [...keptAnnotations, ...sidecarAnnotationNames].map((name) => [name, annotationStart]),
    ),
    ownerReferences: true,
    deletionTimestamp: true,
    resourceVersion: true,
  },
  spec: {
    serviceAccountName: true,
    serviceAccount: true,
    nodeName: true,
    hostNetwork: true,
    ...sidecarFields,
  },
  status: {
    phase: true,
    podIP: true,
    podIPs: true,
    initContainerStatuses: true,
    containerStatuses: true,
    ephemeralContainerStatuses: true,
  },
};

/** What {@link toNamespaceFacts} asks for. */
export const namespaceFields: Fields = {
  metadata: { name: true, uid: true, labels: labelFields, resourceVersion: true },
};

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
  /** Its proxy, where that waits for rules that others write. */
  readonly sidecar?: SidecarFacts;
  /** Name of the DaemonSet that controls the pod. */
  readonly ownerDaemonSet?: string;
  /** True once the pod is being deleted. */
  readonly deletionTimestamp?: true;
  readonly resourceVersion: string;
  /** What of the pod is over a bound and does not count, a sentence each; absent where all of it counts. */
  readonly excess?: readonly string[];
}

/** Who a pod is. */
export type PodIdentity = Pick<PodFacts, "uid" | "namespace" | "name">;

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

/**
 * Converts a pod from the API's JSON; undefined when UID, namespace or name is missing or longer than can be, every other gap
 * is tolerated. What comes of it is bounded, whatever the pod holds.
 */
export function toPodFacts(raw: unknown): PodFacts | undefined {
  const pod = recordOf(raw);
  const metadata = recordOf(pod.metadata);
  const spec = recordOf(pod.spec);
  const status = recordOf(pod.status);
  const uid = wordOf(metadata.uid, bounds.uid);
  const namespace = wordOf(metadata.namespace, bounds.namespaceName);
  const name = wordOf(metadata.name, bounds.objectName);
  if (uid === "" || namespace === "" || name === "") return undefined;
  const ownerDaemonSet = daemonSetOf(metadata.ownerReferences);
  const { labels, excess: labelExcess } = boundedLabels(recordOf(metadata.labels));
  const sidecar = toSidecarFacts(spec);
  const names = sidecar === undefined ? keptAnnotations : [...keptAnnotations, ...sidecarAnnotationNames];
  const { annotations, excess: annotationExcess } = keptOf(recordOf(metadata.annotations), names);
  const excess = [...labelExcess, ...annotationExcess];
  return {
    key: uid,
    uid,
    namespace,
    name,
    serviceAccount:
      wordOf(spec.serviceAccountName, bounds.objectName) ||
      wordOf(spec.serviceAccount, bounds.objectName) ||
      "default",
    nodeName: wordOf(spec.nodeName, bounds.objectName),
    hostNetwork: spec.hostNetwork === true,
    phase: wordOf(status.phase, bounds.phase),
    ips: addressesOf(status),
    labels,
    annotations,
    containerIds: containerIdsOf(status),
    ...(sidecar === undefined ? {} : { sidecar }),
    ...(ownerDaemonSet === undefined ? {} : { ownerDaemonSet }),
    ...(textOf(metadata.deletionTimestamp) === "" ? {} : { deletionTimestamp: true as const }),
    resourceVersion: wordOf(metadata.resourceVersion, bounds.resourceVersion),
    ...(excess.length === 0 ? {} : { excess }),
  };
}

/** Whether all its containers have ended for good. Source: Kubernetes' pod lifecycle, pod phase. */
export function hasFinished({ phase }: Pick<PodFacts, "phase">): boolean {
  return phase === "Succeeded" || phase === "Failed";
}

/** Converts a namespace, or the metadata of one, from the API's JSON; undefined when the name is missing or cannot be one. */
export function toNamespaceFacts(raw: unknown): NamespaceFacts | undefined {
  const metadata = recordOf(recordOf(raw).metadata);
  const name = wordOf(metadata.name, bounds.namespaceName);
  if (name === "") return undefined;
  return {
    key: name,
    name,
    uid: wordOf(metadata.uid, bounds.uid),
    labels: boundedLabels(recordOf(metadata.labels)).labels,
    resourceVersion: wordOf(metadata.resourceVersion, bounds.resourceVersion),
  };
}

/** Whether two states differ in nothing but the version: most writes to a pod are of no interest to the agent. */
export function sameFacts<T extends { readonly resourceVersion: string }>(a: T, b: T): boolean {
  return isDeepStrictEqual({ ...a, resourceVersion: "" }, { ...b, resourceVersion: "" });
}

/** Whether nothing came to a pod but the word that it is in the mesh, which istiod reads. */
export function isAnnouncementAlone(before: PodFacts, now: PodFacts): boolean {
  const { redirection } = podAnnotations;
  if (before.annotations[redirection] !== undefined || now.annotations[redirection] !== "enabled")
    return false;
  return sameFacts({ ...before, annotations: { ...before.annotations, [redirection]: "enabled" } }, now);
}

function keptOf(annotations: Readonly<Record<string, unknown>>, names: readonly string[]) {
  const kept: Record<string, string> = {};
  const excess: string[] = [];
  for (const name of names) {
    const text = Object.hasOwn(annotations, name) ? annotations[name] : undefined;
    if (typeof text !== "string") continue;
    kept[name] = cutText(text, bounds.annotation);
    if (!fits(text, bounds.annotation))
      excess.push(
        `Cannot use all of annotation ${name}: only its first ${bounds.annotation.bytes} bytes are read`,
      );
  }
  return { annotations: kept, excess };
}

function addressesOf(status: Readonly<Record<string, unknown>>): string[] {
  const { count } = bounds.podAddresses;
  const several = listOf(status.podIPs).slice(0, count);
  const all = several.length > 0 ? several.map((entry) => recordOf(entry).ip) : [status.podIP];
  const addresses = all.map((text) => wordOf(text, bounds.podAddresses));
  return [...new Set(addresses.filter((address) => isIP(address) !== 0))];
}

function containerIdsOf(status: Readonly<Record<string, unknown>>): string[] {
  const { count } = bounds.containerIds;
  const lists = [status.initContainerStatuses, status.containerStatuses, status.ephemeralContainerStatuses];
  const entries = lists.flatMap((list) => listOf(list).slice(0, count)).slice(0, count);
  const ids = entries.map((entry) => wordOf(recordOf(entry).containerID, bounds.containerIds));
  return ids.map((id) => id.replace(/^[a-z0-9.+-]+:\/\//i, "")).filter((id) => id !== "");
}

function daemonSetOf(ownerReferences: unknown): string | undefined {
  const { kind, name } = controllerOf(ownerReferences);
  return kind === "DaemonSet" ? wordOf(name, bounds.objectName) || undefined : undefined;
}

/** Takes the texts of `metadata.labels`; where there are too many, those that decide about the mesh come first. */
function boundedLabels(raw: Readonly<Record<string, unknown>>) {
  const { count } = bounds.labels;
  const all = Object.keys(raw);
  const keys = all.length <= count ? all : [...all.filter(decides), ...all.filter((key) => !decides(key))];
  const labels: Record<string, string> = {};
  for (const key of keys.slice(0, count)) {
    const value = raw[key];
    if (typeof value !== "string" || !fits(key, bounds.labelKey) || !fits(value, bounds.labelValue)) continue;
    labels[key] = value;
  }
  const excess = all.length <= count ? [] : [`Cannot use all of its labels: only ${count} count`];
  return { labels, excess };
}

function decides(key: string): boolean {
  return key === "app" || /^(?:[a-z0-9.-]+\.)?istio\.io\//.test(key);
}
