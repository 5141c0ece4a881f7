// SPDX-License-Identifier: Apache-2.0
// What an agent that starts puts back at once: the host's sets of pods that an earlier agent left in the mesh.
import type { Logger } from "../log/logger.ts";
import type { HostProbes } from "../probes/host-probes.ts";
import type { PodRecord } from "./pod-record.ts";
import { rulesStand } from "./workload.ts";

/** Puts all pods that were in the mesh into the host's sets in one go. */
export async function restoreExemptions(
  records: readonly PodRecord[],
  { probes, log }: { readonly probes: Pick<HostProbes, "start" | "replaceAll">; readonly log: Logger },
): Promise<void> {
  const members = new Map<string, readonly string[]>();
  for (const { facts, sandbox, workload } of records) {
    if (facts !== undefined && sandbox !== undefined && rulesStand(workload.phase))
      members.set(facts.uid, facts.ips);
  }
  try {
    await probes.start();
    await probes.replaceAll(members);
  } catch (error) {
    log.debug({ err: error }, "the host's probes are not exempted yet");
  }
}
