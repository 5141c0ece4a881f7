// SPDX-License-Identifier: Apache-2.0
// Pods with a sidecar that leaves its rules to the node's agent: who has them, who waits for them, and what keeps them from it.
import type { ApiClient } from "../kube/api-client.ts";
import { decideRepair } from "../repair/decide-repair.ts";
import { type SuspectPod, suspectFields, toSuspectPod } from "../repair/suspect-pod.ts";
import type { RepairSettings } from "../settings/repair-settings.ts";
import type { NodeReport } from "../status/node-state-report.ts";
import { isServedSidecar } from "../status/served-sidecar.ts";
import type { PodListReport, PodReport } from "../status/state-report.ts";
import { type Finding, failing, fine, warning } from "./finding.ts";

const ID = "sidecars";
const STARTED_ID = "sidecars-unserved";

/** What the agent says of them; nothing where the node has none. Pure. */
export function judgeSidecars(node: NodeReport, { pods }: PodListReport): Finding | undefined {
  const all = pods.filter(isServedSidecar);
  if (all.length === 0) return undefined;
  const bad = all.filter(({ lastError, state }) => lastError !== null && state !== "unverified");
  const [first] = bad;
  if (first?.lastError)
    return failing(
      ID,
      `${few(bad.length)} not redirected to a sidecar as it should be, for example ${nameOf(first)}: ${first.lastError.message}`,
      first.lastError.remedy,
    );
  const waiting = all.filter(({ state, phase }) => state === "outside" && phase === "Pending");
  if (waiting[0] !== undefined) return waits(node, waiting);
  const unverified = all.filter(({ state }) => state === "unverified");
  if (unverified[0] !== undefined)
    return warning(
      ID,
      `${few(unverified.length)} redirected to a sidecar by rules that cannot be verified, for example ${nameOf(unverified[0])}: ${unverified[0].lastError?.message}`,
      "see what changes network rules in them; they stay as they are until it ends",
    );
  const served = all.filter(({ state }) => state !== "outside").length;
  const others = all.length - served;
  const repairs = (node.sidecarRepairs ?? []).reduce((sum, { count }) => sum + count, 0);
  return fine(
    ID,
    [
      `${few(served)} redirected to a sidecar, ${repairs} differences repaired`,
      ...(others > 0 ? [`${few(others)} left as another agent made it`] : []),
    ].join("; "),
  );
}

/** Their ADD was not answered by this agent, so that nobody may have written their rules. */
function waits({ chain }: NodeReport, waiting: readonly PodReport[]): Finding {
  const what = `${few(waiting.length)} waiting with a sidecar whose ADD this agent has not answered, for example ${nameOf(waiting[0])}`;
  if (chain === null || chain.installed)
    return warning(
      ID,
      what,
      "a new pod takes a moment; one that stays so was made while our entry was not in the chain: delete it, or have it repaired (REPAIR_*)",
    );
  const plugins = chain.plugins.length === 0 ? "" : ` (${chain.plugins.join(", ")})`;
  return failing(
    ID,
    `${what}: our entry is not in the chain${plugins}, ${chain.fault ?? "which nobody has written yet"}`,
    "see the finding cni-chain; pods that start meanwhile end in Init:CrashLoopBackOff of istio-validation, and are to be deleted or repaired (REPAIR_*)",
  );
}

export interface UnservedOptions {
  readonly nodeName: string;
  readonly repair: RepairSettings;
  readonly timeoutMs: number;
}

/** Pods of the node whose check for rules has ended without any, as the API server knows them; nothing where there are none. @throws ApiError */
export async function checkUnserved(
  client: Pick<ApiClient, "list">,
  { nodeName, repair, timeoutMs }: UnservedOptions,
): Promise<Finding | undefined> {
  // nobody said which node this is
  if (nodeName === "") return undefined;
  const sought = { ...repair, nodeName };
  const { items } = await client.list(
    "/api/v1/pods",
    { resourceVersion: "0", fieldSelector: `spec.nodeName=${nodeName}` },
    {
      convert: (raw) => toSuspectPod(raw, sought),
      fields: suspectFields(sought),
      signal: AbortSignal.timeout(timeoutMs),
    },
  );
  // whatever the repair would do about them, or not
  const broken = items.filter(
    (pod): pod is SuspectPod =>
      pod !== undefined && decideRepair(pod, { ...repair, mode: repair.mode ?? "label" }) !== undefined,
  );
  const [first] = broken;
  if (first === undefined) return undefined;
  const what = `${few(broken.length)} without the rules that a sidecar waits for (${repair.initContainerName} ended with ${repair.exitCode}), for example ${first.namespace}/${first.name}`;
  if (repair.mode === undefined)
    return failing(
      STARTED_ID,
      `${what}, and nobody repairs them`,
      "delete them once the finding cni-chain is right, or set REPAIR_ENABLED=true and REPAIR_REPAIR_PODS=true (or REPAIR_DELETE_PODS=true)",
    );
  return warning(
    STARTED_ID,
    `${what}; the agent's repair is on (${repair.mode})`,
    repair.mode === "label"
      ? `they are labelled ${repair.labelKey} alone: delete them, or let REPAIR_REPAIR_PODS=true mend them`
      : "see the Events of these pods and the metric istio_cni_repair_pods_repaired_total if they stay",
  );
}

function few(count: number): string {
  return count === 1 ? "1 pod is" : `${count} pods are`;
}

function nameOf(pod: Pick<PodReport, "ns" | "name"> | undefined): string {
  return pod === undefined ? "" : `${pod.ns}/${pod.name}`;
}
