// SPDX-License-Identifier: Apache-2.0
// All pods of the node: who asks for a look at which pod, and when.
import type { NamespaceFacts, PodFacts } from "../kube/pod-facts.ts";
import { KeyedQueue } from "../loop/keyed-queue.ts";
import { captureFault } from "./capture-fault.ts";
import { type Desired, decideEnrolment } from "./desired-state.ts";
import { EnrolmentError } from "./enrolment-error.ts";
import {
  PodReconciler,
  type ReconcileOutcome,
  type ReconcilerParts,
  waitsForZtunnel,
} from "./pod-reconciler.ts";
import { adoptSandbox, isEmpty, newestFacts, noteEnd, type PodRecord } from "./pod-record.ts";
import { PodRecords } from "./pod-records.ts";
import type { Sandbox } from "./sandbox-finder.ts";
import { Setbacks } from "./setbacks.ts";
import { restoreExemptions, takeStock } from "./stock-taking.ts";
import { ZtunnelGate } from "./ztunnel-gate.ts";

export interface EnrolmentOptions extends ReconcilerParts {
  /** How often an enrolled pod is looked at without a reason; jittered by a quarter. */
  readonly reconcileIntervalMs: number;
  /** Pods looked at in parallel. */
  readonly concurrency?: number;
  /** How long ADD waits for a ztunnel connection. ztunnel's own backoff reaches 15 s. */
  readonly ztunnelWaitMs: number;
}

/** A sandbox that the runtime has just made for a pod. */
export interface NewSandbox {
  readonly pod: PodFacts;
  readonly namespace: NamespaceFacts;
  /** Handed over: closed by the enrolment, also when it fails. */
  readonly sandbox: Sandbox;
}

/** Which sandbox ended. */
export interface EndedSandbox {
  readonly uid: string;
  readonly containerId: string;
  /** `Netns.key` if the runtime still named the namespace. */
  readonly netnsKey: string | undefined;
}

/** Why an ADD cannot succeed although no step failed. */
const unfinished: Readonly<Record<Exclude<ReconcileOutcome, "enrolled" | "outside" | "no-ztunnel">, string>> =
  {
    forgotten: "the pod was deleted meanwhile",
    "no-sandbox": "its sandbox was deleted or replaced meanwhile",
    "no-way-out": "its labels changed meanwhile",
    "namespace-unknown": "the labels of its namespace are not known yet",
  };

const notStarted = "the agent has not got the lists of pods and namespaces from the API server yet";

/** Keeps every pod of the node where its labels want it. */
export class Enrolment {
  readonly #options: EnrolmentOptions;
  readonly #gate: ZtunnelGate;
  readonly #reconciler: PodReconciler;
  readonly #setbacks: Setbacks;
  readonly #queue: KeyedQueue<ReconcileOutcome>;
  readonly #records = new PodRecords();
  #started = false;

  constructor(options: EnrolmentOptions) {
    this.#options = options;
    this.#gate = new ZtunnelGate(options.ztunnelWaitMs);
    this.#reconciler = new PodReconciler(options);
    this.#setbacks = new Setbacks(options);
    this.#queue = new KeyedQueue({ concurrency: options.concurrency ?? 16, run: (uid) => this.#run(uid) });
    options.ztunnel.onchange = (event) => {
      if (event.type !== "disconnected") this.#gate.open();
      // what the snapshot carried is acknowledged by now; what it did not is handed over by the runs
      // and what only a ztunnel that has left was told is handed to the one that stays
      const isOther = event.type === "disconnected" && event.connections > 0;
      if (event.type === "snapshot" || isOther) this.requestAll();
    };
    options.node.onPodChange((change) => {
      this.#podChanged((change.current ?? change.previous).uid, change.current);
    });
    options.node.pods.onlist = () => this.#podsListed();
    options.node.onNamespaceChange((change) => {
      this.#namespaceChanged((change.current ?? change.previous).name);
    });
  }

