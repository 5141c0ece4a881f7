// SPDX-License-Identifier: Apache-2.0
// What an agent that starts asks of every pod, and what it puts back at once of those that an earlier agent left in the mesh.
import type { Logger } from "../log/logger.ts";
import type { HostProbes } from "../probes/host-probes.ts";
import type { EnrolmentOptions } from "./enrolment-options.ts";
import type { PodRecord } from "./pod-record.ts";
import type { PodRecords } from "./pod-records.ts";
import { rulesStand } from "./workload.ts";

/**
 * Leaves every pod of the node the message that an earlier agent may have left anything in it, and forgets the
 * sandboxes of pods that were deleted while no agent ran.
 * @returns pods to be looked at
 */
export function askForStock(
  records: PodRecords,
  { node, attachments }: Pick<EnrolmentOptions, "node" | "attachments">,
): string[] {
  for (const { uid } of attachments.places()) {
    const isKnown = node.pod(uid) !== undefined || (records.get(uid)?.waiters.size ?? 0) > 0;
    if (!isKnown) attachments.forgetPod(uid);
  }
  return Array.from(node.pods.values(), (pod) => {
    const record = records.of(pod.uid);
    if (record.waiters.size === 0) record.put({ type: "resync" });
    record.put({ type: "facts", pod });
    return pod.uid;
  });
}

/** What changed while stock was taken has not been listened to. */
export function catchUp(records: PodRecords, node: EnrolmentOptions["node"]): void {
  for (const pod of node.pods.values()) records.of(pod.uid).put({ type: "facts", pod });
  for (const record of records.values()) {
    if (record.waiters.size === 0 && node.pod(record.uid) === undefined)
      record.put({ type: "facts", pod: undefined });
  }
}

/** Puts all pods that were in the mesh into the host's sets in one go. */
export async function restoreProbes(
  records: () => readonly PodRecord[],
  { probes, log }: { readonly probes: Pick<HostProbes, "start" | "restore">; readonly log: Logger },
): Promise<void> {
  try {
    await probes.start();
    // asked only now: a pod that left while the host was looked at must not be put back
    const members = new Map<string, readonly string[]>();
    for (const { facts, sandbox, workload } of records()) {
      if (facts !== undefined && sandbox !== undefined && rulesStand(workload.phase))
        // the kubelet probes what ADD told before the API server has it
        members.set(facts.uid, facts.ips.length > 0 ? facts.ips : sandbox.ips);
    }
    await probes.restore(members);
  } catch (error) {
    log.debug({ err: error }, "the host's probes do not pass yet");
  }
}
