// SPDX-License-Identifier: Apache-2.0
// The composition root: what the node agent is made of, what starts after what, what stops before what.
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { CniVerbs } from "./cni/cni-verbs.ts";
import { PluginServer } from "./cni/plugin-server.ts";
import type { AgentConfig } from "./config.ts";
import { DashboardServer } from "./dashboard/dashboard-server.ts";
import { PodRules } from "./dashboard/pod-rules.ts";
import { SelfTestWatch } from "./diagnose/self-test-watch.ts";
import { Enrolment } from "./enrolment/enrolment.ts";
import { PodHistory } from "./enrolment/pod-history.ts";
import { PodLookup } from "./enrolment/pod-lookup.ts";
import { SandboxFinder } from "./enrolment/sandbox-finder.ts";
import { readConfs } from "./install/chain-plan.ts";
import { readFolder } from "./install/conf-dir.ts";
import { chainExemptions, ExemptNamespaces } from "./install/exempt-namespaces.ts";
import { Installer } from "./install/installer.ts";
import { leaveNode } from "./install/leave-node.ts";
import { AnnotationWriter } from "./kube/annotation-writer.ts";
import { ApiClient } from "./kube/api-client.ts";
import { EventRecorder } from "./kube/event-recorder.ts";
import { NodeState } from "./kube/node-state.ts";
import { OwnDaemonSet } from "./kube/own-daemonset.ts";
import { hostNetnsKeys } from "./linux/host-netns.ts";
import type { LoggerFactory } from "./log/logger.ts";
import { AgentState } from "./observe/agent-state.ts";
import { HealthServer } from "./observe/health-server.ts";
import { Metrics } from "./observe/metrics.ts";
import { MetricsServer } from "./observe/metrics-server.ts";
import { ProcessFacts } from "./observe/process-facts.ts";
import { Readiness } from "./observe/readiness.ts";
import { StateApi } from "./observe/state-api.ts";
import { STATE_SOCKET_NAME } from "./observe/state-report.ts";
import { StateServer } from "./observe/state-server.ts";
import { HostProbes } from "./probes/host-probes.ts";
import { ProbePathWatch } from "./probes/probe-path-watch.ts";
import { chooseBackend } from "./redirect/backend.ts";
import { PodRedirection } from "./redirect/pod-redirection.ts";
import { ZdsServer } from "./ztunnel/zds-server.ts";

/** A running agent. */
export interface Agent {
  /** True from the moment on that the node is being left for good, which takes longer than a stop. */
  readonly isLeaving: boolean;
  /** Finishes what is under way and leaves every pod as it is; takes the node out of the mesh if the DaemonSet is deleted. */
  stop(): Promise<void>;
}

/** Well within the 5 s that istio-cni's DaemonSet grants between SIGTERM and SIGKILL. */
const daemonSetAnswerMs = 1_500;

