// SPDX-License-Identifier: Apache-2.0
// An agent's parts without an agent: what reports and metrics are made from, with as many pods as a test likes.
import { loadConfig } from "../../src/config.ts";
import type { Place } from "../../src/enrolment/attachments.ts";
import { decideEnrolment, type EnrolmentPolicy } from "../../src/enrolment/desired-state.ts";
import { PodHistory } from "../../src/enrolment/pod-history.ts";
import type { PodStatus } from "../../src/enrolment/pod-record.ts";
import { SidecarRecords } from "../../src/enrolment/sidecar-records.ts";
import { Sidecars } from "../../src/enrolment/sidecars.ts";
import type { AnnotationRefusal } from "../../src/kube/annotation-writer.ts";
import type { NamespaceFacts, PodFacts } from "../../src/kube/pod-facts.ts";
import { defaultSelectors } from "../../src/kube/selectors.ts";
import type { SidecarFacts } from "../../src/kube/sidecar-facts.ts";
import type { Netns } from "../../src/linux/netns.ts";
import { LogRing } from "../../src/log/log-ring.ts";
import { silentLogger } from "../../src/log/logger.ts";
import type { ProbeDrift } from "../../src/probes/probe-drift.ts";
import type { SidecarDrift } from "../../src/redirection/sidecar-redirection.ts";
import type { AgentFacts, ZdsConnectionFacts } from "../../src/status/agent-facts.ts";
import type { StateSource } from "../../src/status/agent-state.ts";
import { Metrics } from "../../src/status/metrics.ts";
import { ProcessFacts } from "../../src/status/process-facts.ts";
import { Readiness } from "../../src/status/readiness.ts";

/** A pod for {@link FakeAgent.add}. */
export interface FakePod {
  readonly ns?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly hostNetwork?: boolean;
  readonly ips?: readonly string[];
  /** Where the enrolment has it; default `enrolled` with a sandbox, `none`: it has no record. */
  readonly state?: PodStatus["state"] | "none";
  /** Connections that it had when it was captured; default: it was captured before it ran. */
  readonly earlierConnections?: number;
  /** A proxy that redirects nothing by itself, of an injected pod whose ADD this agent answered; its state is `sidecar` then. */
  readonly sidecar?: SidecarFacts;
  /** Default: a namespace that nothing can be read from. */
  readonly netns?: Netns;
}

/** A pod's standing that a test can change. */
type FakeStatus = { -readonly [K in keyof PodStatus]: PodStatus[K] };

const policy: EnrolmentPolicy = {
  selectors: defaultSelectors,
  excludeNamespaces: new Set(["kube-system"]),
  systemNamespace: "istio-system",
  agentNamespace: "istio-system",
  dnsCapture: true,
  probeSnatV4: "169.254.7.127",
  probeSnatV6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff",
  establishedConnections: "keep",
};

/** Everything can be changed between two questions. */
export class FakeAgent {
  readonly pods = new Map<string, PodFacts>();
  readonly records = new Map<string, FakeStatus>();
  /** Label `istio.io/dataplane-mode=ambient` on each but `plain`; a name that is not here is not known. */
  readonly namespaces = new Map<string, NamespaceFacts>();
  readonly acknowledged = new Map<string, string>();
  readonly members = new Map<string, readonly string[]>();
  readonly probeDrift: ProbeDrift[] = [];
  readonly connections: ZdsConnectionFacts[] = [];
  readonly repairs = new Map<string, number>();
  /** What the API server says of annotations that it does not take. */
  readonly refusals = new Map<string, AnnotationRefusal>();
  readonly history: PodHistory;
  readonly sidecars: Sidecars;
  /** Where ADD said that pods with a sidecar are. */
  readonly places = new Map<string, Place>();
  readonly sidecarRecords = new SidecarRecords();
  /** AMBIENT_ENABLED */
  ambient = true;
  /** AMBIENT_IPV6 */
  ipv6 = true;
  /** What looks at sidecars' rules find. */
  sidecarDrift: SidecarDrift[] = [];
  readonly ring = new LogRing();
  readonly readiness = new Readiness({ watches: "the lists have not come yet" });
  verify: AgentFacts["redirection"]["verify"] = () =>
    Promise.resolve({
      intact: true,
      drift: [],
      skippedFamilies: [],
      fingerprints: new Map(),
      routing: {
        v4: { rule: true, route: true, supported: true },
        v6: { rule: true, route: true, supported: true },
      },
    });

