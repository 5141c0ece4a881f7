// SPDX-License-Identifier: Apache-2.0
// The one verdict: whether a pod is captured, or left alone, as it should be; the kernel is looked at, then judged. Judging is pure.
import { sameAddress } from "../linux/address.ts";
import { hasRouting } from "../linux/netlink/rtnetlink.ts";
import type { Netns } from "../linux/netns.ts";
import type { Family } from "../netfilter/family.ts";
import type { Finding as RuleFinding } from "../netfilter/rule-engine.ts";
import { bypassText } from "../redirection/bypass-words.ts";
import type { Drift } from "../redirection/fingerprint.ts";
import type { Verification } from "../redirection/redirection-call.ts";
import { RedirectionError } from "../redirection/redirection-error.ts";
import { CHAIN_NAMES, type RedirectOptions, redirectRules, redirectTables } from "../redirection/rules.ts";
import { rulesKnowledge } from "../redirection/rules-knowledge.ts";
import type { SidecarOptions } from "../redirection/sidecar-options.ts";
import type { SidecarDrift } from "../redirection/sidecar-redirection.ts";
import { toldSidecar } from "../redirection/told-sidecar.ts";
import { type Answer, type CaptureMeans, lookAtCapture, type SeenCapture } from "./look.ts";

/** What should be of a pod, and what others say of it. */
export interface WantedCapture {
  /** How it should be redirected; "outside": not at all; "unknown": somehow, and rules are not judged. */
  readonly redirect: RedirectOptions | "outside" | "unknown";
  /** How it should be redirected to its sidecar, which no pod is that is to be redirected to ztunnel; absent: it is not judged. */
  readonly sidecar?: SidecarOptions | undefined;
  /** Its annotation; absent: not known. */
  readonly annotation?: string | null | undefined;
  /** Addresses of its status; none: not known. */
  readonly ips?: readonly string[];
  /** `Netns.key` that the agent holds for it, and that ztunnel acknowledged; `null`: none. */
  readonly held?: { readonly agent: string | null; readonly ztunnel: string | null };
}

/** Name of a finding. */
export type CaptureKind =
  | Drift["kind"]
  | RuleFinding["kind"]
  | SidecarDrift["kind"]
  | "no-sidecar-rules"
  | "unreadable-rules"
  | "dormant-table"
  | "may-be-bypassed"
  | "wrong-backend"
  | "foreign-chain"
  | "netns-swapped"
  | "ztunnel-sockets"
  | "not-captured"
  | "unwanted-capture"
  | "annotation-without-capture"
  | "capture-without-annotation";

/** One thing that is not as it should be. */
export interface CaptureFinding {
  readonly kind: CaptureKind;
  /** One sentence, or a rule. */
  readonly detail: string;
  /** Where the rules differ. */
  readonly at?: { readonly family: Family; readonly table: string; readonly chain: string };
}

/** What a look at a namespace came to. */
export interface CaptureReport {
  readonly findings: readonly CaptureFinding[];
  /** Questions without an answer: what they are about is neither right nor wrong. */
  readonly unseen: readonly Error[];
  readonly seen: SeenCapture;
}

/** Looks at a namespace and says what is not as it should be; writes nothing, never rejects. */
export async function checkCapture(
  netns: Netns,
  wanted: WantedCapture,
  means: CaptureMeans,
): Promise<CaptureReport> {
  const { redirect, sidecar } = wanted;
  const seen = await lookAtCapture(
    netns,
    { redirect: typeof redirect === "string" ? undefined : redirect, sidecar },
    means,
  );
  return { findings: judgeCapture(seen, wanted), unseen: unseenOf(seen), seen };
}

/** Everything that is not as it should be; none: all is. Pure. */
export function judgeCapture(seen: SeenCapture, wanted: WantedCapture): CaptureFinding[] {
  if (wanted.sidecar !== undefined) return judgeServed(seen, { ...wanted, sidecar: wanted.sidecar });
  if (wanted.redirect === "outside") return judgeOutsider(seen, wanted);
  const swapped = swappedNamespace(seen, wanted);
  if (swapped !== undefined) return [finding("netns-swapped", swapped)];
  if (wanted.redirect === "unknown") return [];
  const { rules } = seen;
  if (isOfNamespace(rules.error)) return [unjudged(rules.error)];
  return rules.value === undefined
    ? []
    : judgeCaptured({ ...seen, found: rules.value }, { ...wanted, redirect: wanted.redirect });
}

