// SPDX-License-Identifier: Apache-2.0
// What names each fault of the suites with a real cluster and a real containerd before anyone opens a log. fault-signals.test.ts
// makes every fault and waits for every signal.

/** Where an operator looks. `kubelet's Event` is what a runtime was told, which the kubelet repeats in an Event of the pod. */
export type SignalPlace =
  | "metrics"
  | "readyz"
  | "status"
  | "doctor"
  | "verify"
  | "Events"
  | "kubelet's Event";

/** A line in that place that was not there before the fault, or a counter that grows with it. */
export interface Signal {
  readonly place: SignalPlace;
  /** Regular expression for one line, or a counter with its labels. */
  readonly says: string;
  readonly grows?: boolean;
}

/** A row of the table. */
export interface FaultSignals {
  /** Tests of the suites that make this fault: the file, and words of the test's name; none: it is made here alone. */
  readonly madeIn: readonly (readonly [file: string, name: string])[];
  readonly signals: readonly Signal[];
}

const metric = (says: string): Signal => ({ place: "metrics", says: `^${says}$` });
const counter = (says: string): Signal => ({ place: "metrics", says, grows: true });
const event = (says: string): Signal => ({ place: "Events", says: `^${says}` });
const status = (says: string): Signal => ({ place: "status", says });
const doctor = (says: string): Signal => ({ place: "doctor", says: `^(?:warn|fail)  ${says}` });
const verify = (says: string): Signal => ({ place: "verify", says });
const kubelet = (says: string): Signal => ({ place: "kubelet's Event", says });

const node = "test/cluster/node/node.cluster.ts";
const probes = "test/cluster/node/probes.cluster.ts";
const dropIn = "test/cluster/drop-in/drop-in.cluster.ts";
const apiServer = "test/cluster/api-server/api-server.cluster.ts";
/** Runs against the real API server too. */
const behaviours = "test/kube/behaviours.ts";
const failedAdd = "test/cri/failed-add.test.ts";
const sidecar = "test/cri/sidecar.test.ts";
const runtime = "test/cri/runtime.test.ts";
const nri = "test/cri/nri.test.ts";

