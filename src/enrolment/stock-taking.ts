// SPDX-License-Identifier: Apache-2.0
// What an agent that starts finds on its node: pods that an earlier agent left in the mesh, or half-way into it.
import { type PodFacts, podAnnotations } from "../kube/pod-facts.ts";
import type { Desired } from "./desired-state.ts";
import type { ReconcilerParts } from "./pod-reconciler.ts";
import { offerSandbox, type PodRecord } from "./pod-record.ts";
import { soughtPod } from "./runtime-pod.ts";

type Parts = Pick<ReconcilerParts, "finder" | "redirection" | "ztunnel" | "probes" | "log">;

/**
 * Finds the sandbox of a pod that may have been ours before, and puts it into ztunnel's roster if it was. Before ztunnel may
 * connect: a pod missing from a snapshot is dropped by ztunnel.
 */
export async function takeStock(
  record: PodRecord,
  { pod, desired, parts }: { pod: PodFacts; desired: Desired | undefined; parts: Parts },
): Promise<void> {
  const { ztunnel, finder, log } = parts;
  record.unseen = true;
  const isAnnotated = pod.annotations[podAnnotations.redirection] !== undefined;
  if (desired?.wanted !== true && !isAnnotated) return;
  try {
    offerSandbox(record, await finder.find(soughtPod(pod)));
    record.touched ||=
      record.sandbox !== undefined && (isAnnotated || (await isRedirected(record, { desired, parts })));
  } catch (error) {
    // one pod must not keep the agent from starting; its run says what is wrong with it
    log.warn({ ns: pod.namespace, pod: pod.name, uid: pod.uid, err: error }, "cannot look at a pod yet");
  }
  // served by ztunnel until now, so it is named in the next snapshot: also one that is about to leave, rules first
  if (!isAnnotated && !record.touched) return;
  const workload = { name: pod.name, namespace: pod.namespace, serviceAccount: pod.serviceAccount };
  ztunnel.hold({ uid: pod.uid, workload, netns: record.sandbox?.netns });
}

/** The annotation may be missing on a pod that is captured all the same: it is written behind ADD. */
async function isRedirected(
  { sandbox }: PodRecord,
  { desired, parts }: { desired: Desired | undefined; parts: Parts },
): Promise<boolean> {
  if (sandbox === undefined || desired?.wanted !== true) return false;
  return (await parts.redirection.verify(sandbox.netns, desired.redirect)).intact;
}

/** Puts all pods that were in the mesh into the host's sets in one go. */
export async function restoreExemptions(
  records: readonly PodRecord[],
  { probes, log }: Parts,
): Promise<void> {
  const members = new Map<string, readonly string[]>();
  for (const { facts, sandbox, touched } of records) {
    if (facts !== undefined && sandbox !== undefined && touched) members.set(facts.uid, facts.ips);
  }
  try {
    await probes.start();
    await probes.replaceAll(members);
  } catch (error) {
    log.debug({ err: error }, "the host's probes are not exempted yet");
  }
}