function unseenOf({ key: _, ...answers }: SeenCapture): Error[] {
  return Object.values(answers).flatMap(({ error }: Answer<unknown>) =>
    error === undefined || isOfNamespace(error) ? [] : [error],
  );
}

/** It says something of the rules: no question that was left without an answer. */
function isOfNamespace(error: Error | undefined): error is RedirectionError {
  return error instanceof RedirectionError && rulesKnowledge(error) !== undefined;
}

function unjudged({ code, message }: RedirectionError): CaptureFinding {
  return finding(code === "TABLE_DORMANT" ? "dormant-table" : "unreadable-rules", message);
}

/** A pod that is redirected to its sidecar is outside the mesh of ztunnel, whatever else is to be said of it. */
function judgeServed(
  seen: SeenCapture,
  wanted: WantedCapture & { readonly sidecar: SidecarOptions },
): CaptureFinding[] {
  const { error, value: drift = [] } = seen.sidecar;
  const swapped = swappedNamespace(seen, wanted);
  if (swapped !== undefined) return [finding("netns-swapped", swapped)];
  const outside = judgeOutsider(seen, wanted);
  if (isOfNamespace(error)) return [...outside, unjudged(error)];
  if (isUnserved(drift, wanted.sidecar))
    return [
      ...outside,
      finding("no-sidecar-rules", "its sidecar waits for rules, and nothing redirects the pod to it"),
    ];
  return [...outside, ...drift.map(locatedFinding)];
}

/** No chain is there of all that should be, in the families that were looked at. */
function isUnserved(drift: readonly SidecarDrift[], options: SidecarOptions): boolean {
  const missing = drift.filter(({ kind }) => kind === "missing-chain");
  const families = [...new Set(missing.map(({ family }) => family))];
  const { own, wanted } = toldSidecar(options, families);
  const isWanted = (table: Place) => wanted.some((each) => isSamePlace(each, table));
  const chainCount = own.filter(isWanted).reduce((sum, { chains }) => sum + chains.length, 0);
  return missing.length > 0 && missing.length === chainCount;
}

type Place = Pick<SidecarDrift, "family" | "table">;

function isSamePlace(a: Place, b: Place): boolean {
  return a.family === b.family && a.table === b.table;
}

function judgeOutsider({ touched }: SeenCapture, { annotation }: WantedCapture): CaptureFinding[] {
  if (touched.value === true)
    return [finding("unwanted-capture", "the pod should be outside the mesh, but has our rules or routing")];
  return annotation === "enabled" && touched.value === false ? [emptyClaim()] : [];
}

function swappedNamespace({ key, addresses }: SeenCapture, { held, ips = [] }: WantedCapture) {
  const { agent = null, ztunnel = null } = held ?? {};
  const holders = [
    ...(agent !== null && agent !== key ? [`the agent holds ${agent}`] : []),
    ...(ztunnel !== null && ztunnel !== key ? [`ztunnel was given ${ztunnel}`] : []),
  ];
  if (holders.length > 0) return `the pod runs in network namespace ${key}, but ${holders.join(" and ")}`;
  const isOwner = addresses.value?.some((address) => ips.some((ip) => sameAddress(ip, address)));
  if (ips.length === 0 || isOwner !== false) return undefined;
  return `no interface in the pod's network namespace ${key} has one of its addresses ${ips.join(", ")}`;
}

