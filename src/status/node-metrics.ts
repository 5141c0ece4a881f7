// SPDX-License-Identifier: Apache-2.0
// Metrics that say what is at the moment, taken from the node's report when they are asked for.
import { enrolmentStates } from "../enrolment/enrolment-state.ts";
import { failureKinds } from "../enrolment/failure.ts";
import { sandboxSources } from "../enrolment/sandbox-finder.ts";
import type { MetricMaker } from "./metric-maker.ts";
import type { CountReport, NodeReport, ProbePathReport } from "./node-state-report.ts";
import { isWithoutAmbient } from "./served-sidecar.ts";

const probeOutcomes: readonly ProbePathReport["outcome"][] = ["bypassed", "captured", "unreachable"];
const podStates = [...enrolmentStates, "sidecar"] as const;
const connectionPhases = ["snapshot", "live"] as const;

/** Metrics that say what is, taken from the node's report. */
export class NodeMetrics {
  readonly #setters: ((report: NodeReport) => void)[] = [];
  readonly #make: MetricMaker;

  constructor(make: MetricMaker) {
    this.#make = make;
    this.#definePods();
    this.#defineZtunnel();
    this.#defineHost();
    this.#defineAgent();
  }

  take(report: NodeReport): void {
    for (const set of this.#setters) set(report);
  }

  #definePods(): void {
    const states = this.#make.gauge("ambient_cni_pods", "Pods of the node, by where they stand", ["state"]);
    this.#setters.push(({ pods }) => {
      for (const state of podStates) states.set({ state }, pods[state] ?? 0);
    });
    this.#value(
      "ambient_cni_pods_wanted",
      "Pods of the node that belong into the mesh",
      ({ pods }) => pods.wanted,
    );
    this.#value(
      "ambient_cni_pods_verified",
      "Captured pods that were found right within twice the reconcile interval",
      ({ pods }) => pods.verified,
    );
    this.#value(
      "ambient_cni_pods_may_be_bypassed",
      "Captured pods in which something stands before our rules that can take traffic past ztunnel, or which it cannot be told of",
      ({ pods }) => pods.mayBeBypassed ?? 0,
    );
    this.#value(
      "ambient_cni_pods_slow",
      "Captured pods that take so long to look at that they are looked at less often",
      ({ pods }) => pods.slow ?? 0,
    );
    this.#kinds("ambient_cni_pods_failing", {
      help: "Pods that are not where they should be, by reason",
      label: "reason",
      known: failureKinds,
      of: ({ pods }) => pods.failing,
    });
    this.#repairs("ambient_cni_repairs_total", {
      help: "Parts of captured pods' redirection that had been changed by somebody and were put back, by kind",
      of: ({ repairs }) => repairs,
    });
    this.#repairs("ambient_cni_sidecar_repairs_total", {
      help: "Parts of pods' redirection to their sidecar that had been changed by somebody and were put back, by kind",
      of: ({ sidecarRepairs }) => sidecarRepairs ?? [],
    });
    this.#kinds("ambient_cni_sandboxes", {
      help: "Sandboxes that the agent keeps, by who told of them: the runtime by CNI (add) or by NRI alone (nri), or they were found",
      label: "source",
      known: sandboxSources,
      of: ({ sandboxes }) => sandboxes ?? [],
    });
    this.#value("ambient_cni_open_netns", "Network namespaces that the agent holds open", (r) => r.openNetns);
  }

  #defineZtunnel(): void {
    const connected = this.#make.gauge(
      "ztunnel_connected",
      "Connections of ztunnel, where one is waited for",
    );
    this.#setters.push((report) => {
      // an alert on too few of them says nothing where none is asked for
      if (isWithoutAmbient(report)) connected.remove();
      else connected.set(report.ztunnel.connections.length);
    });
    const phases = this.#make.gauge("ambient_cni_ztunnel_connections", "Connections of ztunnel, by phase", [
      "phase",
    ]);
    this.#setters.push(({ ztunnel }) => {
      for (const phase of connectionPhases)
        phases.set({ phase }, ztunnel.connections.filter((each) => each.phase === phase).length);
    });
    this.#total(
      "ambient_cni_ztunnel_connects_total",
      "Connections that ztunnel made",
      ({ ztunnel }) => ztunnel.accepted,
    );
    this.#value("ambient_cni_ztunnel_pending_requests", "Requests that wait for ztunnel", ({ ztunnel }) =>
      ztunnel.connections.reduce((sum, { pending }) => sum + pending, 0),
    );
    this.#value(
      "ambient_cni_ztunnel_roster_pods",
      "Pods that each new ztunnel connection is told of",
      (r) => r.ztunnel.roster,
    );
  }

  #defineHost(): void {
    this.#value(
      "istio_cni_install_ready",
      "1: the plugin is in the node's CNI chain, or the agent was told not to put it there",
      // the condition knows of the launcher too
      ({ chain, conditions }) =>
        (chain === null || chain.installed) && conditions.every(({ name, met }) => name !== "install" || met)
          ? 1
          : 0,
    );
    this.#total(
      "ambient_cni_conflist_rewrites_total",
      "Times that another program took our entry out of the CNI chain",
      ({ chain }) => chain?.rewrites ?? 0,
    );
    this.#total(
      "ambient_cni_conflist_fights_total",
      "Times that another program kept taking our entry out",
      ({ chain }) => chain?.fights ?? 0,
    );
    this.#value(
      "ambient_cni_conflist_fighting",
      "1 while another program keeps taking our entry out",
      ({ chain }) => (chain?.fighting === true ? 1 : 0),
    );
    const told = this.#make.gauge(
      "ambient_cni_nri_connected",
      "1 while the runtime tells of its sandboxes (NRI), where it is to be heard",
      [],
    );
    this.#setters.push(({ runtime }) => {
      // an alert says nothing where the runtime has no such socket
      if (!runtime || runtime.state === "absent") told.remove();
      else told.set(runtime.state === "connected" ? 1 : 0);
    });
    this.#total(
      "ambient_cni_nri_connects_total",
      "Connections to the runtime's NRI socket on which it told of its sandboxes",
      ({ runtime }) => runtime?.registrations ?? 0,
    );
    this.#total(
      "ambient_cni_probe_rules_restored_total",
      "Times that the host's rules or sets for kubelet probes had been changed by somebody and were put back",
      ({ probes }) => probes.restored,
    );
    this.#total(
      "ambient_cni_probe_rules_failures_total",
      "Times that the host's rules or sets for kubelet probes could not be made right",
      ({ probes }) => probes.failures,
    );
    const path = this.#make.gauge(
      "ambient_cni_probe_path",
      "1 for the outcome of the last synthetic kubelet probe; only bypassed is right",
      ["outcome"],
    );
    this.#setters.push(({ probes }) => {
      path.reset();
      if (probes.path === null) return;
      for (const outcome of probeOutcomes) path.set({ outcome }, probes.path.outcome === outcome ? 1 : 0);
    });
  }

  #defineAgent(): void {
    const build = this.#make.gauge("ambient_cni_build_info", "1; the agent's build and backend", [
      "version",
      "nodejs",
      "backend",
    ]);
    const ready = this.#make.gauge(
      "ambient_cni_ready",
      "1 for each condition of the agent's readiness that holds",
      ["condition"],
    );
    this.#setters.push((report) => {
      build.set(
        { version: report.version, nodejs: process.versions.node, backend: report.backend.variant },
        1,
      );
      ready.reset();
      for (const { name, met } of report.conditions) ready.set({ condition: name }, met ? 1 : 0);
    });
    this.#defineWatches();
    const delay = this.#make.gauge(
      "ambient_cni_event_loop_delay_seconds",
      "How late the agent's event loop was in the last half minute",
      ["quantile"],
    );
    this.#setters.push(({ process: own }) => {
      delay.set({ quantile: "0.5" }, own.eventLoopDelayP50Ms / 1000);
      delay.set({ quantile: "0.99" }, own.eventLoopDelayP99Ms / 1000);
      delay.set({ quantile: "1" }, own.eventLoopDelayMaxMs / 1000);
    });
    this.#value("process_resident_memory_bytes", "Resident memory of the agent", (r) => r.process.rssBytes);
    this.#value("ambient_cni_heap_used_bytes", "Used heap of the agent", (r) => r.process.heapUsedBytes);
    this.#value("process_open_fds", "Open descriptors of the agent", (r) => r.process.openFds);
    this.#value(
      "process_start_time_seconds",
      "When the agent started, in seconds since 1970",
      (r) => Date.parse(r.startedAt) / 1000,
    );
    this.#total("process_cpu_seconds_total", "Processor time of the agent", (r) => r.process.cpuSeconds);
  }

  #defineWatches(): void {
    const age = this.#make.gauge(
      "ambient_cni_watch_age_seconds",
      "Time since the API server was last heard, by watch",
      ["watch"],
    );
    const fresh = this.#make.gauge(
      "ambient_cni_watch_fresh",
      "1 while the copy of what is watched can be relied on",
      ["watch"],
    );
    const objects = this.#make.gauge("ambient_cni_watch_objects", "Objects in the copy of what is watched", [
      "watch",
    ]);
    const failures = this.#make.counter("ambient_cni_watch_failures_total", {
      help: "Watches and lists that failed",
      labels: { watch: [] },
    });
    this.#setters.push(({ watches }) => {
      failures.reset();
      for (const watch of watches) {
        const labels = { watch: watch.name };
        // before the first word there is no age, and no number would say so
        if (watch.ageSeconds !== null) age.set(labels, watch.ageSeconds);
        fresh.set(labels, watch.fresh ? 1 : 0);
        objects.set(labels, watch.objects);
        failures.inc(labels, watch.failures);
      }
    });
  }

  #value(name: string, help: string, of: (report: NodeReport) => number): void {
    const gauge = this.#make.gauge(name, help);
    this.#setters.push((report) => gauge.set(of(report)));
  }

  #total(name: string, help: string, of: (report: NodeReport) => number): void {
    const counter = this.#make.counter(name, { help });
    this.#setters.push((report) => {
      counter.reset();
      counter.inc(of(report));
    });
  }

  /** A kind is there once it was counted. */
  #repairs(
    name: string,
    { help, of }: { readonly help: string; readonly of: (report: NodeReport) => readonly CountReport[] },
  ): void {
    const repairs = this.#make.counter(name, { help, labels: { kind: [] } });
    this.#setters.push((report) => {
      repairs.reset();
      for (const { kind, count } of of(report)) repairs.inc({ kind }, count);
    });
  }

  #kinds(
    name: string,
    counted: {
      readonly help: string;
      readonly label: string;
      readonly known: readonly string[];
      readonly of: (report: NodeReport) => readonly CountReport[];
    },
  ): void {
    const { help, label, known, of } = counted;
    const gauge = this.#make.gauge(name, help, [label]);
    this.#setters.push((report) => {
      for (const kind of known) gauge.set({ [label]: kind }, 0);
      for (const { kind, count } of of(report)) gauge.set({ [label]: kind }, count);
    });
  }
}
