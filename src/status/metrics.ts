// SPDX-License-Identifier: Apache-2.0
// The agent's metrics: events as they happen, and the rest from the node's report when they are asked for.
// deploy/monitoring/README.md explains each of them.

import { type CallOutcome, callOutcomes } from "../cni/cni-error.ts";
import { cniVerbs } from "../cni/cni-request.ts";
import { type FailureKind, failureKinds } from "../enrolment/failure.ts";
import { type Beginning, beginnings } from "../enrolment/runtime-word.ts";
import { type EventResult, eventResults } from "../kube/event-recorder.ts";
import { type RepairResult, repairResults } from "../repair/repair-report.ts";
import { type RepairMode, repairModes } from "../settings/repair-settings.ts";
import type { StateSource } from "./agent-state.ts";
import { MetricMaker } from "./metric-maker.ts";
import { NodeMetrics } from "./node-metrics.ts";

const answerResults = ["ack", "nack", "timeout", "disconnected"] as const;
/** Source: istio/istio cni/pkg/install/monitoring.go. */
const installResults = ["SUCCESS", "COPY_BINARIES_FAILURE", "CREATE_CNI_CONFIG_FAILURE"] as const;

/** ADD may wait for ztunnel; kubelet gives up after minutes. */
const addBuckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 60];
const captureBuckets = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];
/** The runtime cuts off who takes 2 s, and holds up all pods meanwhile. */
const beginningBuckets = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2];
const answerBuckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5];

