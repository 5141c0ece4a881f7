// SPDX-License-Identifier: Apache-2.0
// The node and its agent as a report.
import type { AgentConfig } from "../config.ts";
import { lookIntervalMs } from "../enrolment/look-costs.ts";
import { sandboxSources } from "../enrolment/sandbox-finder.ts";
import { openNetnsCount } from "../linux/netns.ts";
import { version } from "../version.ts";
import type {
  AgentFacts,
  ChainFacts,
  LeftoversFacts,
  ProbePathFacts,
  RuntimeFacts,
  WatchFacts,
} from "./agent-facts.ts";
import { renderSelector } from "./desired-report.ts";
import type {
  AmbientLeftoversReport,
  ChainReport,
  CountReport,
  NodeReport,
  NodeZtunnelReport,
  PodCountsReport,
  ProbePathReport,
  RuntimeReport,
  WatchReport,
} from "./node-state-report.ts";
import {
  failureOf,
  type KnownPod,
  knownPods,
  mayBeBypassed,
  sandboxSourceOf,
  stateOf,
} from "./pod-report.ts";

/** As NodeState counts copies stale. */
const maxWatchAgeMs = 60_000;

/** Everything about the node; reads nothing but the agent's memory and its own process. */
export async function reportNode(facts: AgentFacts): Promise<NodeReport> {
  const { config, readiness, probes } = facts;
  return {
    at: new Date().toISOString(),
    version,
    node: config.nodeName,
    startedAt: facts.process.startedAt.toISOString(),
    uptimeSeconds: Math.round(facts.process.uptimeSeconds * 10) / 10,
    ready: readiness.reason === undefined,
    conditions: readiness.conditions.map(({ name, missing }) => ({
      name,
      met: missing === undefined,
      reason: missing ?? null,
    })),
    backend: { variant: facts.backend.variant, reason: facts.backend.reason },
    watches: [reportWatch("pods", facts.cluster.pods), reportWatch("namespaces", facts.cluster.namespaces)],
    ztunnel: reportZtunnel(facts),
    chain: facts.chain === undefined ? null : reportChain(facts.chain),
    probes: {
      fault: probes.fault ?? null,
      restored: probes.counts.restored,
      failures: probes.counts.failures,
      path: reportProbePath(facts.probePath?.()),
    },
    runtime: facts.runtime === undefined ? null : reportRuntime(facts.runtime),
    sandboxes: countSandboxes(facts),
    ambientLeftovers: reportLeftovers(facts.leftovers?.found),
    repairs: countsOf(facts.enrolment.repairs),
    sidecarRepairs: countsOf(facts.sidecars.repairs),
    pods: countPods(facts),
    openNetns: openNetnsCount(),
    process: await facts.process.report(),
    settings: settingsOf(config),
    ignoredSettings: config.ignored,
    recentErrors: facts.ring.recent(),
  };
}

function reportWatch(name: WatchReport["name"], watch: WatchFacts): WatchReport {
  const { lastContactMs, counts } = watch;
  const ageMs = lastContactMs === undefined ? undefined : performance.now() - lastContactMs;
  return {
    name,
    objects: watch.size,
    synced: watch.synced,
    fresh: watch.isFresh(maxWatchAgeMs),
    ageSeconds: ageMs === undefined ? null : Math.max(0, Math.round(ageMs / 100) / 10),
    lists: counts.lists,
    watches: counts.watches,
    failures: counts.failures,
  };
}

function reportZtunnel({ config, ztunnel }: AgentFacts): NodeZtunnelReport {
  return {
    socket: config.ztunnelSocketPath,
    ready: ztunnel.ready,
    roster: ztunnel.podCount,
    accepted: ztunnel.acceptedCount,
    connections: ztunnel.connections.map((connection) => ({
      id: connection.id,
      pid: connection.pid,
      since: connection.connectedAt.toISOString(),
      phase: connection.phase,
      acknowledged: connection.acknowledgedCount,
      pending: connection.pendingCount,
      refused: connection.refusedCount,
    })),
  };
}

function reportChain(chain: ChainFacts): ChainReport {
  return {
    file: chain.configPath ?? null,
    installed: chain.fault === undefined && chain.configPath !== undefined,
    plugins: chain.pluginTypes,
    fault: chain.fault ?? null,
    rewrites: chain.rewrites,
    fights: chain.fights,
    fighting: chain.isFighting,
  };
}

function reportProbePath(found: ProbePathFacts | undefined): ProbePathReport | null {
  if (found?.atMs === undefined || found.outcome === "unknown") return null;
  const { outcome, message = "", remedy = null } = found;
  const at = new Date(found.atMs).toISOString();
  return outcome === "bypassed"
    ? { at, outcome, message: "kubelet probes reach captured pods past ztunnel", remedy: null }
    : { at, outcome, message, remedy };
}

function reportRuntime({ path, state, since, runtime, fault, registrations }: RuntimeFacts): RuntimeReport {
  return {
    socket: path,
    state,
    since: since.toISOString(),
    runtime: runtime === undefined ? null : `${runtime.name} ${runtime.version}`,
    fault: fault ?? null,
    registrations,
  };
}

