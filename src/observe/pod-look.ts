// SPDX-License-Identifier: Apache-2.0
// Looks at one pod in the kernel, bounded in time: a namespace that does not answer costs its own part of the report only.

import { listeningSockets } from "../linux/listening-sockets.ts";
import { within } from "../loop/deadline.ts";
import type { BypassReport } from "../netfilter/bypass.ts";
import { routingDrift } from "../redirection/routing-drift.ts";
import type { RedirectOptions } from "../redirection/rules.ts";
import type { AgentFacts, RedirectionFacts } from "./agent-facts.ts";
import {
  bypassesOf,
  type KnownPod,
  probesOf,
  skipOf,
  unreadReason,
  wantedFamilies,
  wantedFingerprint,
  ztunnelOf,
} from "./pod-report.ts";
import type { FamilyReport, ObservedReport, PodProbesReport, SocketReport } from "./state-report.ts";

const DEFAULT_LIMIT_MS = 3000;

type Seen = Awaited<ReturnType<RedirectionFacts["verify"]>>;

/** What is there of a pod now. @param options.limitMs for each of the questions, which are asked at once; default 3 s */
export async function lookAtPod(
  facts: AgentFacts,
  known: KnownPod,
  options: { limitMs?: number } = {},
): Promise<ObservedReport | null> {
  const { record, desired } = known;
  const sandbox = record?.sandbox;
  if (record === undefined || (sandbox === undefined && record.state === "outside")) return null;
  const { limitMs = DEFAULT_LIMIT_MS } = options;
  const netns = sandbox === undefined || sandbox.netns.closed ? undefined : sandbox.netns;
  const redirect = desired?.wanted === true ? desired.redirect : undefined;
  const isReadable = netns !== undefined && redirect !== undefined;
  const { bypasses: find } = facts;
  const [seen, sockets, probes, bypasses] = await Promise.all([
    isReadable
      ? settle(limitMs, (signal) => facts.redirection.verify(netns, redirect, { signal }))
      : unread<Seen>(unreadReason(known)),
    netns === undefined ? unread<SocketReport[]>("") : settle(limitMs, () => listeningSockets(netns.fd)),
    settle(limitMs, () => probesNow(facts, known)),
    isReadable && find !== undefined
      ? settle(limitMs, () => find(netns, redirect))
      : unread<BypassReport>(""),
  ]);
  const ports = redirect?.dnsCapture === false ? sockets.value?.filter(isNotDns) : sockets.value;
  return {
    at: new Date().toISOString(),
    source: "kernel",
    netns: sandbox?.netns.key ?? null,
    containerId: sandbox?.containerId || null,
    families:
      seen.value === undefined || redirect === undefined
        ? []
        : familiesOf(facts, { seen: seen.value, redirect }),
    unread: seen.fault ?? sockets.fault ?? null,
    sockets: ports ?? null,
    ztunnel: ztunnelOf(facts, known),
    probes: probes.value ?? { ...probesOf(facts, known), member: null },
    bypasses: bypassesOf(bypasses.value),
  };
}

function isNotDns({ port }: SocketReport): boolean {
  return port !== 15053;
}

function familiesOf(
  facts: AgentFacts,
  { seen, redirect }: { seen: Seen; redirect: RedirectOptions },
): FamilyReport[] {
  const misrouted = routingDrift(seen.routing);
  return wantedFamilies(facts).map((family) => {
    const skip = skipOf(seen.skippedFamilies, family);
    const drift = seen.drift.filter((each) => each.family === family);
    const isRight = drift.every(({ kind }) => kind === "missing-ip-rule" || kind === "missing-route");
    const wanted = wantedFingerprint(redirect, family);
    const has = (kind: string): boolean | null =>
      skip === undefined ? !misrouted.some((each) => each.family === family && each.kind === kind) : null;
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

/** The sets are read as a whole: what they lack of this pod is among the differences. */
async function probesNow(facts: AgentFacts, known: KnownPod): Promise<PodProbesReport> {
  const told = probesOf(facts, known);
  const { drift } = await facts.probes.verify();
  const isMissing = drift.some(
    ({ kind, uid }) => kind === "missing-set" || kind === "wrong-set" || uid === known.pod.uid,
  );
  return isMissing ? { ...told, member: false } : told;
}

interface Settled<T> {
  readonly value: T | undefined;
  readonly fault: string | undefined;
}

function unread<T>(fault: string): Promise<Settled<T>> {
  return Promise.resolve({ value: undefined, fault: fault === "" ? undefined : fault });
}

/** Waits for an answer, but not for ever; who is too late is told to stop. */
async function settle<T>(limitMs: number, ask: (signal: AbortSignal) => Promise<T>): Promise<Settled<T>> {
  const abort = new AbortController();
  try {
    return { value: await within(ask(abort.signal), { ms: limitMs }), fault: undefined };
  } catch (error) {
    return { value: undefined, fault: (error as Error).message };
  } finally {
    abort.abort();
  }
}
