// SPDX-License-Identifier: Apache-2.0
// Writes a running pod's rules late, in its own network namespace. How that is done is given from outside.

import type { PodIdentity } from "../kube/pod-facts.ts";
import type { Netns } from "../linux/netns.ts";
import type { SuspectPod } from "./suspect-pod.ts";

/** A pod whose rules are to be written, in a namespace that is provably its own. */
export interface InPlacePod extends PodIdentity {
  /** Lent until the function has settled; its owner closes it. */
  readonly netns: Netns;
}

/**
 * Writes the sidecar's rules that a pod's annotations ask for, where they are not there yet, and proves them.
 * It settles soon after the signal says so. @throws what an operator can act on
 */
export type RepairInPlace = (pod: InPlacePod, options: { readonly signal: AbortSignal }) => Promise<void>;

/** What a repair in place needs. */
export interface InPlaceMeans {
  /** The namespace of a running pod, owned by the caller; undefined where none is provably the pod's. */
  readonly findNetns: (uid: string) => Promise<Netns | undefined>;
  readonly repairInPlace: RepairInPlace;
}

const deadlineMs = 30_000;

/** @throws Error where the pod is not found; what writing the rules throws */
export async function repairPodInPlace(
  pod: SuspectPod,
  { findNetns, repairInPlace, signal }: InPlaceMeans & { readonly signal: AbortSignal },
): Promise<void> {
  const { uid, namespace, name } = pod;
  // never the host's rules
  if (pod.hostNetwork)
    throw new Error(`Cannot repair pod "${namespace}/${name}": it is on the host's network`);
  using netns = await findNetns(uid);
  if (netns === undefined)
    throw new Error(`Cannot repair pod "${namespace}/${name}": no network namespace is provably its own`);
  signal.throwIfAborted();
  const end = AbortSignal.any([signal, AbortSignal.timeout(deadlineMs)]);
  await repairInPlace({ uid, namespace, name, netns }, { signal: end });
}