  constructor(history = new PodHistory()) {
    this.history = history;
    this.sidecars = new Sidecars({
      redirection: {
        takesOwnUsers: false,
        prepare: async () => {},
        apply: async () => ({ repaired: [], families: [4] }),
        verify: async () => this.sidecarDrift,
      },
      attachments: { placeOf: (uid) => this.places.get(uid) },
      records: this.sidecarRecords,
      excludeNamespaces: policy.excludeNamespaces,
      log: silentLogger,
    });
    for (const name of ["shop", "plain"]) {
      const labels: Record<string, string> = name === "plain" ? {} : { "istio.io/dataplane-mode": "ambient" };
      this.namespaces.set(name, { key: name, name, uid: `uid-${name}`, labels, resourceVersion: "1" });
    }
    this.connections.push({
      id: 1,
      pid: 4711,
      connectedAt: new Date(0),
      phase: "live",
      acknowledgedCount: 0,
      pendingCount: 0,
      refusedCount: 0,
    });
  }

  /** Adds a pod; its UID is `uid-NAME`. */
  add(name: string, pod: FakePod = {}): PodFacts {
    const { ns = "shop", sidecar, ips = ["10.1.0.9"] } = pod;
    const { state = sidecar === undefined ? "enrolled" : "outside" } = pod;
    const uid = `uid-${name}`;
    const facts: PodFacts = {
      key: uid,
      uid,
      namespace: ns,
      name,
      serviceAccount: "default",
      nodeName: "node-1",
      hostNetwork: pod.hostNetwork === true,
      phase: "Running",
      ips,
      labels: pod.labels ?? {},
      annotations: {
        ...(sidecar === undefined ? {} : { "sidecar.istio.io/status": "{}" }),
        ...pod.annotations,
      },
      ...(sidecar === undefined ? {} : { sidecar }),
      containerIds: [],
      resourceVersion: "1",
    };
    this.pods.set(uid, facts);
    if (sidecar !== undefined) this.#serve(facts, pod.netns);
    if (state === "none") return facts;
    const record: FakeStatus = { uid, facts, sandbox: undefined, state };
    this.records.set(uid, record);
    if (state === "outside") return facts;
    const netns = pod.netns ?? ({ key: `4:${1000 + this.records.size}`, fd: -1, closed: true } as Netns);
    if (state !== "waiting") record.sandbox = { netns, containerId: "c".repeat(64), ips, isNew: false };
    this.history.begin(uid);
    if (pod.earlierConnections !== undefined)
      this.history.entered(uid, { earlierConnections: pod.earlierConnections });
    if (state === "enrolled") {
      this.history.step(uid, "rules");
      this.history.looked(uid, { netnsKey: netns.key, skippedFamilies: [] });
      this.acknowledged.set(uid, netns.key);
      this.members.set(uid, ips);
    }
    this.history.end(uid, state, state === "enrolled" ? "enrolled" : "failed");
    return facts;
  }