/** The table. */
export const faultSignals = {
  "API server away": {
    madeIn: [
      [node, "keeps pods captured while the API server is away"],
      [dropIn, "a minute without API server"],
      [apiServer, "costs the copies nothing"],
      [behaviours, "catches up after a time of refused connections"],
      [behaviours, "is written once the server can be reached again"],
    ],
    signals: [
      metric('ambient_cni_watch_fresh\\{watch="pods"\\} 0'),
      doctor("watches +the agent's picture is old"),
      doctor("api +the API server cannot be asked"),
    ],
  },
  // the watches hear of it by their own deadline, which is the better part of a minute away
  "API server silent": {
    madeIn: [[behaviours, "that has gone silent"]],
    signals: [
      doctor("api +the API server cannot be asked: .*timeout; the server or the way to it is slow or dead"),
    ],
  },
  "watch cut": {
    madeIn: [[behaviours, "that is cut loses nothing"]],
    signals: [counter('ambient_cni_watch_failures_total{watch="pods"}')],
  },
  "history forgotten": {
    madeIn: [[behaviours, "lists anew when the server has forgotten"]],
    signals: [counter('ambient_cni_watch_failures_total{watch="pods"}')],
  },
  "token refused": {
    madeIn: [[apiServer, "goes on with its new token when the old one ends"]],
    signals: [
      metric('ambient_cni_watch_fresh\\{watch="pods"\\} 0'),
      doctor("watches +the agent's picture is old"),
      doctor("api +the API server cannot be asked: .*401 .*the token or certificate was refused"),
    ],
  },
  "pod made without API server": {
    madeIn: [
      [failedAdd, "when the API server is away"],
      [sidecar, "waits while the API server is away"],
    ],
    signals: [
      kubelet('cannot know whether pod "mesh/[^"]+" belongs to the ambient mesh: .*ECONNREFUSED'),
      counter('ambient_cni_calls_total{verb="ADD",outcome="retry"}'),
    ],
  },
  "annotation refused": {
    madeIn: [],
    signals: [
      metric('ambient_cni_pods_failing\\{[^}]*reason="api"[^}]*\\} 1'),
      status("its annotation is refused: .*denied by policy"),
      doctor("pods +1 pods are not right .*its annotation is refused: .*denied by policy"),
      verify("capture-without-annotation"),
    ],
  },
  "sidecar pod made without rules": {
    madeIn: [
      [sidecar, "that started without rules"],
      ["test/cri/sidecar.slow.ts", "whose rules were broken before its check"],
    ],
    signals: [
      counter('istio_cni_repair_pods_repaired_total{type="label",result="success"}'),
      event("LabelBrokenPod: This pod started while nobody wrote its sidecar's rules"),
    ],
  },
  "ztunnel gone": {
    madeIn: [[node, "serves every pod through a ztunnel that was restarted"]],
    signals: [
      metric("ztunnel_connected 0"),
      status("no ztunnel ·"),
      doctor("ztunnel +no ztunnel is connected"),
    ],
  },
  "ztunnel replaced": {
    madeIn: [
      [node, "serves every pod through a ztunnel that was restarted"],
      [dropIn, "lets a ztunnel take over from another"],
    ],
    signals: [counter("ambient_cni_ztunnel_connects_total")],
  },
  "pod made without ztunnel": {
    madeIn: [
      [failedAdd, "when there is no ztunnel"],
      [nri, "makes no container of a mesh pod that cannot be captured"],
      [dropIn, "says in kubectl describe why a pod of the mesh waits"],
      [dropIn, "comes up by itself after a reboot"],
    ],
    signals: [
      kubelet("no ztunnel connection for 1 s; check the ztunnel pod of this node: kubectl"),
      counter('ambient_cni_calls_total{verb="ADD",outcome="failed"}'),
    ],
  },
  "pod labelled without ztunnel": {
    madeIn: [
      ["test/kernel/agent.test.ts", "are not cut off by a label while ztunnel is away"],
      [nri, "starts it instead where NRI_REFUSE is false"],
    ],
    signals: [
      metric('ambient_cni_pods_failing\\{reason="ztunnel"\\} [1-9]'),
      status("^plain .* waiting .* no ztunnel connection"),
      event("AmbientWaitingForZtunnel: "),
    ],
  },
  "ztunnel refuses a pod": {
    madeIn: [[failedAdd, "when ztunnel refuses the pod"]],
    signals: [
      metric('ambient_cni_pods_failing\\{reason="ztunnel-refused"\\} 1'),
      status("^plain .* failed .* ztunnel refused: .*port taken"),
      event("AmbientZtunnelRefused: .*port taken"),
    ],
  },
  "ztunnel does not answer": {
    madeIn: [[failedAdd, "when ztunnel does not answer"]],
    signals: [
      metric("ambient_cni_ztunnel_pending_requests [1-9]"),
      counter('ambient_cni_ztunnel_answer_duration_seconds_count{result="timeout"}'),
    ],
  },
  "kernel refuses the redirection": {
    madeIn: [[failedAdd, "when the kernel refuses a rule"]],
    signals: [
      metric('ambient_cni_pods_failing\\{reason="kernel"\\} 1'),
      status("^plain .* pending .*ENETDOWN"),
      event("AmbientNotCaptured: .*ENETDOWN"),
    ],
  },
  // the kubelet's own Event says that the deadline was exceeded, and nothing else
  "kubelet gives up": {
    madeIn: [[failedAdd, "when the kubelet gives up and containerd kills the plugin"]],
    signals: [
      kubelet('plugin type="ambient-cni" failed \\(add\\): .*killed'),
      counter('ambient_cni_calls_total{verb="ADD",outcome="failed"}'),
    ],
  },
  "rules of a pod flushed": {
    madeIn: [["test/kernel/agent.test.ts", "get back what somebody took out of them"]],
    signals: [
      counter('ambient_cni_repairs_total{kind="missing-jump"}'),
      event("AmbientRepaired: .*jump to ISTIO_OUTPUT"),
    ],
  },
  "rules of a pod that cannot be judged": {
    madeIn: [["test/kernel/unverifiable.test.ts", "an ADD whose pod cannot be verified fails"]],
    signals: [
      metric('ambient_cni_pods\\{state="unverified"\\} 1'),
      status(", 1 cannot be verified"),
      status("^mesh +web .* unverified .*does not hang where iptables hangs it"),
      { place: "doctor", says: "^warn  pods +1 pods cannot be verified, for example mesh/web" },
      verify("^unreadable-rules  mesh/web: .*its chain PREROUTING does not hang"),
      verify("nothing wrong was seen, and 1 pod cannot be verified"),
      event("AmbientCannotVerify: .*does not hang where iptables hangs it"),
    ],
  },
  "host's rules flushed": {
    madeIn: [[probes, "through flushes of the host's rules and of its sets"]],
    signals: [counter("ambient_cni_probe_rules_restored_total")],
  },
  "host's rules flushed without an agent": {
    madeIn: [[probes, "do not arrive without the host's rule"]],
    signals: [doctor("agent +Cannot ask the agent"), verify("host-chain")],
  },
  "host's sets flushed": {
    madeIn: [[probes, "through flushes of the host's rules and of its sets"]],
    signals: [counter("ambient_cni_probe_rules_restored_total")],
  },
  "chain rewritten": {
    madeIn: [["test/cri/chain.test.ts", "comes back after 100 rewrites"]],
    signals: [counter("ambient_cni_conflist_rewrites_total")],
  },
  "fight over the chain": {
    madeIn: [["test/cri/chain.test.ts", "comes back after 100 rewrites"]],
    signals: [
      metric("ambient_cni_conflist_fighting 1"),
      { place: "readyz", says: "^not ready: chain: Another program has taken ambient-cni out" },
      status("! chain: Another program"),
      doctor("cni-fight "),
      event("AmbientChainFight: "),
    ],
  },
  "runtime cuts the agent off": {
    madeIn: [
      [nri, "cuts off an agent that stands still"],
      [nri, "hears from us again after its own %s"],
    ],
    signals: [counter("ambient_cni_nri_connects_total")],
  },
  "agent restarted": {
    madeIn: [
      ["test/cri/upgrade.test.ts", "loses none of them"],
      [dropIn, "is updated under traffic"],
      [dropIn, "can be installed again"],
    ],
    signals: [counter("process_start_time_seconds")],
  },
  "agent away": {
    madeIn: [
      ["test/cri/agent-away.test.ts", "lets no other one start"],
      ["test/cri/boot.test.ts", "although the agent comes late"],
      ["test/cri/deaths.test.ts", "deaths of agents and uninstalls"],
      [failedAdd, "and stays away"],
      [sidecar, "waits while the agent is away"],
      [runtime, "without the agent"],
      [nri, "tells an agent that was away"],
      ["test/cri/agent-away.slow.ts", "and away for 60 s"],
      ["test/cri/boot.slow.ts", "pods at once loses none"],
      ["test/cri/deaths.slow.ts", "deaths of agents and uninstalls"],
      [dropIn, "comes up by itself after a reboot"],
      [node, "over a restart of the agent, and holds new ones meanwhile"],
    ],
    signals: [
      kubelet("Cannot get an answer from the ambient-cni agent of this node"),
      status("Cannot ask the agent .*: the agent has ended"),
      doctor("agent +Cannot ask the agent"),
    ],
  },
  "DaemonSet deleted": {
    madeIn: [
      [dropIn, "leaves the node as it was, and pods in the mesh, when its DaemonSet is deleted"],
      [dropIn, "when all manifests are deleted in one go"],
      [dropIn, "leaves by both runbooks of deploy/README.md"],
      [dropIn, "does all of that in the DaemonSet of istio-cni"],
      ["test/cri/deaths.test.ts", "deaths of agents and uninstalls"],
    ],
    signals: [doctor("cni-chain "), doctor("launcher "), doctor("agent +Cannot ask the agent")],
  },
} as const satisfies Readonly<Record<string, FaultSignals>>;

