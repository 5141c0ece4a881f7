// SPDX-License-Identifier: Apache-2.0
// Looks at one pod in the kernel, bounded in time: a namespace that does not answer costs its own part of the report only.

import { checkCapture } from "../check/capture.ts";
import { answerOf } from "../check/look.ts";
import { openPlace } from "../enrolment/place.ts";
import type { ServedSidecar } from "../enrolment/sidecars.ts";
import type { AgentFacts } from "./agent-facts.ts";
import {
  bypassesOf,
  type KnownPod,
  probesOf,
  reportFamilies,
  sandboxSourceOf,
  unreadReason,
  ztunnelOf,
} from "./pod-report.ts";
import { sidecarObserved, sidecarObservedLast } from "./sidecar-report.ts";
import type { ObservedReport, PodProbesReport } from "./state-report.ts";

/** For each of the questions, which are asked at once. */
const limitMs = 3000;

/** What is there of a pod now. */
export async function lookAtPod(facts: AgentFacts, known: KnownPod): Promise<ObservedReport | null> {
  const { record, desired, sidecar } = known;
  if (sidecar !== undefined) return await lookAtSidecar(facts, sidecar);
  const sandbox = record?.sandbox;
  if (record === undefined || (sandbox === undefined && record.state === "outside")) return null;
  const netns = sandbox === undefined || sandbox.netns.closed ? undefined : sandbox.netns;
  const redirect = desired?.wanted === true ? desired.redirect : undefined;
  const { redirection, sidecars, bypasses } = facts;
  const [capture, probes] = await Promise.all([
    netns &&
      checkCapture(netns, { redirect: redirect ?? "outside" }, { redirection, sidecars, bypasses, limitMs }),
    answerOf(() => probesNow(facts, known), limitMs),
  ]);
  const rules = capture?.seen.rules.value;
  const sockets = capture?.seen.sockets;
  const ports =
    redirect?.dnsCapture === false ? sockets?.value?.filter(({ port }) => port !== 15053) : sockets?.value;
  const isAsked = netns !== undefined && redirect !== undefined;
  return {
    at: new Date().toISOString(),
    source: "kernel",
    netns: sandbox?.netns.key ?? null,
    containerId: sandbox?.containerId || null,
    sandboxSource: sandboxSourceOf(sandbox),
    families:
      rules === undefined || redirect === undefined
        ? []
        : reportFamilies(facts, { known, redirect, seen: rules }),
    unread: isAsked ? ((capture?.seen.rules.error ?? sockets?.error)?.message ?? null) : unreadReason(known),
    sockets: ports ?? null,
    ztunnel: ztunnelOf(facts, known),
    probes: probes.value ?? { ...probesOf(facts, known), member: null },
    bypasses: bypassesOf(capture?.seen.bypasses.value),
  };
}

async function lookAtSidecar(
  { config, sidecars }: AgentFacts,
  served: ServedSidecar,
): Promise<ObservedReport> {
  const { options, place } = served;
  if (options === undefined || place === undefined) return sidecarObservedLast(served);
  const { value: drift, error } = await answerOf(async (signal) => {
    using netns = openPlace(place, config.hostRoot);
    return netns && (await sidecars.verify(netns, options, { signal }));
  }, limitMs);
  return sidecarObserved(served, { drift, error });
}

/** The sets are read as a whole: what they lack of this pod is among the differences. */
async function probesNow(facts: AgentFacts, known: KnownPod): Promise<PodProbesReport> {
  const told = probesOf(facts, known);
  const drift = await facts.probes.verify();
  const isMissing = drift.some(
    ({ kind, uid }) =>
      kind === "missing-set" || kind === "wrong-set" || (kind !== "stale-member" && uid === known.pod.uid),
  );
  return isMissing ? { ...told, member: false } : told;
}