function judgeCaptured(
  { found, sockets, elsewhere, strangers, bypasses }: SeenCapture & { readonly found: Verification },
  { redirect, annotation }: WantedCapture & { readonly redirect: RedirectOptions },
): CaptureFinding[] {
  const isGone = isBlank(found, redirect);
  const before = bypasses.value === undefined ? "" : bypassText(bypasses.value);
  const others = [
    ...(elsewhere.value ?? []).map((where) => {
      const here = isGone ? "and not" : "and also";
      return finding("wrong-backend", `our chains are in ${where}, ${here} where this node keeps them`);
    }),
    ...(strangers.value ?? []).map((where) => finding("foreign-chain", where)),
    // before rules that do not stand nothing can be
    ...(isGone || before === "" ? [] : [finding("may-be-bypassed", before)]),
  ];
  const isMoved = isGone && (elsewhere.value ?? []).length > 0;
  if (isGone && !isMoved && !hasRouting(found.routing)) {
    if (annotation === "enabled") return [...others, emptyClaim()];
    return [...others, finding("not-captured", "it belongs into the mesh, and nothing redirects it")];
  }
  const drift = isMoved ? found.drift.filter(({ kind }) => !isOfChains(kind)) : found.drift;
  const closed = closedSockets(sockets, redirect);
  const isUnclaimed = annotation === null || (annotation === "pending" && closed?.length === 0);
  return [
    ...others,
    ...nameForeign(drift, redirect),
    ...(closed ?? []).map((port) =>
      finding("ztunnel-sockets", `ztunnel does not listen on ${port} in the pod`),
    ),
    ...(isUnclaimed && !isGone
      ? [
          finding(
            "capture-without-annotation",
            `it is redirected, but annotated as ${annotation ?? "nothing"}`,
          ),
        ]
      : []),
  ];
}

/** Nothing at all is there of what should be, in the families that were looked at. */
function isBlank({ drift, fingerprints }: Verification, redirect: RedirectOptions): boolean {
  const chainCount = redirectTables(redirect).length * CHAIN_NAMES.length;
  return [...fingerprints.keys()].every(
    (family) =>
      drift.filter((each) => each.kind === "missing-chain" && each.family === family).length === chainCount,
  );
}

function isOfChains(kind: Drift["kind"]): boolean {
  return kind === "missing-chain" || kind === "missing-jump";
}

/** A chain of our name that holds rules, and none of ours, is somebody else's: one finding, and no list of rules. */
function nameForeign(drift: readonly Drift[], redirect: RedirectOptions): CaptureFinding[] {
  const left = new Set(drift);
  const foreign: CaptureFinding[] = [];
  for (const first of drift) {
    if (first.kind !== "extra-rule" || !left.has(first)) continue;
    const { family, table, chain } = first;
    const here = drift.filter(
      (each) =>
        each.family === family && each.table === table && each.chain === chain && isOfRules(each.kind),
    );
    const ours = redirectRules(redirect, family).filter(
      (rule) => rule.table === table && rule.chain === chain,
    );
    const isOurName = CHAIN_NAMES.some((name) => name === chain);
    if (!isOurName || here.filter(({ kind }) => kind === "missing-rule").length !== ours.length) continue;
    const rules = here.filter(({ kind }) => kind === "extra-rule").map(({ detail }) => detail);
    const detail = `${chain} holds none of our rules, but ${rules.join(", ")}`;
    foreign.push({ kind: "foreign-chain", detail, at: { family, table, chain } });
    for (const each of here) left.delete(each);
  }
  return [...foreign, ...[...left].map(locatedFinding)];
}

function isOfRules(kind: Drift["kind"]): boolean {
  return kind === "extra-rule" || kind === "missing-rule" || kind === "reordered";
}

/** Those of ztunnel's ports that are not listened on. */
function closedSockets(
  sockets: SeenCapture["sockets"],
  { dnsCapture }: RedirectOptions,
): string[] | undefined {
  return sockets.value
    ?.filter(({ listening, port }) => !listening && (dnsCapture || port !== 15053))
    .map(({ protocol, port }) => `${protocol}/${port}`);
}

function emptyClaim(): CaptureFinding {
  return finding("annotation-without-capture", "it is annotated as enabled, and nothing redirects it");
}

function locatedFinding({ kind, detail, family, table, chain }: Drift | SidecarDrift): CaptureFinding {
  return { kind, detail, at: { family, table, chain } };
}

function finding(kind: CaptureKind, detail: string): CaptureFinding {
  return { kind, detail };
}
