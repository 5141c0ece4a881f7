// SPDX-License-Identifier: Apache-2.0
// One pod as the agent knows it from its last run, as a report. No I/O.
import { isIPv6 } from "node:net";
import type { Desired } from "../enrolment/desired-state.ts";
import type { EnrolmentState } from "../enrolment/enrolment-state.ts";
import type { PodFailure, PodPast } from "../enrolment/pod-history.ts";
import type { PodStatus } from "../enrolment/pod-record.ts";
import type { Sandbox, SandboxSource } from "../enrolment/sandbox-finder.ts";
import type { ServedSidecar } from "../enrolment/sidecars.ts";
import type { AnnotationRefusal } from "../kube/annotation-writer.ts";
import { type PodFacts, podAnnotations } from "../kube/pod-facts.ts";
import type { BypassReport } from "../netfilter/bypass/bypass.ts";
import type { Family } from "../netfilter/family.ts";
import { bypassText } from "../redirection/bypass-words.ts";
import { desiredChains, fingerprint } from "../redirection/fingerprint.ts";
import type { SkippedFamily } from "../redirection/pod-routing.ts";
import type { Verification } from "../redirection/redirection-call.ts";
import { isOfRouting } from "../redirection/routing-drift.ts";
import { type RedirectOptions, redirectVariantKey } from "../redirection/rules.ts";
import type { AgentFacts } from "./agent-facts.ts";
import { describeDesired } from "./desired-report.ts";
import { sidecarObservedLast, sidecarState, sidecarSummary, sidecarTransitions } from "./sidecar-report.ts";
import type {
  BypassesReport,
  DesiredReport,
  FamilyReport,
  ObservedReport,
  PodErrorReport,
  PodProbesReport,
  PodReport,
  PodZtunnelReport,
} from "./state-report.ts";

/** A pod with what the parts know of it. */
export interface KnownPod {
  readonly pod: PodFacts;
  readonly record: PodStatus | undefined;
  readonly desired: Desired | undefined;
  readonly past: PodPast;
  readonly refusal: AnnotationRefusal | undefined;
  /** The pod is redirected to its sidecar: where it stands is the sidecar's, and nothing of the rest says anything. */
  readonly sidecar: ServedSidecar | undefined;
}

/** Everything known of a pod; `undefined` for one that neither the API server's copy nor the enrolment has. */
export function knownPod(facts: AgentFacts, pod: PodFacts): KnownPod {
  const record = facts.enrolment.record(pod.uid);
  // an ADD may have brought newer facts than the watch
  const newest = record?.facts ?? pod;
  return {
    pod: newest,
    record,
    desired: facts.enrolment.desired(newest),
    past: facts.history.of(pod.uid),
    refusal: facts.annotations.refusal(pod.uid),
    sidecar: facts.sidecars.served(newest),
  };
}

/** Every pod of the node once, by namespace and name. */
export function knownPods(facts: AgentFacts): KnownPod[] {
  const pods = new Map<string, PodFacts>();
  for (const pod of facts.cluster.pods.values()) pods.set(pod.uid, pod);
  for (const { uid, facts: pod } of facts.enrolment.records()) if (pod !== undefined) pods.set(uid, pod);
  return [...pods.values()].map((pod) => knownPod(facts, pod)).sort(byName);
}

/** The report of a pod from memory. @param limits.transitions how many of the newest changes to show */
export function reportPod(facts: AgentFacts, known: KnownPod, limits: { transitions: number }): PodReport {
  const { pod, record, past, sidecar } = known;
  const desired = describeDesired(known.desired, facts.config.selectors, sidecar?.options);
  return {
    ns: pod.namespace,
    name: pod.name,
    uid: pod.uid,
    phase: pod.phase,
    ips: pod.ips,
    desired,
    state: stateOf(known),
    summary: summarise(known, desired),
    observed: observedLast(facts, known),
    annotation: pod.annotations[podAnnotations.redirection] ?? null,
    earlierConnections: past.earlierConnections ?? null,
    slowLookMs: record?.slowLookMs === undefined ? null : Math.round(record.slowLookMs),
    transitions:
      sidecar === undefined
        ? past.transitions.slice(-limits.transitions)
        : sidecarTransitions(sidecar, limits.transitions),
    lastError: errorOf(failureOf(known)),
  };
}

