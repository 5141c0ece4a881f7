// SPDX-License-Identifier: Apache-2.0
// All pods of the node: who asks for a look at which pod, and when. Everything that happens becomes a message to a pod's own run.
import type { NodeState } from "../kube/node-state.ts";
import type { NamespaceFacts, PodFacts } from "../kube/pod-facts.ts";
import type { Netns } from "../linux/netns.ts";
import type { Timer } from "../loop/clock.ts";
import { KeyedQueue } from "../loop/keyed-queue.ts";
import type { HostProbes } from "../probes/host-probes.ts";
import type { ZdsServer } from "../ztunnel/zds-server.ts";
import type { Attachment, Attachments, Place } from "./attachments.ts";
import { type Desired, decideEnrolment, type EnrolmentPolicy } from "./desired-state.ts";
import { restoreExemptions } from "./initial-snapshot.ts";
import type { Pace, ReconcileOutcome, Step } from "./next-step.ts";
import { EnrolmentError, type Failure, failureOf, Outcomes, StepError, waitOf } from "./outcomes.ts";
import { PodRecord, type PodStatus, type Waiter } from "./pod-record.ts";
import { type Decisions, Reconciler, type ReconcilerParts } from "./reconciler.ts";
import type { Sandbox } from "./sandbox-finder.ts";
import { isEmpty, isTouched, type Message, newestFacts } from "./workload.ts";

export interface EnrolmentOptions extends Omit<ReconcilerParts, "ztunnel" | "probes" | "attachments"> {
  readonly node: Pick<
    NodeState,
    "pod" | "podByName" | "namespace" | "isFresh" | "onPodChange" | "onNamespaceChange"
  > & {
    readonly pods: Pick<NodeState["pods"], "values" | "get" | "hasListedSince"> & { onlist: () => void };
  };
  readonly ztunnel: ReconcilerParts["ztunnel"] & Pick<ZdsServer, "onchange" | "withdraw" | "podCount">;
  readonly probes: ReconcilerParts["probes"] & Pick<HostProbes, "start" | "replaceAll">;
  readonly attachments: ReconcilerParts["attachments"] & Attachments;
  readonly events: ConstructorParameters<typeof Outcomes>[0]["events"];
  readonly policy: EnrolmentPolicy;
  /** How often an enrolled pod is looked at without a reason; jittered by a quarter. */
  readonly reconcileIntervalMs: number;
  /** Pods looked at in parallel. */
  readonly concurrency?: number;
  /** How long ADD waits for a ztunnel connection. ztunnel's own backoff reaches 15 s. */
  readonly ztunnelWaitMs: number;
  readonly pace: Pick<Pace, "leavePauseMs" | "leaveDrainMs">;
  readonly random?: () => number;
  readonly decisions?: Decisions;
}

/** What an ADD says. */
export interface AddedSandbox {
  readonly pod: PodFacts;
  readonly namespace: NamespaceFacts;
  readonly place: Place;
  readonly attachment: Attachment;
  /** Opens the namespace, for a pod that belongs into the mesh; the handle is owned by the enrolment. */
  readonly open: () => Netns;
}

/** What a CNI call names of a pod; empty texts where it does not say. */
export interface NamedSandbox extends Attachment {
  readonly uid: string;
  /** `Netns.key` if the runtime still named the namespace. */
  readonly netnsKey: string | undefined;
}

type Rest = Extract<Step, { do: "rest" }>;

/** Why an ADD cannot succeed although no step failed. */
const unfinished: Readonly<Partial<Record<ReconcileOutcome, string>>> = {
  forgotten: "the pod was deleted meanwhile",
  "no-sandbox": "its sandbox was deleted or replaced meanwhile",
  "no-way-out": "its labels changed meanwhile",
  leaving: "its labels changed meanwhile",
  "namespace-unknown": "the labels of its namespace are not known yet",
};

const notStarted = "the agent has not got the lists of pods and namespaces from the API server yet";
const noConnection = "no ztunnel connection";
/** For the packets with which ztunnel ends its connections. Source: measured beside the real ztunnel. */
const finMs = 50;
const concealMs = 2_000;
/** Between two looks at a sandbox that a DEL of unknown origin has named. */
const doubtMs = 200;

/** Keeps every pod of the node where its labels want it. */
export class Enrolment {
  readonly #options: EnrolmentOptions;
  readonly #reconciler: Reconciler;
  readonly #outcomes: Outcomes;
  readonly #queue: KeyedQueue<Rest>;
  readonly #records = new Map<string, PodRecord>();
  #stage: "new" | "taking-stock" | "started" = "new";
  #isLeaving = false;