/** A row's name. */
export type FaultName = keyof typeof faultSignals;

/** Tests that make a fault which hurts nothing of ours: what they claim is that there is nothing to tell. */
export const faultsWithoutHarm: readonly (readonly [file: string, name: string])[] = [
  [dropIn, "keeps everything captured over a restart of %s"],
  [failedAdd, "not when the loopback plugin"],
  [failedAdd, "is not handed to a ztunnel that connects after its DEL"],
  [failedAdd, "and comes back"],
  ["test/cri/end.test.ts", "leaves nothing when the owner gets SIGKILL"],
  [runtime, "comes back after its own %s"],
  [probes, "pass again when an agent has put the rule back"],
];

/** Tests of the suites that make no fault. */
export const withoutFault: readonly (readonly [file: string, name: string])[] = [
  ["test/cri/fleet.test.ts", ""],
  [runtime, "asks ADD once and DEL twice"],
  ...["whose chain lacks us", "30 of 30 such pods", "without which the same pod", "is answered at once"].map(
    (name) => [nri, name] as const,
  ),
  [runtime, "asks STATUS whenever the kubelet asks it"],
  ["test/cri/sidecar-moves.test.ts", "goes from sidecar to ambient and back"],
  ["test/cri/sidecar.slow.ts", "starts with its redirection"],
  ["test/cri/sidecar.slow.ts", "whose sandbox dies"],
  ["test/cri/sidecar.slow.ts", "of both families starts although its loopback device"],
  ...["starts with its redirection", "and an istio-init of its own", "leaves nothing when it ends"].map(
    (name) => [sidecar, name] as const,
  ),
  ...[
    "brings what is on the node",
    "is resumed without a list when the server ends it",
    "of namespaces carries metadata alone",
    "knows pods and namespaces",
    "is written, changed and taken away",
    "never lands on another pod",
    "of a pod that is gone is given up",
    "as it was looked at, and not once it has changed",
    "that is gone is not %s",
  ].map((name) => [behaviours, name] as const),
  ...[
    "lists, watches, writes",
    "refuses a patch",
    "gives a list",
    "labels a broken pod",
    "in its own words",
    "may ask whether the server is ready",
  ].map((name) => [apiServer, name] as const),
  [probes, "let Deployments become ready"],
  [probes, "of pods that are gone leave no entry"],
  ...[
    "captures the running pods of a Deployment",
    "carries traffic between pods",
    "captures a new pod before its first init container",
    "leaves nothing of a pod that is deleted",
    "frees pods when the label is taken away",
    "captures a static pod",
    "finds a static pod",
    "lets a pod go that has done its work",
    "holds nothing when all pods are gone",
  ].map((name) => [node, name] as const),
  ...[
    "has a chart whose objects",
    "is ready within 10 s",
    "makes a ztunnel ready",
    "captures running pods within a second",
    "answers the commands of deploy/README.md",
    "carries their traffic",
    "captures new pods before their init containers",
    "frees pods within a second",
  ].map((name) => [dropIn, name] as const),
];