function countSandboxes({ enrolment }: AgentFacts): CountReport[] {
  const sources = Array.from(enrolment.records(), ({ sandbox }) => sandboxSourceOf(sandbox));
  return countKinds(sources, sandboxSources);
}

const MAX_NAMESPACES = 16;

function reportLeftovers(found: LeftoversFacts | undefined): AmbientLeftoversReport | null {
  if (found === undefined) return null;
  const { rules, captured, fault = null } = found;
  return { rules, captured: captured.slice(0, MAX_NAMESPACES), fault };
}

function countPods(facts: AgentFacts): PodCountsReport {
  const pods = knownPods(facts);
  const states = { outside: 0, waiting: 0, pending: 0, enrolled: 0, unverified: 0, failed: 0, sidecar: 0 };
  for (const known of pods) states[stateOf(known)]++;
  const count = (isMeant: (known: KnownPod) => boolean): number => pods.filter(isMeant).length;
  return {
    known: pods.length,
    wanted: count(({ desired }) => desired?.wanted === true),
    ...states,
    verified: count((known) => isVerified(facts, known)),
    mayBeBypassed: count(mayBeBypassed),
    slow: count(({ record }) => record?.slowLookMs !== undefined),
    failing: countKinds(pods.map(failingKind)),
  };
}

function isVerified({ config }: AgentFacts, { record, past }: KnownPod): boolean {
  const { look, failure } = past;
  if (record?.state !== "enrolled" || look === undefined || failure !== undefined) return false;
  const isCurrent = look.netnsKey === record.sandbox?.netns.key;
  const pauseMs = lookIntervalMs(config.reconcileIntervalMs, record, { nowMs: look.atMs, random: 1 });
  return isCurrent && performance.now() - look.atMs <= 2 * pauseMs;
}

/** Of a pod whose rules cannot be known nobody knows that it fails. */
function failingKind(known: KnownPod): string | null {
  if (stateOf(known) === "unverified") return null;
  const failure = failureOf(known);
  if (failure !== undefined) return failure.kind;
  return known.desired === undefined ? "namespace" : null;
}

/** @param known kinds that are told of where there is none, too */
function countKinds(kinds: readonly (string | null)[], known: readonly string[] = []): CountReport[] {
  const counts = new Map(known.map((kind) => [kind, 0]));
  for (const kind of kinds) if (kind !== null) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  return countsOf(counts);
}

function countsOf(counts: ReadonlyMap<string, number>): CountReport[] {
  return [...counts].map(([kind, count]) => ({ kind, count })).sort((a, b) => (a.kind < b.kind ? -1 : 1));
}

function settingsOf(config: AgentConfig): Record<string, string> {
  const { install } = config;
  return {
    AMBIENT_ENABLED: String(config.ambient),
    AMBIENT_ENABLEMENT_SELECTOR: config.selectors
      .map((entry, index) => `${index + 1}: ${renderSelector(entry)}`)
      .join("; "),
    EXCLUDE_NAMESPACES: [...config.excludeNamespaces].join(","),
    SYSTEM_NAMESPACE: config.systemNamespace,
    AMBIENT_DNS_CAPTURE: String(config.dnsCapture),
    AMBIENT_IPV6: String(config.ipv6),
    HOST_PROBE_SNAT_IP: config.probeSnatV4,
    HOST_PROBE_SNAT_IPV6: config.probeSnatV6,
    AMBIENT_ENABLE_AWS_BRANCH_ENI_PROBE: String(config.branchEniProbes),
    PROBE_MATCH: config.probeMatch,
    ESTABLISHED_CONNECTIONS: config.establishedConnections,
    FORCE_IPTABLES_BINARY: config.iptablesVariant === "native" ? "auto" : config.iptablesVariant,
    NATIVE_NFTABLES: String(config.iptablesVariant === "native"),
    HOST_ROOT: config.hostRoot,
    CNI_AGENT_RUN_DIR: config.runDir,
    ZTUNNEL_UDS_ADDRESS: config.ztunnelSocketPath,
    RECONCILE_INTERVAL_SECONDS: String(config.reconcileIntervalMs / 1000),
    KERNEL_NOTICES: String(config.kernelNotices),
    ZTUNNEL_WAIT_SECONDS: String(config.ztunnelWaitMs / 1000),
    LEAVE_PAUSE_MS: String(config.leavePauseMs),
    LEAVE_DRAIN_MS: String(config.leaveDrainMs),
    NRI_ENABLED: config.nri.enabled,
    NRI_SOCKET_PATH: config.nri.socketPath,
    NRI_REFUSE: String(config.nri.refuse),
    INSTALL_CNI_PLUGIN: String(install.enabled),
    MOUNTED_CNI_NET_DIR: install.netDir,
    CHAINED_CNI_PLUGIN: String(install.chained),
    AGENT_AWAY_POLICY: install.awayPolicy,
    AGENT_WAIT_SECONDS: String(install.agentWaitSeconds),
  };
}