  constructor(options: EnrolmentOptions) {
    this.#options = options;
    const { clock, concurrency = 16, reconcileIntervalMs } = options;
    this.#outcomes = new Outcomes(options);
    const pace = { ...options.pace, finMs, concealMs, graceMs: reconcileIntervalMs / 2 };
    const context = {
      outcomes: this.#outcomes,
      pace,
      desired: (record: PodRecord) => this.#desiredOf(record),
      isOwned: (netnsKey: string, uid: string) => this.#isOwned(netnsKey, uid),
      isTakingStock: () => this.#stage === "taking-stock",
      isLeavingNode: () => this.#isLeaving,
      oncaptured: (record: PodRecord) => this.#captured(record),
    };
    this.#reconciler = new Reconciler(options, context, options.decisions);
    this.#queue = new KeyedQueue({ concurrency, clock, run: (uid) => this.#run(uid) });
    this.#listen();
  }

  /**
   * Takes stock once the lists are there: finds the sandboxes of all pods that are, or should be, in the mesh, and
   * fills ztunnel's roster. Only then may ztunnel connect: a pod missing from a snapshot is dropped by ztunnel.
   */
  async start(): Promise<void> {
    const { node, ztunnel, log, probes } = this.#options;
    this.#stage = "taking-stock";
    const pods = [...node.pods.values()];
    // pods that were deleted while no agent ran
    for (const { uid } of this.#options.attachments.places()) {
      const isKnown = node.pod(uid) !== undefined || (this.#records.get(uid)?.waiters.size ?? 0) > 0;
      if (!isKnown) this.#options.attachments.forgetPod(uid);
    }
    const stock = pods.map((pod) => {
      const record = this.#record(pod.uid);
      if (record.waiters.size === 0) record.put({ type: "resync" });
      record.put({ type: "facts", pod });
      // one pod must not keep the agent from starting; its next run says what is wrong with it
      return this.#queue.run(pod.uid).catch(() => {});
    });
    await Promise.all(stock);
    this.#stage = "started";
    // what changed meanwhile has not been listened to
    for (const pod of node.pods.values()) this.#record(pod.uid).put({ type: "facts", pod });
    for (const record of this.#records.values()) {
      if (record.waiters.size === 0 && node.pod(record.uid) === undefined)
        record.put({ type: "facts", pod: undefined });
    }
    await restoreExemptions(this.#wantedRecords(), { probes, log });
    log.info({ pods: this.#records.size, inMesh: ztunnel.podCount }, "took stock of the node's pods");
    this.requestAll();
  }

  /**
   * Captures the pod of a new sandbox, if its labels ask for it; resolves when ztunnel has acknowledged it.
   * @returns `outside`: it does not belong into the mesh, and nothing was touched
   * @throws EnrolmentError with cause and remedy; nothing of the attempt is left then
   */
  async add({ pod, namespace, place, attachment, open }: AddedSandbox): Promise<"enrolled" | "outside"> {
    const { attachments, history } = this.#options;
    if (!decideEnrolment(pod, namespace, this.#options.policy).wanted) {
      attachments.added(place, attachment);
      return "outside";
    }
    const netns = open();
    const { containerId, ips } = place;
    // another interface of a sandbox that was told of before, or of one that this agent has forgotten: processes may run in it
    const isNew = attachments.ofContainer(containerId) === undefined && pod.phase !== "Running";
    attachments.added(place, attachment);
    const sandbox: Sandbox = { netns, containerId, ips, isNew, source: "add" };
    const netnsKey = netns.key;
    const record = this.#record(pod.uid);
    const waiter: Waiter = { netnsKey, done: Promise.withResolvers(), reason: undefined };
    record.waiters.add(waiter);
    history.asked(pod.uid);
    const deadline = this.#expire(waiter);
    this.#tell(pod.uid, { type: "added", pod, namespace, sandbox });
    try {
      return await waiter.done.promise;
    } catch (error) {
      // another attachment of the sandbox may still hold it
      const removal = attachments.removed(attachment);
      if (removal !== "others-left") this.#end(pod.uid, { containerId, netnsKey });
      throw new EnrolmentError(pod, error);
    } finally {
      deadline.cancel();
      record.waiters.delete(waiter);
      this.#queue.request(pod.uid);
    }
  }

  /** An attachment ended; returns at once, the work goes on behind. The sandbox is let go with the last of them. */
  remove(named: NamedSandbox): void {
    const { attachments } = this.#options;
    const place = attachments.ofContainer(named.containerId);
    const record = this.#find(named, place);
    if (place === undefined) {
      // made before this agent's memory: its addresses will tell whether it has ended
      if (record !== undefined) this.#tell(record.uid, { ...about(named), type: "doubted" });
      return;
    }
    if (attachments.removed(named) === "last" && record !== undefined) this.#end(record.uid, named);
  }

  /**
   * CNI's GC: of this network there is nothing but these attachments. Sandboxes that an ADD under way is about are spared:
   * the list may be older.
   */
  keepOnly(network: string, valid: readonly Pick<Attachment, "containerId" | "ifname">[]): void {
    const { attachments } = this.#options;
    const places = new Map(attachments.places().map((place) => [place.containerId, place]));
    const spare = (containerId: string): boolean => {
      const { uid, netnsKey } = places.get(containerId) ?? { uid: "", netnsKey: "" };
      return [...(this.#records.get(uid)?.waiters ?? [])].some((waiter) => waiter.netnsKey === netnsKey);
    };
    for (const containerId of attachments.collected(network, valid, { spare })) {
      const place = places.get(containerId);
      if (place !== undefined && this.#records.has(place.uid)) this.#end(place.uid, place);
    }
  }

  /**
   * What is known to be wrong with a pod's capture, from memory; a look at it is asked for in any case.
   * @returns `undefined` when nothing is known to be wrong
   */
  check(named: NamedSandbox): string | undefined {
    const record = this.#find(named, this.#options.attachments.ofContainer(named.containerId));
    if (record === undefined || this.#desiredOf(record)?.wanted !== true) return undefined;
    this.#queue.request(record.uid);
    const { sandbox, state } = record;
    if (sandbox === undefined) return "its sandbox is not known to the agent";
    if (named.netnsKey !== undefined && named.netnsKey !== sandbox.netns.key)
      return `the agent serves another namespace (${sandbox.netns.key}) for it`;
    if (state !== "enrolled") return `it is ${state}`;
    const acknowledged = this.#options.ztunnel.acknowledged(record.uid);
    return acknowledged === sandbox.netns.key ? undefined : "ztunnel has not acknowledged it";
  }

  /**
   * Whether a pod is known to be out of the mesh: deleted, or its labels do not ask for it and nothing of ours is in it.
   * False while that cannot be told.
   */
  isOutside(uid: string): boolean {
    const { node } = this.#options;
    if (this.#stage !== "started" || !node.isFresh()) return false;
    const record = this.#records.get(uid);
    if (record === undefined) return node.pod(uid) === undefined;
    if (record.isBehind || record.waiters.size > 0 || isTouched(record.workload)) return false;
    return record.facts === undefined || this.desired(record.facts)?.wanted === false;
  }

  /** Takes every pod out of the mesh, and keeps those out that come; resolves when each was tried. */
  async leaveAll(): Promise<void> {
    this.#isLeaving = true;
    await Promise.allSettled([...this.#records.keys()].map((uid) => this.#leave(uid)));
  }

  /** Every pod known, for reports: only to be read. */
  records(): IterableIterator<PodStatus> {
    return this.#records.values();
  }

  /** One of {@link records}. */
  record(uid: string): PodStatus | undefined {
    return this.#records.get(uid);
  }

  /** What should be of a pod; `undefined` while the labels of its namespace are not known. */
  desired(pod: PodFacts): Desired | undefined {
    const namespace = this.#options.node.namespace(pod.namespace);
    return namespace === undefined ? undefined : decideEnrolment(pod, namespace, this.#options.policy);
  }

  /** Repairs of enrolled pods by kind of drift, since the start. */
  get repairs(): ReadonlyMap<string, number> {
    return this.#outcomes.repairs;
  }

  /** Has every pod looked at. */
  requestAll(): void {
    for (const uid of this.#records.keys()) this.#queue.request(uid);
  }

  /** Lets the runs under way end and releases every namespace; rules and ztunnel's pods stay as they are. */
  async stop(): Promise<void> {
    for (const { waiters } of this.#records.values())
      for (const { done } of waiters) done.reject(new Error("the agent of this node is restarting"));
    await this.#queue.stop();
    const nowMs = this.#options.clock.nowMs();
    for (const record of this.#records.values()) {
      record.read(nowMs);
      const { sandbox, stale, surplus } = record.workload;
      for (const { netns } of stale) netns.close();
      for (const netns of surplus) netns.close();
      sandbox?.netns.close();
    }
    this.#records.clear();
  }

  #listen(): void {
    const { ztunnel, node } = this.#options;
    ztunnel.onchange = (event) => {
      if (event.type !== "disconnected") {
        for (const { uid, waiters } of this.#records.values()) if (waiters.size > 0) this.#queue.request(uid);
      }
      // what the snapshot carried is acknowledged by now; what it did not is handed over by the runs
      // and what only a ztunnel that has left was told is handed to the one that stays
      const isOther = event.type === "disconnected" && event.connections > 0;
      if (event.type === "snapshot" || isOther) this.requestAll();
    };
    node.onPodChange((change) => this.#podChanged((change.current ?? change.previous).uid, change.current));
    node.pods.onlist = () => this.#podsListed();
    node.onNamespaceChange((change) => this.#namespaceChanged((change.current ?? change.previous).name));
  }

  #record(uid: string): PodRecord {
    let record = this.#records.get(uid);
    if (record === undefined) {
      record = new PodRecord(uid);
      this.#records.set(uid, record);
    }
    return record;
  }

  #tell(uid: string, message: Message): void {
    this.#record(uid).put(message);
    this.#queue.request(uid);
  }

  #end(uid: string, named: { readonly containerId: string; readonly netnsKey: string | undefined }): void {
    const record = this.#record(uid);
    record.put({ ...about(named), type: "ended" });
    // its run may have to wait; a ztunnel that connects meanwhile must not be given a namespace that is torn down
    if (record.preview(this.#options.clock.nowMs()).sandbox === undefined)
      this.#options.ztunnel.withdraw(uid);
    this.#queue.request(uid);
  }

  #find(named: NamedSandbox, place: Place | undefined): PodRecord | undefined {
    const known = this.#records.get(place?.uid ?? named.uid);
    if (known !== undefined) return known;
    const { containerId, netnsKey } = named;
    for (const record of this.#records.values()) {
      const { sandbox } = record;
      if (sandbox === undefined) continue;
      const isContainer = containerId !== "" && sandbox.containerId === containerId;
      if (isContainer || (netnsKey !== undefined && netnsKey === sandbox.netns.key)) return record;
    }
    return undefined;
  }

  #isOwned(netnsKey: string, uid: string): boolean {
    for (const record of this.#records.values())
      if (record.uid !== uid && record.sandbox?.netns.key === netnsKey) return true;
    return this.#options.attachments
      .places()
      .some((place) => place.uid !== uid && place.netnsKey === netnsKey);
  }

  /** The one place that decides about a pod: the newest facts of it and of its namespace that anybody brought. */
  #desiredOf({ workload }: PodRecord): Desired | undefined {
    const { node, policy } = this.#options;
    const { pod, namespaceHint } = workload;
    if (pod === undefined) return undefined;
    const cached = node.namespace(pod.namespace);
    let namespace =
      namespaceHint === undefined ? cached : newestFacts(namespaceHint, cached ?? namespaceHint);
    // a namespace that is known to be gone has no labels; one that nobody has heard of may only be late
    if (namespace === undefined && isTouched(workload) && node.isFresh())
      namespace = { key: pod.namespace, name: pod.namespace, labels: {}, resourceVersion: "" };
    return namespace === undefined ? undefined : decideEnrolment(pod, namespace, policy);
  }

  async #run(uid: string): Promise<Rest> {
    const record = this.#records.get(uid);
    if (record === undefined) return { do: "rest", outcome: "forgotten" };
    const { history, log } = this.#options;
    history.begin(uid);
    try {
      const rest = await this.#reconciler.run(record);
      log.debug({ uid, outcome: rest.outcome }, "looked at a pod");
      this.#warnOnce(record);
      this.#planNext(record, rest);
      this.#answer(record, rest);
      history.end(uid, record.state, rest.outcome);
      if (!this.#records.has(uid)) history.forget(uid);
      return rest;
    } catch (error) {
      this.#queue.requestAfter(uid, this.#outcomes.failed(record, error));
      this.#refuse(record, error);
      history.end(uid, record.state, "failed");
      throw error;
    }
  }

  #planNext(record: PodRecord, { outcome, againMs }: Rest): void {
    const { reconcileIntervalMs, random = Math.random } = this.#options;
    const { workload, uid } = record;
    const failure = waitOf(outcome);
    if (failure !== undefined) {
      this.#planTry(record, failure, againMs);
      return;
    }
    this.#outcomes.fine(record);
    if (outcome === "leaving") this.#queue.requestAfter(uid, againMs ?? 0);
    else if (workload.doubtedMs !== undefined) this.#queue.requestAfter(uid, doubtMs);
    else if (outcome === "outside" && againMs !== undefined) this.#queue.requestAfter(uid, againMs + 1);
    else if (outcome === "enrolled")
      this.#queue.requestAfter(uid, reconcileIntervalMs * (0.75 + random() / 2));
    else if (outcome === "forgotten" && isEmpty(workload) && !record.isBehind && record.waiters.size === 0)
      this.#records.delete(uid);
  }

  /** A running pod has processes; they show within moments of its start. One that ends will not. */
  #planTry(record: PodRecord, failure: Failure, againMs: number | undefined): void {
    const { facts, workload, uid } = record;
    const isEnding = workload.ended !== undefined && facts?.deletionTimestamp === true;
    const isSought = failure.code !== "sandbox-missing" || (facts?.phase === "Running" && !isEnding);
    if (isSought) this.#queue.requestAfter(uid, againMs ?? this.#outcomes.waiting(record, failure));
    else record.lastRun = "waiting";
  }

  #warnOnce(record: PodRecord): void {
    const desired = this.#desiredOf(record);
    const warnings = desired?.wanted === true ? desired.warnings : [];
    const text = warnings.join("\n");
    if (text === record.warned) return;
    record.warned = text;
    const { namespace: ns, name: pod } = record.facts ?? {};
    for (const warning of warnings) this.#options.log.warn({ ns, pod, uid: record.uid }, warning);
  }

  #captured(record: PodRecord): void {
    const key = record.sandbox?.netns.key;
    for (const waiter of [...record.waiters]) {
      if (waiter.netnsKey !== key) continue;
      waiter.done.resolve("enrolled");
      record.waiters.delete(waiter);
    }
  }

  /** Tells the ADDs that wait what a run without a failure means for them. */
  #answer(record: PodRecord, { outcome }: Rest): void {
    const key = record.sandbox?.netns.key;
    for (const waiter of [...record.waiters]) {
      if (outcome === "no-ztunnel" || outcome === "stock-taken" || record.isBehind) continue;
      if (outcome === "outside") waiter.done.resolve("outside");
      else if (waiter.netnsKey === key && outcome === "enrolled") waiter.done.resolve("enrolled");
      else waiter.done.reject(new Error(unfinished[outcome] ?? unfinished["no-sandbox"]));
      record.waiters.delete(waiter);
    }
  }

  /** Tells the ADDs that wait of a failure, unless the next ztunnel mends it. */
  #refuse(record: PodRecord, error: unknown): void {
    const { code, message } = failureOf(error);
    for (const waiter of [...record.waiters]) {
      waiter.reason = message;
      if (code === "ztunnel-away") continue;
      waiter.done.reject(error);
      record.waiters.delete(waiter);
    }
  }

  #expire(waiter: Waiter): Timer {
    const { clock, ztunnelWaitMs, ztunnel } = this.#options;
    return clock.after(ztunnelWaitMs, () => {
      const nobody = this.#stage === "started" ? noConnection : notStarted;
      const isAlone = waiter.reason === undefined || ztunnel.connectionCount === 0;
      const message = isAlone ? `${nobody} for ${ztunnelWaitMs / 1000} s` : (waiter.reason ?? nobody);
      const failure = waitOf("no-ztunnel");
      waiter.done.reject(
        failure === undefined ? new Error(message) : new StepError({ ...failure, message }, undefined),
      );
    });
  }

  async #leave(uid: string): Promise<void> {
    for (;;) {
      const { outcome, againMs = 0 } = await this.#queue.run(uid);
      if (outcome !== "leaving") return;
      await new Promise<void>((resolve) => this.#options.clock.after(againMs, resolve));
    }
  }

  #podChanged(uid: string, pod: PodFacts | undefined): void {
    if (this.#stage !== "started") return;
    if (pod === undefined && !this.#records.has(uid)) return;
    if (pod !== undefined) this.#options.history.asked(uid);
    this.#tell(uid, { type: "facts", pod });
  }

  /** A pod known from its ADD alone, and deleted while the watch was broken, is in no list and no event. */
  #podsListed(): void {
    const { pods } = this.#options.node;
    if (this.#stage !== "started") return;
    for (const record of this.#records.values()) {
      const version = record.facts?.resourceVersion;
      if (version === undefined || record.waiters.size > 0 || pods.get(record.uid) !== undefined) continue;
      if (pods.hasListedSince(version)) this.#podChanged(record.uid, undefined);
    }
  }

  #namespaceChanged(name: string): void {
    if (this.#stage !== "started") return;
    for (const record of this.#records.values()) {
      if (record.facts?.namespace !== name) continue;
      this.#options.history.asked(record.uid);
      this.#queue.request(record.uid);
    }
  }

  #wantedRecords(): PodRecord[] {
    return [...this.#records.values()].filter((record) => this.#desiredOf(record)?.wanted === true);
  }
}

function about({ containerId, netnsKey }: { containerId: string; netnsKey: string | undefined }) {
  return { containerId, netnsKey };
}
