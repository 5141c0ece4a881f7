// SPDX-License-Identifier: Apache-2.0
// A pod that is redirected to its sidecar, as a report: the words that ambient pods have for where they stand. No I/O.
import type { ServedSidecar } from "../enrolment/sidecars.ts";
import type { Family } from "../netfilter/family.ts";
import type { SidecarDrift } from "../redirection/sidecar-redirection.ts";
import type {
  FamilyReport,
  ObservedReport,
  PodProbesReport,
  PodStateReport,
  PodZtunnelReport,
  TransitionReport,
} from "./state-report.ts";

/** ztunnel and the host's sets never hear of such a pod. */
const NO_ZTUNNEL: PodZtunnelReport = {
  inRoster: false,
  acknowledged: false,
  netns: null,
  connection: null,
};
const NO_PROBES: PodProbesReport = { member: null, addresses: [] };
const NOT_AMBIENT = { sockets: null, ztunnel: NO_ZTUNNEL, probes: NO_PROBES, bypasses: null };

/** Where it stands; before this agent's first look nobody has verified what its ADD wrote. */
export function sidecarState({ record }: ServedSidecar): PodStateReport {
  return record?.state ?? "pending";
}

/** One sentence. */
export function sidecarSummary({ record }: ServedSidecar): string {
  if (record === undefined) return "redirected to its sidecar by its ADD; no look has verified it yet";
  const { state, failure, look } = record;
  const why = failure?.message ?? "";
  switch (state) {
    case "sidecar":
      return `redirected to its sidecar, verified at ${look?.at}`;
    case "unverified":
      return `cannot verify whether it is redirected to its sidecar: ${why}`;
    case "failed":
      return `not redirected to its sidecar as it should be: ${why}`;
  }
}

/** What its last ADD or look saw. */
export function sidecarObservedLast({ place, record }: ServedSidecar): ObservedReport {
  const look = record?.look;
  const isRight = record?.state === "sidecar" && look !== undefined;
  const unread = record?.failure?.message ?? "no look has been there yet";
  return {
    // what the last look says counts even where a later one failed
    at: look?.at ?? record?.transitions.at(-1)?.at ?? new Date().toISOString(),
    source: "last-run",
    ...placeOf({ place, record }),
    families: isRight ? look.families.map((family) => familyOf(family, [])) : [],
    unread: isRight ? null : unread,
    ...NOT_AMBIENT,
  };
}

/** What was seen for this answer; neither drift nor error: nobody could look. */
export function sidecarObserved(
  { place, record }: ServedSidecar,
  seen: { readonly drift?: readonly SidecarDrift[] | undefined; readonly error?: Error | undefined },
): ObservedReport {
  const { drift, error } = seen;
  const families = record?.look?.families ?? [];
  const all = [...new Set([...families, ...(drift ?? []).map(({ family }) => family)])].sort();
  return {
    at: new Date().toISOString(),
    source: "kernel",
    ...placeOf({ place, record }),
    families: drift === undefined ? [] : all.map((family) => familyOf(family, drift)),
    unread: drift === undefined ? (error?.message ?? "its network namespace is not there") : null,
    ...NOT_AMBIENT,
  };
}

/** @param limit how many of the newest */
export function sidecarTransitions({ record }: ServedSidecar, limit: number): TransitionReport[] {
  return (record?.transitions ?? []).slice(-limit).map((change) => ({ ...change, steps: [] }));
}

function placeOf({ place, record }: Pick<ServedSidecar, "place" | "record">) {
  const netns = place?.netnsKey ?? record?.look?.netnsKey ?? null;
  return { netns, containerId: place?.containerId ?? null };
}

function familyOf(family: Family, drift: readonly SidecarDrift[]): FamilyReport {
  const own = drift.filter((each) => each.family === family);
  return {
    family,
    skipped: null,
    fingerprint: null,
    wantedFingerprint: null,
    drift: own.map(({ kind, table, chain, detail }) => ({ kind, table, chain, detail })),
    ipRule: null,
    route: null,
  };
}
