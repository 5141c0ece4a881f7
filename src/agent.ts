// SPDX-License-Identifier: Apache-2.0
// The composition root: what the node agent is made of, what starts after what, what stops before what.
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { CniVerbs } from "./cni/cni-verbs.ts";
import { PluginServer } from "./cni/plugin-server.ts";
import type { AgentConfig } from "./config.ts";
import type { EnrolmentPolicy } from "./enrolment/desired-state.ts";
import { Enrolment } from "./enrolment/enrolment.ts";
import { PodLookup } from "./enrolment/pod-lookup.ts";
import { readConfs } from "./install/chain-plan.ts";
import { readFolder } from "./install/conf-dir.ts";
import { AnnotationWriter } from "./kube/annotation-writer.ts";
import { ApiClient } from "./kube/api-client.ts";
import { EventRecorder } from "./kube/event-recorder.ts";
import { NodeState } from "./kube/node-state.ts";
import { hostNetnsKeys } from "./netns/host-netns.ts";
import { SandboxFinder } from "./netns/sandbox-finder.ts";
import { HealthServer } from "./observe/health-server.ts";
import type { LoggerFactory } from "./observe/logger.ts";
import { Readiness } from "./observe/readiness.ts";
import { HostProbes } from "./probes/host-probes.ts";
import { ProbePathWatch } from "./probes/probe-path-watch.ts";
import { chooseBackend } from "./redirect/backend.ts";
import { PodRedirection } from "./redirect/pod-redirection.ts";
import { ZdsServer } from "./ztunnel/zds-server.ts";

/** A running agent. */
export interface Agent {
  /** Finishes what is under way and leaves every pod as it is. */
  stop(): Promise<void>;
}

/** Starts the agent; resolves once it serves. @throws when a part cannot start */
export async function startAgent(config: AgentConfig, loggers: LoggerFactory): Promise<Agent> {
  const log = loggers.scope("agent");
  logStart(config, log);
  const readiness = new Readiness({
    watches: "the lists of pods and namespaces have not come yet",
    enrolment: "the node's pods have not been looked at yet",
    plugin: "the plugin socket is not open yet",
    probes: "the host's rules for kubelet probes have not been looked at yet",
  });
  const health = new HealthServer(readiness);
  await health.listen(config.healthPort);

  await mkdir(config.runDir, { recursive: true });
  const hostNetns = hostNetnsKeys(config);
  const backend = await chooseBackend({
    variant: config.iptablesVariant,
    runDir: config.runDir,
    hostProcess: join(config.hostRoot, "proc/1"),
    log: loggers.scope("redirect"),
  });
  const redirection = new PodRedirection({ backend, hostNetns, ipv6: config.ipv6 });
  const client = ApiClient.load({ kubeconfigPath: config.kubeconfigPath });
  const node = new NodeState({ client, nodeName: config.nodeName, log: loggers.scope("kube") });
  const annotations = new AnnotationWriter({
    client,
    lookup: (uid) => node.pod(uid),
    log: loggers.scope("kube"),
  });
  const events = new EventRecorder({ client, nodeName: config.nodeName, log: loggers.scope("kube") });
  const ztunnel = new ZdsServer({ path: config.ztunnelSocketPath, log: loggers.scope("ztunnel") });
  const probes = new HostProbes({
    hostNetnsPath: config.hostNetnsPath,
    backend,
    probeSnatV4: config.probeSnatV4,
    probeSnatV6: config.probeSnatV6,
    ipv6: config.ipv6,
    match: config.probeMatch,
    procRoot: join(config.hostRoot, "proc"),
    isOutside: (uid) => enrolment.isOutside(uid),
    log: loggers.scope("probes"),
    onstate: (fault) => {
      if (fault !== undefined) return readiness.miss("probes", fault);
      readiness.meet("probes");
      probePath.suspect();
    },
  });
  const probePath: ProbePathWatch = new ProbePathWatch({
    hostNetnsPath: config.hostNetnsPath,
    probeSnatV4: config.probeSnatV4,
    probeSnatV6: config.probeSnatV6,
    ipv6: config.ipv6,
    countsOwnConnections: () => probes.countsOwnConnections,
    pluginTypes: async () => readConfs((await readFolder(config.install.netDir)).files).confs[0]?.types ?? [],
    onoutcome: ({ uid, message, remedy }) => {
      const pod = node.pod(uid);
      if (pod === undefined) return;
      events.record(pod, { reason: "AmbientProbesMayFail", message: `${message}. ${remedy}` });
    },
    log: loggers.scope("probes"),
  });
  const finder = new SandboxFinder({ hostRoot: config.hostRoot, hostNetns, log: loggers.scope("netns") });
  const policy = enrolmentPolicy(config);
  const enrolment: Enrolment = new Enrolment({
    node,
    finder,
    redirection,
    ztunnel,
    annotations,
    events,
    probes,
    probePath,
    policy,
    log: loggers.scope("enrolment"),
    reconcileIntervalMs: config.reconcileIntervalMs,
    ztunnelWaitMs: config.ztunnelWaitMs,
  });
  const cniLog = loggers.scope("cni");
  const lookup = new PodLookup({ node, log: cniLog });
  const handler = new CniVerbs({
    enrolment,
    lookup,
    policy,
    hostNetns,
    hostRoot: config.hostRoot,
    notReady: () => readiness.reason,
    log: cniLog,
  });
  const plugin = new PluginServer({ path: config.pluginSocketPath, handler, log: cniLog });

  node.start();
  // open before the lists are there: pods of the runtime are looked up one by one until then
  await plugin.listen();
  readiness.meet("plugin");
  await node.waitForSync();
  readiness.meet("watches");
  await enrolment.start();
  readiness.meet("enrolment");
  // a ztunnel that connected earlier would be sent a snapshot without the pods it serves, and drop them
  ztunnel.listen();
  log.info({ backend: backend.variant }, "ready");

  return {
    async stop() {
      log.info({}, "stopping: pods stay as they are");
      readiness.miss("agent", "is stopping");
      // runs first: an ADD that waits inside is answered with "try again", so that the server can close
      await Promise.all([enrolment.stop(), plugin.close()]);
      await probePath.stop();
      await probes.stop();
      await ztunnel.close();
      await node.stop();
      annotations.stop();
      events.stop();
      await health.close();
      log.info({}, "stopped");
    },
  };
}

function enrolmentPolicy(config: AgentConfig): EnrolmentPolicy {
  const {
    selectors,
    excludeNamespaces,
    systemNamespace,
    podNamespace,
    dnsCapture,
    probeSnatV4,
    probeSnatV6,
  } = config;
  const agentNamespace = podNamespace;
  return {
    selectors,
    excludeNamespaces,
    systemNamespace,
    agentNamespace,
    dnsCapture,
    probeSnatV4,
    probeSnatV6,
  };
}

function logStart(config: AgentConfig, log: ReturnType<LoggerFactory["scope"]>): void {
  const { excludeNamespaces, ...rest } = config;
  log.info({ config: { ...rest, excludeNamespaces: [...excludeNamespaces] } }, "starting");
  for (const setting of config.ignored) log.warn({}, `ignored setting ${setting}`);
}
