// SPDX-License-Identifier: Apache-2.0
// What the repair keeps of a pod: who it is, and how its init containers ended.
import { bounds } from "../bounds/bounds.ts";
import { controllerOf, listOf, recordOf, textOf, wordOf } from "../kube/json-fields.ts";
import type { Keyed } from "../kube/object-cache.ts";
import { type Fields, TextStart } from "../kube/pick-fields.ts";
import { hasFinished } from "../kube/pod-facts.ts";
import type { RepairSettings } from "../settings/repair-settings.ts";

/** How a container ended. */
export interface Termination {
  readonly exitCode: number;
  /** As "Completed" or "Error". */
  readonly reason: string;
  readonly message: string;
  /** The container's id and when it ended, with the runtime's name before it: no other end has the same. */
  readonly id: string;
}

/** An init container that has ended at least once. */
export interface EndedContainer {
  /** Its state, where that is an end. */
  readonly now?: Termination;
  /** The end before the present state: it was started again. */
  readonly last?: Termination;
}

/** A pod as the repair sees it; bounded, whatever the pod holds. */
export interface SuspectPod extends Keyed {
  /** Key in the cache: the UID. */
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
  readonly hostNetwork: boolean;
  /** UID of the controller that makes another pod for it; "" where there is none. */
  readonly ownerUid: string;
  /** It is being deleted, or all its containers have ended for good. */
  readonly isOver: boolean;
  /** It has the annotation of a sidecar, or none is asked for. */
  readonly hasSidecar: boolean;
  /** It has a label of the key that broken pods get, whatever its value. */
  readonly hasLabel: boolean;
  /** Those that have ended, of the name that is asked for. */
  readonly ended: readonly EndedContainer[];
}

type Sought = Pick<RepairSettings, "labelKey" | "sidecarAnnotation" | "initContainerName" | "nodeName">;

/** Of an annotation or label only whether it is there counts. */
const isThere = new TextStart(1);

/** What {@link toSuspectPod} asks for. */
export function suspectFields({ labelKey, sidecarAnnotation }: Sought): Fields {
  return {
    metadata: {
      uid: true,
      namespace: true,
      name: true,
      resourceVersion: true,
      deletionTimestamp: true,
      ownerReferences: true,
      labels: { [labelKey]: isThere },
      annotations: { [sidecarAnnotation]: isThere },
    },
    spec: { nodeName: true, hostNetwork: true },
    status: { phase: true, initContainerStatuses: true },
  };
}

/** Converts a pod from the API's JSON; undefined for one of another node, or without UID, namespace or name. */
export function toSuspectPod(raw: unknown, sought: Sought): SuspectPod | undefined {
  const { metadata: rawMetadata, spec: rawSpec, status: rawStatus } = recordOf(raw);
  const [metadata, spec, status] = [recordOf(rawMetadata), recordOf(rawSpec), recordOf(rawStatus)];
  const uid = wordOf(metadata.uid, bounds.uid);
  const namespace = wordOf(metadata.namespace, bounds.namespaceName);
  const name = wordOf(metadata.name, bounds.objectName);
  const nodeName = wordOf(spec.nodeName, bounds.objectName);
  // a server may send what it was not asked for
  if (uid === "" || namespace === "" || name === "" || nodeName !== sought.nodeName) return undefined;
  const isLeaving = textOf(metadata.deletionTimestamp) !== "";
  return {
    key: uid,
    uid,
    namespace,
    name,
    resourceVersion: wordOf(metadata.resourceVersion, bounds.resourceVersion),
    hostNetwork: spec.hostNetwork === true,
    ownerUid: wordOf(controllerOf(metadata.ownerReferences).uid, bounds.uid),
    isOver: isLeaving || hasFinished({ phase: wordOf(status.phase, bounds.phase) }),
    hasSidecar: sought.sidecarAnnotation === "" || hasText(metadata.annotations, sought.sidecarAnnotation),
    hasLabel: hasText(metadata.labels, sought.labelKey),
    ended: endedOf(status.initContainerStatuses, sought.initContainerName),
  };
}

function hasText(raw: unknown, name: string): boolean {
  const record = recordOf(raw);
  return Object.hasOwn(record, name) && typeof record[name] === "string";
}

function endedOf(raw: unknown, wantedName: string): readonly EndedContainer[] {
  const containers = listOf(raw).slice(0, bounds.initContainers.count).map(recordOf);
  return containers.flatMap((container) => {
    if (wantedName !== "" && wordOf(container.name, bounds.initContainers) !== wantedName) return [];
    const now = terminationOf(container.state);
    const last = terminationOf(container.lastState);
    if (now === undefined && last === undefined) return [];
    return [{ ...(now === undefined ? {} : { now }), ...(last === undefined ? {} : { last }) }];
  });
}

/** Source: kubernetes api core/v1 types.go, ContainerStateTerminated. */
function terminationOf(state: unknown): Termination | undefined {
  const { terminated } = recordOf(state);
  if (terminated === null || typeof terminated !== "object") return undefined;
  const { exitCode, reason, message, containerID, finishedAt } = recordOf(terminated);
  return {
    // the field is never left out; 0 is what an API server takes a missing one for
    exitCode: typeof exitCode === "number" ? exitCode : 0,
    reason: wordOf(reason, bounds.terminationWord),
    message: wordOf(message, bounds.terminationMessage),
    id: `${wordOf(containerID, bounds.containerIds)} ${wordOf(finishedAt, bounds.terminationWord)}`,
  };
}
