// SPDX-License-Identifier: Apache-2.0
// What the agent is made of, each part with what it needs; nothing is started here.
import { uptime } from "node:os";
import { join } from "node:path";
import { isTouched } from "../check/signs.ts";
import { CniVerbs } from "../cni/cni-verbs.ts";
import { PluginServer } from "../cni/plugin-server.ts";
import type { AgentConfig } from "../config.ts";
import { runtimesConf } from "../conflist/chain-plan.ts";
import { parseFolder } from "../conflist/conf-folder.ts";
import { SelfTestWatch } from "../diagnose/self-test-watch.ts";
import { openAttachments } from "../enrolment/attachment-store.ts";
import type { Attachments } from "../enrolment/attachments.ts";
import { Enrolment } from "../enrolment/enrolment.ts";
import type { EnrolmentOptions } from "../enrolment/enrolment-options.ts";
import { PodHistory } from "../enrolment/pod-history.ts";
import { PodLookup } from "../enrolment/pod-lookup.ts";
import { soughtPod } from "../enrolment/runtime-pod.ts";
import { SandboxFinder } from "../enrolment/sandbox-finder.ts";
import { SidecarLooks } from "../enrolment/sidecar-looks.ts";
import { SidecarRecords } from "../enrolment/sidecar-records.ts";
import { Sidecars } from "../enrolment/sidecars.ts";
import { chainEntry, standsForIstioCni } from "../install/chain-entry.ts";
import { readFolder } from "../install/conf-dir.ts";
import { ExemptNamespaces, exemptListPath } from "../install/exempt-namespaces.ts";
import { Installer } from "../install/installer.ts";
import { RuntimeNetworkReader } from "../install/runtime-network.ts";
import { OwnDaemonSet } from "../kube/own-daemonset.ts";
import { LOCK_FOLDER, LockFiles } from "../linux/lock-files.ts";
import { NetnsNotices } from "../linux/netns-notices.ts";
import { portHolders } from "../linux/port-holders.ts";
import { systemClock } from "../loop/clock.ts";
import { glanceAtXtables } from "../netfilter/legacy/xtables-glance.ts";
import { HostProbes } from "../probes/host-probes.ts";
import { ProbePathWatch } from "../probes/probe-path-watch.ts";
import { forgetCarried } from "../redirection/carried-tracking.ts";
import { forgetFrozen } from "../redirection/frozen-tracking.ts";
import { type FindBypasses, findPodBypasses } from "../redirection/pod-bypass.ts";
import { countEarlier, countThroughZtunnel, resetEarlier } from "../redirection/pod-connections.ts";
import { PodRedirection } from "../redirection/pod-redirection.ts";
import { SidecarRedirection } from "../redirection/sidecar-redirection.ts";
import { ZdsServer } from "../ztunnel/zds-server.ts";
import type { Ground } from "./ground.ts";
import type { Wiring } from "./wiring.ts";

/** Ports that ztunnel opens in a pod. Source: istio/ztunnel src/config.rs. */
const ztunnelPorts = [15001, 15006, 15008, 15053];

/** Far more than a node has pods: two descriptors of each, of the hundreds of thousands that a runtime lets a process have. */
const MOST_LISTENED = 1_000;

/** What captures pods. */
export interface Capture {
  readonly ztunnel: ZdsServer;
  readonly redirection: PodRedirection;
  readonly sidecars: Sidecars;
  readonly sidecarLooks: SidecarLooks;
  readonly bypasses: FindBypasses;
  readonly probes: HostProbes;
  readonly probePath: ProbePathWatch;
  readonly history: PodHistory;
  readonly attachments: Attachments;
  readonly finder: SandboxFinder;
  readonly enrolment: Enrolment;
}

export function makeCapture(ground: Ground, wiring: Wiring): Capture {
  const { config, loggers, metrics, hostNetns, backend, node, annotations, events } = ground;
  const ztunnel = new ZdsServer({
    path: config.ztunnelSocketPath,
    log: loggers.scope("ztunnel"),
    onanswer: (result, seconds) => metrics.ztunnelAnswered(result, seconds),
  });
  const { probes, probePath } = makeProbes(ground, wiring);
  const locks = new LockFiles(join(config.runDir, LOCK_FOLDER));
  const redirection = new PodRedirection({ backend, hostNetns, ipv6: config.ipv6, locks });
  const { runDir, hostRoot, reconcileIntervalMs: intervalMs } = config;
  const attachments = openAttachments({ runDir, hostRoot, log: loggers.scope("enrolment") });
  const log = loggers.scope("redirect");
  const records = new SidecarRecords();
  const sidecars = new Sidecars({
    redirection: new SidecarRedirection({ backend, hostNetns, locks }),
    attachments,
    records,
    excludeNamespaces: config.excludeNamespaces,
    log,
  });
  const finder = new SandboxFinder({ hostRoot, hostNetns, log: loggers.scope("netns") });
  const sidecarLooks = new SidecarLooks({
    pods: node.pods,
    sidecars,
    attachments,
    records,
    events,
    find: async (pod) => (await finder.find(soughtPod(pod)))?.netns,
    hostRoot,
    intervalMs,
    log,
  });
  const history = new PodHistory({ listener: metrics });
  const bypasses = bypassLook(ground);
  const enrolment = new Enrolment({
    node,
    finder,
    redirection,
    isTouched,
    connections: { countEarlier, resetEarlier, countThroughZtunnel, forgetCarried, forgetFrozen },
    portHolders: (netns) => portHolders(netns, ztunnelPorts, { procRoot: join(config.hostRoot, "proc") }),
    attachments,
    ztunnel,
    annotations,
    events,
    probes: config.ambient ? probes : noProbes,
    probePath,
    bypasses,
    notices: {
      open: (netns) => NetnsNotices.open(netns, "pod"),
      most: config.kernelNotices ? MOST_LISTENED : 0,
      glance: backend.variant === "legacy" ? glanceAtXtables : undefined,
    },
    history,
    policy: { ...config, agentNamespace: config.podNamespace },
    log: loggers.scope("enrolment"),
    clock: systemClock,
    bootMs: uptime() * 1000 - systemClock.nowMs(),
    reconcileIntervalMs: config.reconcileIntervalMs,
    ztunnelWaitMs: config.ztunnelWaitMs,
    pace: config,
  });
  return {
    ...{ ztunnel, redirection, sidecars, sidecarLooks, bypasses, probes, probePath, history },
    ...{ attachments, finder, enrolment },
  };
}