  #serve({ uid, namespace, name, ips }: PodFacts, netns?: Netns): void {
    const netnsKey = netns?.key ?? `4:${2000 + this.places.size}`;
    const netnsPath = netns === undefined ? "/nowhere" : `/../proc/self/fd/${netns.fd}`;
    const containerId = "d".repeat(64);
    this.places.set(uid, { uid, namespace, name, containerId, netnsPath, netnsKey, ips });
    this.sidecarRecords.right(uid, { netnsKey, families: [4], ms: 1.5 });
  }

  /** As an agent that has just started knows them. */
  forgetSidecars(): void {
    for (let times = 0; times < 2; times++) this.sidecarRecords.keepOnly(new Set());
  }

  facts(): AgentFacts {
    const counts = { lists: 1, watches: 2, failures: 0, events: 3, ignoredEvents: 0 };
    const watch = {
      size: this.pods.size,
      synced: true,
      lastContactMs: performance.now() - 1500,
      counts,
      isFresh: () => true,
    };
    const isAmbient = () => this.ambient;
    return {
      config: {
        ...loadConfig({ env: {}, args: [] }),
        ...policy,
        ...settings,
        ipv6: this.ipv6,
        get ambient() {
          return isAmbient();
        },
      },
      backend: { variant: "nft", reason: "the host has more rules there" },
      cluster: {
        pods: { ...watch, values: () => this.pods.values() },
        namespaces: { ...watch, size: this.namespaces.size },
        podByName: (namespace, name) =>
          [...this.pods.values()].find((pod) => pod.namespace === namespace && pod.name === name),
      },
      enrolment: {
        records: () => this.records.values(),
        record: (uid) => this.records.get(uid),
        desired: (pod) => {
          const namespace = this.namespaces.get(pod.namespace);
          return namespace === undefined ? undefined : decideEnrolment(pod, namespace, policy);
        },
        repairs: this.repairs,
      },
      history: this.history,
      annotations: { refusal: (uid) => this.refusals.get(uid) },
      sidecars: this.sidecars,
      runtime: {
        ...{ path: "/var/run/nri/nri.sock", state: "connected", since: new Date(0), fault: undefined },
        ...{ runtime: { name: "containerd", version: "2.1.9" }, registrations: 1 },
      },
      redirection: { verify: (...args) => this.verify(...args) },
      ztunnel: {
        ready: true,
        podCount: this.acknowledged.size,
        connections: this.connections,
        acceptedCount: 7,
        holds: (uid) => this.acknowledged.has(uid),
        acknowledged: (uid) => this.acknowledged.get(uid),
      },
      probes: {
        fault: undefined,
        counts: { restored: 2, failures: 0 },
        addressesOf: (uid) => this.members.get(uid) ?? [],
        verify: () => Promise.resolve(this.probeDrift),
      },
      readiness: this.readiness,
      ring: this.ring,
      process: new ProcessFacts(),
      chain: {
        configPath: "/host/etc/cni/net.d/10-test.conflist",
        fault: undefined,
        rewrites: 3,
        fights: 1,
        isFighting: false,
        pluginTypes: ["bridge", "ambient-cni"],
      },
      probePath: () => ({ outcome: "bypassed", atMs: 0 }),
    };
  }
}

const settings = {
  nodeName: "node-1",
  hostRoot: "/host",
  runDir: "/var/run/istio-cni",
  ztunnelSocketPath: "/var/run/ztunnel/ztunnel.sock",
  branchEniProbes: true,
  probeMatch: "any",
  iptablesVariant: "auto",
  reconcileIntervalMs: 30_000,
  kernelNotices: true,
  ztunnelWaitMs: 20_000,
  leavePauseMs: 500,
  leaveDrainMs: 2_000,
  install: {
    enabled: true,
    netDir: "/host/etc/cni/net.d",
    binDir: "/host/opt/cni/bin",
    confName: undefined,
    chained: true,
    ownedFileName: undefined,
    groupRead: false,
    replaceIstioCni: false,
    releasePods: false,
    awayPolicy: "namespace",
    agentWaitSeconds: 10,
  },
  nri: { enabled: "auto", socketPath: "/var/run/nri/nri.sock", refuse: true },
  ignored: ["REPAIR_ENABLED: only istio-cni's sidecar mode uses it"],
} as const;

/** Metrics of an agent that is there already. */
export function metricsOf(source: Pick<StateSource, "node">): Metrics {
  const metrics = new Metrics();
  metrics.readFrom(source);
  return metrics;
}
