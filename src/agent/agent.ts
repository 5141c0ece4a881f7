// SPDX-License-Identifier: Apache-2.0
// The node agent as a whole: its parts, and the one list of what starts and stops.
import { join } from "node:path";
import type { AgentConfig } from "../config.ts";
import { redirectOf } from "../enrolment/desired-state.ts";
import type { Logger, LoggerFactory } from "../log/logger.ts";
import type { NriPlugin } from "../nri/plugin.ts";
import { AgentState } from "../status/agent-state.ts";
import { metricsServer } from "../status/metrics-server.ts";
import { OpenPort } from "../status/open-port.ts";
import { ProcessFacts } from "../status/process-facts.ts";
import type { Readiness } from "../status/readiness.ts";
import { StateApi } from "../status/state-api.ts";
import { STATE_SOCKET_NAME } from "../status/state-report.ts";
import { StateServer } from "../status/state-server.ts";
import { leaveNode } from "../uninstall/leave-node.ts";
import { AmbientLeftovers } from "./ambient-leftovers.ts";
import { type Ground, makeGround } from "./ground.ts";
import { Lifecycle, type Stage } from "./lifecycle.ts";
import { type Capture, type Front, makeCapture, makeFront } from "./parts.ts";
import { makeRepair } from "./repair.ts";
import { makeRuntimeSource } from "./runtime-source.ts";
import { Wiring } from "./wiring.ts";

/** A running agent. */
export interface Agent {
  /** True from the moment on that the node is being left for good, which takes longer than a stop. */
  readonly isLeaving: boolean;
  /** Finishes what is under way and leaves every pod as it is; leaves the node if the DaemonSet is deleted, or places no pod on it. */
  stop(): Promise<void>;
}

/** Well within the 5 s that istio-cni's DaemonSet grants between SIGTERM and SIGKILL. */
const daemonSetAnswerMs = 1_500;

/** Starts all parts; resolves once they serve. @throws when a part cannot start; those that did are stopped then */
export async function startParts(
  config: AgentConfig,
  { loggers, readiness }: { readonly loggers: LoggerFactory; readonly readiness: Readiness },
): Promise<Agent> {
  const log = loggers.scope("agent");
  const ground = await makeGround(config, { loggers, readiness });
  const wiring = new Wiring(ground);
  const capture = makeCapture(ground, wiring);
  const front = makeFront(ground, capture, wiring);
  wiring.join(capture);
  const runtime = makeRuntimeSource(ground, { capture, front });
  const leftovers = config.ambient
    ? undefined
    : new AmbientLeftovers({ config, log: loggers.scope("probes") });
  const parts: Parts = { ground, capture, front, wiring, leftovers, runtime };
  const { stages: reports, stateServer } = reportStages(parts);
  const departure = new Departure(parts, stateServer);
  const lifecycle = new Lifecycle([...reports, ...workStages(parts, departure)], log);
  await lifecycle.start();
  log.info({ backend: ground.backend.variant }, "ready");
  return {
    get isLeaving() {
      return departure.isLeaving;
    },
    async stop() {
      log.info({}, "stopping");
      readiness.miss("agent", "is stopping");
      departure.ask();
      await lifecycle.stop();
      log.info({}, departure.isLeaving ? "stopped" : "stopped; pods, chain and launcher stay as they are");
    },
  };
}

/** All that the agent is made of. */
interface Parts {
  readonly ground: Ground;
  readonly capture: Capture;
  readonly front: Front;
  readonly wiring: Wiring;
  readonly leftovers: AmbientLeftovers | undefined;
  readonly runtime: NriPlugin | undefined;
}

/** Whether the agent stops for good, which only the API server's word can say. */
class Departure {
  readonly #parts: Parts;
  readonly #stateServer: StateServer;
  #answer: ReturnType<Front["own"]["state"]> | undefined;
  isLeaving = false;

  constructor(parts: Parts, stateServer: StateServer) {
    this.#parts = parts;
    this.#stateServer = stateServer;
  }

  /** Asks, early, so that the answer is there when it is needed. */
  ask(): void {
    const { ground, front } = this.#parts;
    if (ground.config.install.enabled) this.#answer = front.own.state({ deadlineMs: daemonSetAnswerMs });
  }

  /** Leaves the node if nobody comes after this agent. */
  async leaveIfLast(): Promise<void> {
    const { ground, capture, front } = this.#parts;
    const { config, loggers, annotations } = ground;
    const state = await this.#answer;
    this.isLeaving = state === "deleted" || state === "elsewhere";
    if (!this.isLeaving) return;
    const why = state === "deleted" ? "was deleted" : "places no pod on this node any more";
    loggers.scope("agent").info({}, `the DaemonSet ${why}: leaving this node`);
    const log = loggers.scope("install");
    // people may ask until the end, but the file goes with the others
    await this.#stateServer.letNameGo();
    await leaveNode({ config, ...capture, annotations, plugin: front.plugin, log });
  }
}