/** Where a pod stands. */
export function stateOf({ record, sidecar }: KnownPod): PodReport["state"] {
  return sidecar === undefined ? (record?.state ?? "outside") : sidecarState(sidecar);
}

/** What keeps a pod from where it should be. */
export function failureOf({ past, sidecar, refusal }: KnownPod): PodFailure | undefined {
  if (sidecar !== undefined) return sidecar.record?.failure;
  if (past.failure !== undefined || refusal === undefined) return past.failure;
  const message = `its annotation is refused: ${refusal.message}`;
  return { ...refusal, kind: "api", message, remedy: annotationRemedy };
}

/** Until then istiod has the pod for what its annotation said before. */
const annotationRemedy =
  "let the admission policy, the webhook or the role that is named allow the agent to patch pods/status; it tries again by itself";

/** What ztunnel has confirmed of a pod. */
export function ztunnelOf({ ztunnel }: AgentFacts, { pod, record }: KnownPod): PodZtunnelReport {
  const netns = ztunnel.acknowledged(pod.uid) ?? null;
  const connection = netns === null ? null : (ztunnel.connections.at(-1)?.id ?? null);
  return {
    inRoster: ztunnel.holds(pod.uid),
    acknowledged: netns !== null && netns === record?.sandbox?.netns.key,
    netns,
    connection,
  };
}

/** Whether the host's sets have a pod, as far as the agent knows. */
export function probesOf({ probes }: AgentFacts, { pod, record }: KnownPod): PodProbesReport {
  const { sandbox } = record ?? {};
  const addresses = sandbox !== undefined && sandbox.ips.length > 0 ? sandbox.ips : pod.ips;
  const held = probes.addressesOf(pod.uid);
  const member = held === undefined ? null : held.length > 0 && held.length >= addresses.length;
  return { member, addresses };
}

const fingerprints = new Map<string, string>();
const maxFingerprints = 256;

/** Hash of the rules that these options call for; `null` for options that no rule can hold. */
function wantedFingerprint(options: RedirectOptions, family: Family): string | null {
  const key = redirectVariantKey(options, family);
  const known = fingerprints.get(key);
  if (known !== undefined) return known;
  try {
    const made = fingerprint(desiredChains(options, family));
    if (fingerprints.size < maxFingerprints) fingerprints.set(key, made);
    return made;
  } catch {
    return null;
  }
}

const ipv6Outside: SkippedFamily = {
  family: 6,
  part: "all",
  reason: "AMBIENT_IPV6=false: the pod's IPv6 traffic passes ztunnel by",
};

/** Each family that the pod's redirection consists of, by what was seen of it: differences, and hashes where they were made. */
export function reportFamilies(
  facts: AgentFacts,
  {
    known,
    redirect,
    seen,
  }: {
    readonly known: KnownPod;
    readonly redirect: RedirectOptions;
    readonly seen: Pick<Verification, "skippedFamilies"> &
      Partial<Pick<Verification, "drift" | "fingerprints">>;
  },
): FamilyReport[] {
  const { ipv6 } = facts.config;
  const skippedFamilies = ipv6 ? seen.skippedFamilies : [...seen.skippedFamilies, ipv6Outside];
  const families = ipv6 || probesOf(facts, known).addresses.some(isIPv6) ? ([4, 6] as const) : ([4] as const);
  return families.map((family) => {
    const skip = skippedFamilies.find((each) => each.family === family);
    const drift = (seen.drift ?? []).filter((each) => each.family === family);
    const isRight = drift.every(({ kind }) => isOfRouting(kind));
    const wanted = wantedFingerprint(redirect, family);
    const has = (kind: string): boolean | null =>
      skip === undefined ? !drift.some((each) => each.kind === kind) : null;
    return {
      family,
      skipped: skip?.reason ?? null,
      fingerprint:
        skip?.part === "all" ? null : (seen.fingerprints?.get(family) ?? (isRight ? wanted : null)),
      wantedFingerprint: wanted,
      drift: drift.map(({ kind, table, chain, detail }) => ({ kind, table, chain, detail })),
      ipRule: has("missing-ip-rule"),
      route: has("missing-route"),
    };
  });
}