  /**
   * Takes stock once the lists are there: finds the sandboxes of all pods that are, or should be, in the mesh, and
   * fills ztunnel's roster. Only then may ztunnel connect: a pod missing from a snapshot is dropped by ztunnel.
   */
  async start(): Promise<void> {
    const { node, ztunnel, log } = this.#options;
    const pods = [...node.pods.values()];
    await Promise.all(
      pods.map((pod) =>
        takeStock(this.#records.note(pod), { pod, desired: this.desired(pod), parts: this.#options }),
      ),
    );
    this.#started = true;
    // what changed meanwhile has not been listened to
    for (const pod of node.pods.values()) this.#records.note(pod);
    for (const record of this.#records.values()) {
      if (record.adding === 0 && node.pod(record.uid) === undefined) record.facts = undefined;
    }
    await restoreExemptions(this.#wantedRecords(), this.#options);
    log.info({ pods: this.#records.size, inMesh: ztunnel.podCount }, "took stock of the node's pods");
    this.requestAll();
  }

  /**
   * Captures the pod of a new sandbox; resolves when ztunnel has acknowledged it.
   * @throws EnrolmentError with cause and remedy; nothing of the attempt is left then
   */
  async add({ pod, namespace, sandbox }: NewSandbox): Promise<ReconcileOutcome> {
    const record = this.#records.note(pod);
    record.ended = undefined;
    record.namespaceHint = newestFacts(record.namespaceHint, namespace);
    adoptSandbox(record, sandbox);
    record.adding++;
    this.#options.history.asked(pod.uid);
    try {
      const outcome = await this.#addWithin(record, performance.now() + this.#options.ztunnelWaitMs);
      if (outcome === "enrolled" && record.sandbox?.netns.key !== sandbox.netns.key)
        throw new Error(unfinished["no-sandbox"]);
      return outcome;
    } catch (error) {
      if (record.sandbox?.netns.key === sandbox.netns.key) this.#depart(record);
      throw new EnrolmentError(pod, error);
    } finally {
      record.adding--;
      if (record.departed.length > 0) this.#queue.request(pod.uid);
    }
  }

  /** Clears up after a sandbox that ended; returns at once, the work goes on behind. */
  remove(ended: EndedSandbox): void {
    const record = this.#records.get(ended.uid) ?? this.#records.ofContainer(ended.containerId);
    const sandbox = record?.sandbox;
    if (record === undefined || sandbox === undefined) return;
    const sameContainer = sandbox.containerId !== "" && sandbox.containerId === ended.containerId;
    const sameNetns = ended.netnsKey !== undefined && ended.netnsKey === sandbox.netns.key;
    // a late DEL of an earlier sandbox must not take the newer one away
    if (!sameContainer && !sameNetns) return;
    this.#depart(record);
  }

  /**
   * Whether a pod is known to be out of the mesh: deleted, or its labels do not ask for it and nothing of ours is in it.
   * False while that cannot be told.
   */
  isOutside(uid: string): boolean {
    const { node } = this.#options;
    if (!this.#started || !node.isFresh()) return false;
    const record = this.#records.get(uid);
    if (record === undefined) return node.pod(uid) === undefined;
    if (record.touched || record.adding > 0) return false;
    return record.facts === undefined || this.desired(record.facts)?.wanted === false;
  }

  /** Takes every pod out of the mesh, and keeps those out that come; resolves when each was tried. */
  async leaveAll(): Promise<void> {
    this.#reconciler.isLeaving = true;
    await Promise.allSettled([...this.#records.keys()].map((uid) => this.#queue.run(uid)));
  }

  /** Every pod known, for reports: only to be read. */
  records(): IterableIterator<Readonly<PodRecord>> {
    return this.#records.values();
  }

  /** One of {@link records}. */
  record(uid: string): Readonly<PodRecord> | undefined {
    return this.#records.get(uid);
  }

  /** What should be of a pod; `undefined` while the labels of its namespace are not known. */
  desired(pod: PodFacts): Desired | undefined {
    const namespace = this.#options.node.namespace(pod.namespace);
    return namespace === undefined ? undefined : decideEnrolment(pod, namespace, this.#options.policy);
  }

  /** Repairs of enrolled pods by kind of drift, since the start. */
  get repairs(): ReadonlyMap<string, number> {
    return this.#reconciler.repairs.counts;
  }

  /**
   * What is wrong with a pod's capture, looked at in the kernel and at ztunnel's word; `undefined` when nothing is.
   * @param netnsKey `Netns.key` of the namespace the runtime has for the pod
   */
  fault(pod: PodFacts, netnsKey: string | undefined): Promise<string | undefined> {
    const { sandbox } = this.#records.get(pod.uid) ?? {};
    return captureFault({ pod, netnsKey, sandbox, desired: this.desired(pod) }, this.#options);
  }

  /** Clears up after every sandbox that the runtime named in an ADD and that is not among these (CNI's GC). */
  keepOnly(containerIds: ReadonlySet<string>): void {
    for (const record of this.#records.values()) {
      const { sandbox, adding } = record;
      // the id of a sandbox found in /proc may be that of another container of the pod
      if (sandbox?.isNew === true && adding === 0 && !containerIds.has(sandbox.containerId))
        this.#depart(record);
    }
  }

  /** Lets the runs under way end and releases every namespace; rules and ztunnel's pods stay as they are. */
  async stop(): Promise<void> {
    this.#gate.close(new Error("the agent of this node is restarting"));
    await this.#queue.stop();
    for (const record of this.#records.values()) {
      for (const sandbox of record.departed.splice(0)) sandbox.netns.close();
      record.sandbox?.netns.close();
      record.sandbox = undefined;
    }
    this.#records.clear();
  }

  #depart(record: PodRecord): void {
    if (record.sandbox !== undefined) noteEnd(record, record.sandbox);
    record.sandbox = undefined;
    // its run may have to wait; a ztunnel that connects meanwhile must not be given a namespace that is torn down
    this.#options.ztunnel.withdraw(record.uid);
    this.#queue.request(record.uid);
  }

  async #addWithin(record: PodRecord, deadlineMs: number): Promise<ReconcileOutcome> {
    const { ztunnel } = this.#options;
    for (;;) {
      if (ztunnel.connectionCount === 0)
        await this.#gate.pass(deadlineMs, this.#started ? undefined : notStarted);
      try {
        const outcome = await this.#queue.run(record.uid);
        if (outcome === "enrolled" || outcome === "outside") return outcome;
        if (outcome !== "no-ztunnel") throw new Error(unfinished[outcome]);
      } catch (error) {
        if (!waitsForZtunnel(error) || performance.now() >= deadlineMs) throw error;
      }
    }
  }

  async #run(uid: string): Promise<ReconcileOutcome> {
    const record = this.#records.get(uid);
    if (record === undefined) return "forgotten";
    const { history } = this.#options;
    history.begin(uid);
    try {
      const outcome = await this.#reconciler.reconcile(record);
      this.#options.log.debug({ uid, outcome }, "looked at a pod");
      if (!outcome.startsWith("no-")) record.failures = 0;
      this.#planNext(record, outcome);
      history.end(uid, record.state, outcome);
      if (!this.#records.has(uid)) history.forget(uid);
      return outcome;
    } catch (error) {
      this.#queue.requestAfter(record.uid, this.#setbacks.fail(record, error as Error));
      history.end(uid, record.state, "failed");
      throw error;
    }
  }

  #planNext(record: PodRecord, outcome: ReconcileOutcome): void {
    const { reconcileIntervalMs } = this.#options;
    if (outcome === "enrolled") {
      this.#queue.requestAfter(record.uid, reconcileIntervalMs * (0.75 + Math.random() / 2));
    } else if (outcome === "forgotten" && isEmpty(record)) {
      this.#records.delete(record.uid);
    } else if (outcome === "no-sandbox" && record.facts?.phase === "Running") {
      // a running pod has processes; they show within moments of its start
      this.#retryAfter(record, "no process of it is found on this node in a namespace that has its address");
    } else if (outcome === "no-way-out") {
      this.#retryAfter(
        record,
        "it should leave, but no process of it is found whose redirection could be taken away",
      );
    } else if (outcome === "no-ztunnel") {
      this.#retryAfter(record, "no ztunnel connection");
    }
    if (record.departed.length > 0 && record.adding === 0) this.#queue.request(record.uid);
  }

  #retryAfter(record: PodRecord, reason: string): void {
    this.#queue.requestAfter(record.uid, this.#setbacks.wait(record, reason));
  }

  #podChanged(uid: string, pod: PodFacts | undefined): void {
    if (!this.#started) return;
    if (pod !== undefined) {
      this.#records.note(pod);
      this.#options.history.asked(uid);
    }
    const record = this.#records.get(uid);
    if (record === undefined) return;
    if (pod === undefined) record.facts = undefined;
    this.#queue.request(uid);
  }

  /** A pod known from its ADD alone, and deleted while the watch was broken, is in no list and no event. */
  #podsListed(): void {
    const { pods } = this.#options.node;
    if (!this.#started) return;
    for (const record of this.#records.values()) {
      const version = record.facts?.resourceVersion;
      if (version === undefined || record.adding > 0 || pods.get(record.uid) !== undefined) continue;
      if (pods.hasListedSince(version)) this.#podChanged(record.uid, undefined);
    }
  }

  #namespaceChanged(name: string): void {
    if (!this.#started) return;
    for (const record of this.#records.values()) {
      if (record.facts?.namespace !== name) continue;
      this.#options.history.asked(record.uid);
      this.#queue.request(record.uid);
    }
  }

  #wantedRecords(): PodRecord[] {
    return [...this.#records.values()].filter(
      ({ facts }) => facts !== undefined && this.desired(facts)?.wanted === true,
    );
  }

  /** Has every pod looked at. */
  requestAll(): void {
    for (const uid of this.#records.keys()) this.#queue.request(uid);
  }
}