/** Without pods of ambient mode the host needs no rules for their probes. */
const noProbes: EnrolmentOptions["probes"] = {
  start: async () => {},
  restore: async () => {},
  set: async () => {},
  remove: async () => {},
};

function bypassLook({ backend, config }: Ground): FindBypasses {
  const families = config.ipv6 ? ([4, 6] as const) : ([4] as const);
  return (netns, redirect, known) =>
    findPodBypasses(netns, { variant: backend.variant, families, redirect }, known);
}

function makeProbes(
  { config, loggers, backend }: Ground,
  wiring: Wiring,
): Pick<Capture, "probes" | "probePath"> {
  const { hostNetnsPath, probeSnatV4, probeSnatV6, ipv6, branchEniProbes } = config;
  const log = loggers.scope("probes");
  const probes = new HostProbes({
    hostNetnsPath,
    branchEniProbes,
    backend,
    probeSnatV4,
    probeSnatV6,
    ipv6,
    match: config.probeMatch,
    listen: config.kernelNotices ? (netns) => NetnsNotices.open(netns, "host") : undefined,
    procRoot: join(config.hostRoot, "proc"),
    isOutside: (uid) => wiring.isOutside(uid),
    log,
    onstate: (fault) => wiring.probesState(fault),
  });
  const probePath = new ProbePathWatch({
    hostNetnsPath,
    probeSnatV4,
    probeSnatV6,
    ipv6,
    countsOwnConnections: () => probes.countsOwnConnections,
    pluginTypes: () => pluginTypesOfNow(config),
    onoutcome: (report) => wiring.probePathOutcome(report),
    log,
  });
  return { probes, probePath };
}

/** Of the chain that the runtime uses. */
async function pluginTypesOfNow({ hostRoot, install }: AgentConfig): Promise<readonly string[]> {
  const { files, unread } = await readFolder(install.netDir, { hostRoot });
  const { defaultNetwork } = await new RuntimeNetworkReader({ hostRoot }).read();
  return runtimesConf(parseFolder(files, unread).confs, defaultNetwork)?.types ?? [];
}

/** What answers the runtime, and what keeps us in its chain. */
export type Front = ReturnType<typeof makeFront>;

export function makeFront(ground: Ground, { enrolment, sidecars }: Capture, wiring: Wiring) {
  const { config, loggers, metrics, hostNetns, backend, client, node } = ground;
  const cniLog = loggers.scope("cni");
  const exempt = new ExemptNamespaces({
    path: exemptListPath(config),
    policy: config.install.awayPolicy,
    selectors: config.selectors,
    node,
    log: loggers.scope("install"),
  });
  const handler = new CniVerbs({
    enrolment,
    sidecars,
    lookup: new PodLookup({ node, log: cniLog }),
    excludeNamespaces: config.excludeNamespaces,
    isExempt: (namespace) => exempt.has(namespace),
    hostNetns,
    hostRoot: config.hostRoot,
    log: cniLog,
    onanswer: (verb, outcome, seconds) => metrics.callAnswered(verb, outcome, seconds),
    onmeshadd: (code) => metrics.meshAddAnswered(code),
    oncheckfault: () => metrics.checkFault(),
  });
  const { podNamespace, podName } = config;
  return {
    plugin: new PluginServer({
      path: config.pluginSocketPath,
      handler,
      log: cniLog,
      onbadevent: () => metrics.meshAddAnswered(400),
    }),
    own: new OwnDaemonSet({
      client,
      podNamespace,
      podName,
      nodeName: config.nodeName,
      hasOwnPod: () => node.wasToldOf(podNamespace, podName),
    }),
    exempt,
    installer: makeInstaller(ground, { enrolment, wiring }),
    selfTest: new SelfTestWatch({
      config,
      backend,
      client,
      log: loggers.scope("agent"),
      onstate: (fault) => wiring.condition("self-test", fault),
    }),
  };
}

function makeInstaller(
  { config, loggers, metrics }: Ground,
  { enrolment, wiring }: { readonly enrolment: Enrolment; readonly wiring: Wiring },
): Installer {
  return new Installer({
    config: config.install,
    runDir: config.runDir,
    hostRoot: config.hostRoot,
    entry: chainEntry(config),
    // the DaemonSet of istio-cni's own chart with another image: its entry in the chain is ours to replace
    replaceIstioCni: config.install.replaceIstioCni || standsForIstioCni(config.podName),
    log: loggers.scope("install"),
    onstate: (fault) => wiring.condition("install", fault),
    // sandboxes that were made without us are found in /proc as soon as their pods have an address
    onrepaired: () => enrolment.requestAll(),
    onfight: (fight) => wiring.fight(fight),
    onpeace: () => wiring.peace(),
    oninstall: (result) => metrics.installed(result),
  });
}