/** Collects; every method that notes an event is cheap and none throws. No label is ever a pod's name. */
export class Metrics {
  #source: Pick<StateSource, "node"> | undefined;
  readonly #make = new MetricMaker();
  readonly #reconcileEvents = this.#make.counter("nodeagent_reconcile_events_total", {
    help: "Changes of pods of this node and of namespaces that the API server told of",
    labels: { type: ["add", "update", "delete"] },
  });
  readonly #pluginRequests = this.#make.counter("istio_cni_plugin_requests_total", {
    help: "ADD calls for pods of the mesh, by response code: 200 captured, 500 not, 400 for an event that cannot be read",
    labels: { response_code: ["200", "400", "500"] },
  });
  readonly #events = this.#make.counter("ambient_cni_events_total", {
    help: "Kubernetes Events, by what became of them: forbidden ones are in the log",
    labels: { result: eventResults },
  });
  readonly #installs = this.#make.counter("istio_cni_installs_total", {
    help: "Installations of the plugin into the CNI chain of the node, repairs included",
    labels: { result: installResults },
  });
  // Source: istio/istio cni/pkg/repair/monitoring.go
  readonly #podsRepaired = this.#make.counter("istio_cni_repair_pods_repaired_total", {
    help: "Attempts to repair, delete or label pods that started without their sidecar's rules, by result",
    labels: { type: repairModes, result: repairResults },
  });
  readonly #addSeconds = this.#make.histogram("ambient_cni_add_duration_seconds", {
    help: "Time that an ADD call took in the agent, by outcome",
    labels: { outcome: callOutcomes },
    buckets: addBuckets,
  });
  readonly #calls = this.#make.counter("ambient_cni_calls_total", {
    help: "CNI calls answered, by verb and outcome",
    labels: { verb: cniVerbs, outcome: callOutcomes },
  });
  readonly #captureSeconds = this.#make.histogram("ambient_cni_capture_duration_seconds", {
    help: "Time from the label, or the ADD, that asked for a pod's capture until ztunnel had it",
    buckets: captureBuckets,
  });
  readonly #runFailures = this.#make.counter("ambient_cni_run_failures_total", {
    help: "Looks at a pod that ended in a failure, by reason; each is tried again",
    labels: { reason: failureKinds },
  });
  readonly #earlierConnections = this.#make.counter("ambient_cni_earlier_connections_total", {
    help: "Connections that running pods had open when they came into the mesh",
  });
  readonly #checkFaults = this.#make.counter("ambient_cni_check_faults_total", {
    help: "CHECK calls about a pod that was not captured as it should be; it is looked at at once",
  });
  readonly #ztunnelSeconds = this.#make.histogram("ambient_cni_ztunnel_answer_duration_seconds", {
    help: "Time that ztunnel took to answer a request, by result",
    labels: { result: answerResults },
    buckets: answerBuckets,
  });
  readonly #beginningSeconds = this.#make.histogram("ambient_cni_nri_answer_duration_seconds", {
    help: "Time that the runtime waited for our answer about a sandbox that began (NRI), by what became of it",
    labels: { outcome: beginnings },
    buckets: beginningBuckets,
  });
  readonly #refusals = this.#make.counter("ambient_cni_nri_refused_containers_total", {
    help: "Containers that were refused because their pod belongs into the mesh and is not captured",
  });
  readonly #node = new NodeMetrics(this.#make);
  #rendering: Promise<string> | undefined;

  /** Where the rest comes from; before this there is only what was noted. */
  readFrom(source: Pick<StateSource, "node">): void {
    this.#source = source;
  }

  /** The API server told of a change. @param current `undefined`: deleted */
  watched(change: { readonly previous?: unknown; readonly current?: unknown }): void {
    const type = change.current === undefined ? "delete" : change.previous === undefined ? "add" : "update";
    this.#reconcileEvents.inc({ type });
  }

  /** A CNI call was answered. */
  callAnswered(verb: string, outcome: CallOutcome, seconds: number): void {
    this.#calls.inc({ verb, outcome });
    if (verb !== "ADD") return;
    this.#addSeconds.observe({ outcome }, seconds);
  }

  /**
   * A pod of the mesh was asked for, or an event about one could not be read. As istio-cni's agent counts, which is asked about
   * no other pods. Source: istio/istio cni/pkg/nodeagent/cni-watcher.go handleAddEvent.
   */
  meshAddAnswered(code: 200 | 400 | 500): void {
    this.#pluginRequests.inc({ response_code: String(code) });
  }

  /** An Event was written, or not. */
  event(result: EventResult): void {
    this.#events.inc({ result });
  }

  /** The plugin was put into the chain, or could not be. */
  installed(result: (typeof installResults)[number]): void {
    this.#installs.inc({ result });
  }

  /** Something was done about a pod that had started without its sidecar's rules, or could not be. */
  repaired(type: RepairMode, result: RepairResult): void {
    this.#podsRepaired.inc({ type, result });
  }

  /** As PodHistoryListener. */
  captured(seconds: number): void {
    this.#captureSeconds.observe(seconds);
  }

  /** As PodHistoryListener. */
  failed(kind: FailureKind): void {
    this.#runFailures.inc({ reason: kind });
  }

  /** As PodHistoryListener. */
  entered(earlierConnections: number): void {
    this.#earlierConnections.inc({}, earlierConnections);
  }

  /** A CHECK asked for a pod that is not as it should be. */
  checkFault(): void {
    this.#checkFaults.inc({});
  }

  /** ztunnel answered a request, or did not. */
  ztunnelAnswered(result: (typeof answerResults)[number], seconds: number): void {
    this.#ztunnelSeconds.observe({ result }, seconds);
  }

  /** The runtime told of a sandbox that begins. */
  sandboxBegan(outcome: Beginning, seconds: number): void {
    this.#beginningSeconds.observe({ outcome }, seconds);
  }

  /** A container was refused. */
  containerRefused(): void {
    this.#refusals.inc({});
  }

  /** All metrics in Prometheus' text format; those who ask at the same time share one answer. */
  render(): Promise<string> {
    this.#rendering ??= this.#render().finally(() => {
      this.#rendering = undefined;
    });
    return this.#rendering;
  }

  async #render(): Promise<string> {
    if (this.#source !== undefined) this.#node.take(await this.#source.node());
    return await this.#make.render();
  }
}