/** Starts the agent; resolves once it serves. @throws when a part cannot start */
export async function startAgent(config: AgentConfig, loggers: LoggerFactory): Promise<Agent> {
  const log = loggers.scope("agent");
  logStart(config, log);
  const readiness = new Readiness({
    watches: "the lists of pods and namespaces have not come yet",
    enrolment: "the node's pods have not been looked at yet",
    ...(config.install.enabled ? { install: "the plugin is not in the CNI chain yet" } : {}),
    plugin: "the plugin socket is not open yet",
    "self-test": "it has not ended yet",
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
  const selfTest = new SelfTestWatch({
    config,
    backend,
    client,
    log,
    onstate: (fault) =>
      fault === undefined ? readiness.meet("self-test") : readiness.miss("self-test", fault),
  });
  const node = new NodeState({ client, nodeName: config.nodeName, log: loggers.scope("kube") });
  const annotations = new AnnotationWriter({
    client,
    lookup: (uid) => node.pod(uid),
    log: loggers.scope("kube"),
  });
  const events = new EventRecorder({ client, nodeName: config.nodeName, log: loggers.scope("kube") });
  const ztunnel = new ZdsServer({
    path: config.ztunnelSocketPath,
    log: loggers.scope("ztunnel"),
    onanswer: (result, seconds) => metrics.ztunnelAnswered(result, seconds),
  });
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
  let probeFinding: { message: string; remedy: string } | undefined;
  const probePath: ProbePathWatch = new ProbePathWatch({
    hostNetnsPath: config.hostNetnsPath,
    probeSnatV4: config.probeSnatV4,
    probeSnatV6: config.probeSnatV6,
    ipv6: config.ipv6,
    countsOwnConnections: () => probes.countsOwnConnections,
    pluginTypes: async () => readConfs((await readFolder(config.install.netDir)).files).confs[0]?.types ?? [],
    onoutcome: ({ uid, message, remedy }) => {
      probeFinding = { message, remedy };
      const pod = node.pod(uid);
      if (pod === undefined) return;
      events.record(pod, { reason: "AmbientProbesMayFail", message: `${message}. ${remedy}` });
    },
    log: loggers.scope("probes"),
  });
  const finder = new SandboxFinder({ hostRoot: config.hostRoot, hostNetns, log: loggers.scope("netns") });
  const policy = { ...config, agentNamespace: config.podNamespace };
  const history = new PodHistory({
    listener: {
      captured: (seconds) => metrics.captured(seconds),
      failed: (kind) => metrics.failed(kind),
    },
  });
  const enrolment: Enrolment = new Enrolment({
    node,
    finder,
    redirection,
    ztunnel,
    annotations,
    events,
    probes,
    probePath,
    history,
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
    // each round of a fight is repaired, and the node would lose its network for a STATUS that fails
    notReady: () => readiness.reasonBut(fightCondition),
    log: cniLog,
    onanswer: (verb, outcome, seconds) => metrics.callAnswered(verb, outcome, seconds),
  });
  const plugin = new PluginServer({ path: config.pluginSocketPath, handler, log: cniLog });

  const own = new OwnDaemonSet({
    client,
    podNamespace: config.podNamespace,
    podName: config.podName,
    hasOwnPod: () => node.wasToldOf(config.podNamespace, config.podName),
  });
  const exempt = new ExemptNamespaces({
    runDir: config.runDir,
    policy: config.install.awayPolicy,
    selectors: config.selectors,
    node,
    log: loggers.scope("install"),
  });
  const installer = new Installer({
    config: config.install,
    hostRunDir: config.hostRunDir,
    hostRoot: config.hostRoot,
    exempt: chainExemptions(config),
    // the DaemonSet of istio-cni's own chart with another image: its entry in the chain is ours to replace
    replaceIstioCni: config.install.replaceIstioCni || isIstioCniPod(config.podName),
    log: loggers.scope("install"),
    onstate: (fault) => (fault === undefined ? readiness.meet("install") : readiness.miss("install", fault)),
    // sandboxes that were made without us are found in /proc as soon as their pods have an address
    onrepaired: () => enrolment.requestAll(),
    onfight: ({ rewrites, path, remedy }) => {
      const pod = node.podByName(config.podNamespace, config.podName);
      const message = `Another program has taken ambient-cni out of the CNI chain "${path}" ${rewrites} times: ${remedy}`;
      readiness.miss(fightCondition, message);
      if (pod !== undefined) events.record(pod, { reason: "AmbientChainFight", message });
    },
    onpeace: () => readiness.meet(fightCondition),
    oninstall: (result) => metrics.installed(result),
  });

  const processFacts = new ProcessFacts();
  const state = new AgentState({
    config,
    backend,
    cluster: node,
    enrolment,
    history,
    redirection,
    ztunnel,
    probes,
    readiness,
    ring: loggers.ring,
    process: processFacts,
    chain: config.install.enabled ? installer.chain : undefined,
    probePath: () =>
      probePath.state.outcome === "bypassed" ? probePath.state : { ...probePath.state, ...probeFinding },
  });
  const metrics: Metrics = new Metrics(state);
  node.onPodChange((change) => metrics.watched(change));
  node.onNamespaceChange((change) => metrics.watched(change));
  const stateApi = new StateApi({ source: state, loggers, log });
  const stateServer = new StateServer({ path: join(config.runDir, STATE_SOCKET_NAME), api: stateApi, log });
  const metricsServer = new MetricsServer({ metrics, api: stateApi, log });
  const rules = new PodRules({
    nodeName: config.nodeName,
    cluster: node,
    enrolment,
    backend,
    hostNetns,
    ipv6: config.ipv6,
  });
  const dashboard = new DashboardServer({ source: state, rules, api: stateApi, log });

  processFacts.start();
  // before everything that can wait: while the agent waits for the API server, people want to see why
  await stateServer.listen();
  await metricsServer.listen(config.monitoringPort);
  if (config.dashboard) {
    // for people: the agent does not stay away because somebody else has the port
    await dashboard.listen(config.dashboardPort).then(
      (port) => log.info({ port }, "the dashboard is served on 127.0.0.1"),
      (error: unknown) =>
        log.warn({ err: error }, "cannot serve the dashboard; set DASHBOARD_PORT to a free port"),
    );
  }
  void selfTest.start();
  node.start();
  // open before the lists are there: pods of the runtime are looked up one by one until then
  await plugin.listen();
  readiness.meet("plugin");
  await node.waitForSync();
  readiness.meet("watches");
  await enrolment.start();
  readiness.meet("enrolment");
  await exempt.start();
  // last in the chain of causes: from here on the runtime calls us
  if (config.install.enabled) await installer.start();
  void own
    .remember()
    .catch((error: unknown) => log.debug({ err: error }, "the own DaemonSet is not known yet"));
  // a ztunnel that connected earlier would be sent a snapshot without the pods it serves, and drop them
  ztunnel.listen();
  log.info({ backend: backend.variant }, "ready");

  let isLeaving = false;
  return {
    get isLeaving() {
      return isLeaving;
    },
    async stop() {
      log.info({}, "stopping");
      readiness.miss("agent", "is stopping");
      selfTest.stop();
      const daemonSet = config.install.enabled ? own.state({ deadlineMs: daemonSetAnswerMs }) : undefined;
      await installer.stop();
      await exempt.stop();
      isLeaving = (await daemonSet) === "deleted";
      if (isLeaving) {
        log.info({}, "the DaemonSet was deleted: leaving this node");
        await leaveNode({
          config,
          enrolment,
          annotations,
          probePath,
          probes,
          plugin,
          ztunnel,
          log: loggers.scope("install"),
        });
      }
      // runs first: an ADD that waits inside is answered with "try again", so that the server can close
      await Promise.all([enrolment.stop(), plugin.close()]);
      await probePath.stop();
      await probes.stop();
      await ztunnel.close();
      await node.stop();
      annotations.stop();
      events.stop();
      processFacts.stop();
      await Promise.all([stateServer.close(), metricsServer.close(), dashboard.close()]);
      await health.close();
      log.info({}, isLeaving ? "stopped" : "stopped; pods, chain and launcher stay as they are");
    },
  };
}

const fightCondition = "chain";

function isIstioCniPod(podName: string): boolean {
  return /^istio-cni-node-[^-]+$/.test(podName);
}

function logStart(config: AgentConfig, log: ReturnType<LoggerFactory["scope"]>): void {
  const { excludeNamespaces, ...rest } = config;
  log.info({ config: { ...rest, excludeNamespaces: [...excludeNamespaces] } }, "starting");
  for (const setting of config.ignored) log.warn({}, `ignored setting ${setting}`);
  for (const note of config.notes) log.info({}, note);
}