function observedLast(facts: AgentFacts, known: KnownPod): ObservedReport | null {
  const { record, desired, past, sidecar } = known;
  if (sidecar !== undefined) return sidecarObservedLast(sidecar);
  const sandbox = record?.sandbox;
  if (record === undefined || (sandbox === undefined && record.state === "outside")) return null;
  const look = past.look !== undefined && past.look.netnsKey === sandbox?.netns.key ? past.look : undefined;
  const isRead = desired?.wanted === true && look !== undefined;
  return {
    at: look?.at ?? past.transitions.at(-1)?.at ?? new Date().toISOString(),
    source: "last-run",
    netns: sandbox?.netns.key ?? null,
    containerId: sandbox?.containerId || null,
    sandboxSource: sandboxSourceOf(sandbox),
    families: isRead ? reportFamilies(facts, { known, redirect: desired.redirect, seen: look }) : [],
    unread: isRead ? null : unreadReason(known),
    sockets: null,
    ztunnel: ztunnelOf(facts, known),
    probes: probesOf(facts, known),
    bypasses: isRead ? bypassesOf(past.bypasses) : null,
  };
}

/** Who told of a pod's sandbox. */
export function sandboxSourceOf(sandbox: Sandbox | undefined): SandboxSource | null {
  return sandbox === undefined ? null : (sandbox.source ?? "add");
}

/** What stands before a pod's rules, as a report. */
export function bypassesOf(seen: BypassReport | undefined): BypassesReport | null {
  return seen === undefined ? null : { found: seen.bypasses, complete: seen.isComplete };
}

/** Captured, and perhaps not wholly. */
export function mayBeBypassed({ record, past }: KnownPod): boolean {
  if (record?.state !== "enrolled" || past.bypasses === undefined) return false;
  return past.bypasses.bypasses.length > 0 || !past.bypasses.isComplete;
}

/** Why nothing is said about a pod's namespace. */
export function unreadReason({ record, desired }: KnownPod): string {
  if (record?.sandbox === undefined) return "its sandbox is not known to the agent";
  if (desired?.wanted !== true) return "it does not belong into the mesh";
  return "no run has looked at it yet";
}

function errorOf(failure: PodFailure | undefined): PodErrorReport | null {
  if (failure === undefined) return null;
  const { at, message, remedy, attempts } = failure;
  return { at, message, remedy, attempts };
}

function summarise(known: KnownPod, desired: DesiredReport): string {
  const { record, past, sidecar } = known;
  if (sidecar !== undefined) return sidecarSummary(sidecar);
  const state = record?.state ?? "outside";
  const { look } = past;
  const failure = failureOf(known);
  if (failure !== undefined) return `${statePhrases[state]}: ${failure.message}`;
  if (desired.wanted === null) return `left as it is: ${desired.why}`;
  if (state === "outside" && desired.wanted) return "not captured yet: no run has looked at it";
  if (state === "outside") return `outside: ${desired.why}`;
  if (!desired.wanted) return `leaves the mesh: ${desired.why}`;
  if (state !== "enrolled") return statePhrases[state];
  const pace = paceOf(record?.slowLookMs);
  if (mayBeBypassed(known) && past.bypasses !== undefined)
    return `captured, but traffic may get past ztunnel: ${bypassText(past.bypasses)}${pace}`;
  return look === undefined ? "captured" : `captured, verified at ${look.at}${pace}`;
}

function paceOf(slowLookMs: number | undefined): string {
  if (slowLookMs === undefined) return "";
  return `; a look at it takes ${Math.round(slowLookMs)} ms, so it is looked at less often`;
}

const statePhrases: Readonly<Record<EnrolmentState, string>> = {
  outside: "not captured",
  waiting: "waits, untouched",
  pending: "half-way: rules stand in it, and not everything is verified and acknowledged",
  enrolled: "captured",
  unverified: "cannot verify whether it is captured",
  failed: "not captured",
};

function byName({ pod: a }: KnownPod, { pod: b }: KnownPod): number {
  if (a.namespace !== b.namespace) return a.namespace < b.namespace ? -1 : 1;
  return a.name < b.name ? -1 : a.name > b.name ? 1 : 0;
}