/** For people and Prometheus, before everything that can wait: while the agent waits for the API server they want to see why. */
function reportStages({ ground, capture, front, wiring, leftovers, runtime }: Parts): {
  readonly stages: Stage[];
  readonly stateServer: StateServer;
} {
  const { config, loggers, metrics, node, annotations, backend, readiness } = ground;
  const { probePath } = capture;
  const log = loggers.scope("agent");
  const processFacts = new ProcessFacts();
  const source = new AgentState({
    ...capture,
    config,
    backend,
    cluster: node,
    annotations,
    readiness,
    ring: loggers.ring,
    process: processFacts,
    leftovers,
    runtime,
    chain: config.install.enabled ? front.installer.chain : undefined,
    probePath: () =>
      probePath.state.outcome === "bypassed"
        ? probePath.state
        : { ...probePath.state, ...wiring.probeFinding },
  });
  metrics.readFrom(source);
  const api = new StateApi({ source, loggers, log });
  const stateServer = new StateServer({ path: join(config.runDir, STATE_SOCKET_NAME), api, log });
  const metricsPort = new OpenPort({
    server: metricsServer({ metrics, log }),
    port: config.monitoringPort,
    setting: "MONITORING_PORT",
    log,
  });
  const stages = [
    { name: "process facts", start: () => processFacts.start(), stop: () => processFacts.stop() },
    { name: "state API", start: () => stateServer.listen(), stop: () => stateServer.close() },
    { name: "metrics", start: () => metricsPort.start(), stop: () => metricsPort.stop() },
  ];
  return { stages, stateServer };
}

/** The agent's work, from the API server's word to the runtime's calls and ztunnel's connection. */
function workStages(parts: Parts, departure: Departure): Stage[] {
  const { ground, capture, front, leftovers, runtime } = parts;
  const { config, loggers, node, annotations, events, readiness, metrics } = ground;
  const { enrolment, sidecarLooks, ztunnel, probes, probePath } = capture;
  const { plugin, exempt, installer, own, selfTest } = front;
  const met = (name: string) => () => readiness.meet(name);
  const repair = makeRepair(ground, capture);
  return [
    { name: "events", stop: () => events.stop() },
    { name: "annotations", stop: () => annotations.stop() },
    // what the first pod would wait for; without it each pod gets its rules by a program, and the log says why
    { name: "known bytes", start: () => void prepareRules(ground, capture) },
    { name: "self-test", start: () => void selfTest.start(), stop: () => selfTest.stop() },
    {
      name: "watches",
      start: () => {
        node.onPodChange((change) => metrics.watched(change));
        node.onNamespaceChange((change) => metrics.watched(change));
        node.start();
      },
      stop: () => node.stop(),
    },
    { name: "ztunnel's connections", stop: () => ztunnel.close() },
    { name: "probes", stop: () => probes.stop() },
    { name: "probe path", stop: () => probePath.stop() },
    // open before the lists are there: pods of the runtime are looked up one by one until then
    { name: "plugin socket", start: () => plugin.listen().then(met("plugin")), stop: () => plugin.close() },
    { name: "lists", start: () => node.waitForSync().then(met("watches")) },
    // what an agent before this one held is held from the first word on, although the chain is ours to keep only later
    { name: "chain of before", start: () => installer.chain.recall() },
    // before stock is taken: sandboxes without a process are found by the runtime's word alone
    { name: "runtime's word", start: () => runtime?.start(), stop: () => runtime?.stop() },
    // with the socket: an ADD that waits inside is answered with "try again", and a new one comes to the next agent
    {
      name: "enrolment",
      start: () => enrolment.start().then(met("enrolment")),
      stop: () => Promise.all([runtime?.stop(), enrolment.stop(), plugin.close()]),
    },
    { name: "sidecars", start: () => sidecarLooks.start(), stop: () => sidecarLooks.stop() },
    // pods that an earlier agent captured are known by now, and leave
    { name: "leftovers", start: () => leftovers?.start(), stop: () => leftovers?.stop() },
    { name: "departure", stop: () => departure.leaveIfLast() },
    { name: "exempt list", start: () => exempt.start(), stop: () => exempt.stop() },
    // last in the chain of causes: from here on the runtime calls us
    {
      name: "chain",
      start: () => (config.install.enabled ? installer.start() : undefined),
      stop: () => installer.stop(),
    },
    { name: "own DaemonSet", start: () => rememberOwn(own, loggers.scope("agent")) },
    // deleting a pod helps only once its successor comes to us
    { name: "repair", start: () => repair?.start(), stop: () => repair?.stop() },
    // a ztunnel that connected earlier would be sent a snapshot without the pods it serves, and drop them
    { name: "ztunnel's socket", start: () => (config.ambient ? ztunnel.listen() : undefined) },
  ];
}

/** Seen while all is well, so that a refusal when the agent stops has a meaning. */
function rememberOwn(own: Front["own"], log: Logger): void {
  own.remember().catch((error: unknown) => log.debug({ err: error }, "the own DaemonSet is not known yet"));
}

async function prepareRules({ config, loggers }: Ground, { redirection, sidecars }: Capture): Promise<void> {
  try {
    await redirection.prepare(redirectOf({ ...config, agentNamespace: config.podNamespace }));
    await sidecars.prepare();
  } catch (error) {
    loggers.scope("redirect").warn({ err: error }, "cannot record the bytes of our rules");
  }
}
