// SPDX-License-Identifier: Apache-2.0
// All pods of the node: who asks for a look at which pod, and when. Everything that happens becomes a message to a pod's own run.
import type { PodFacts } from "../kube/pod-facts.ts";
import { unlessLate } from "../loop/deadline.ts";
import { KeyedQueue } from "../loop/keyed-queue.ts";
import { AddWaiters } from "./add-waiters.ts";
import type { Attachment, Place } from "./attachments.ts";
import { type Desired, decideEnrolment, decideWorkload } from "./desired-state.ts";
import type { AddedSandbox, EnrolmentOptions, NamedSandbox } from "./enrolment-options.ts";
import { askForStock, catchUp, restoreProbes } from "./initial-snapshot.ts";
import { listenToNode } from "./node-changes.ts";
import { EnrolmentError, Outcomes } from "./outcomes.ts";
import { PodNotices } from "./pod-notices.ts";
import { captureFault, type PodRecord, type PodStatus } from "./pod-record.ts";
import { about, PodRecords } from "./pod-records.ts";
import { PodRuns, type Rest, untilLeft } from "./pod-runs.ts";
import { fixedPace } from "./pod-view.ts";
import { Reconciler } from "./reconciler.ts";
import type { Sandbox } from "./sandbox-finder.ts";
import { isTouched, type Message } from "./workload.ts";

/** A DEL waits for ztunnel no longer than this. */
const delMs = 500;

/** Keeps every pod of the node where its labels want it. */
export class Enrolment {
  readonly #options: EnrolmentOptions;
  readonly #outcomes: Outcomes;
  readonly #queue: KeyedQueue<Rest>;
  readonly #records = new PodRecords();
  readonly #waiters: AddWaiters;
  readonly #notices: PodNotices;
  #stage: "new" | "taking-stock" | "started" | "stopped" = "new";
  #isLeaving = false;

  constructor(options: EnrolmentOptions) {
    this.#options = options;
    const { clock, concurrency = 16, reconcileIntervalMs } = options;
    this.#outcomes = new Outcomes(options);
    this.#waiters = new AddWaiters({
      ...options,
      isStarted: () => this.#stage === "started",
      onlate: ({ uid }) => this.#queue.request(uid, { isUrgent: true }),
    });
    const pace = { ...options.pace, ...fixedPace, graceMs: reconcileIntervalMs / 2 };
    const { attachments, finder } = options;
    const ownerOf = (netnsKey: string) => attachments.ownerOf(netnsKey, (place) => finder.stands(place));
    const context = {
      outcomes: this.#outcomes,
      pace,
      desired: (record: PodRecord) => this.#desiredOf(record),
      isOwned: (netnsKey: string, uid: string) => this.#records.isOwned(netnsKey, { uid, ownerOf }),
      isTakingStock: () => this.#stage === "taking-stock",
      isLeavingNode: () => this.#isLeaving,
      oncaptured: (record: PodRecord) => this.#waiters.captured(record),
    };
    const reconciler = new Reconciler(options, context, options.decisions);
    const { notices = { most: 0, open: async () => undefined }, log } = options;
    const onheard = (uid: string, inMs: number): void => this.#queue.requestWithin(uid, inMs);
    this.#notices = new PodNotices({ ...notices, clock, log, onheard });
    const runs = new PodRuns({
      ...options,
      reconciler,
      records: this.#records,
      outcomes: this.#outcomes,
      notices: this.#notices,
      waiters: this.#waiters,
      desired: (record) => this.#desiredOf(record),
      requestAfter: (uid, delayMs, how) => this.#queue.requestAfter(uid, delayMs, how),
    });
    this.#queue = new KeyedQueue({ concurrency, clock, run: (uid) => runs.run(uid) });
    listenToNode({
      ...options,
      records: this.#records,
      queue: this.#queue,
      isStarted: () => this.#stage === "started",
      tell: (uid, message) => this.#tell(uid, message),
      requestAll: () => this.requestAll(),
    });
  }

  /**
   * Takes stock once the lists are there: finds the sandboxes of all pods that are, or should be, in the mesh, and
   * fills ztunnel's roster. Only then may ztunnel connect: a pod missing from a snapshot is dropped by ztunnel.
   */
  async start(): Promise<void> {
    const { node, attachments, ztunnel, log, probes } = this.#options;
    this.#stage = "taking-stock";
    // one pod must not keep the agent from starting; its next run says what is wrong with it
    const uids = askForStock(this.#records, { node, attachments });
    await Promise.all(uids.map((uid) => this.#queue.run(uid).catch(() => {})));
    this.#stage = "started";
    this.#notices.start();
    catchUp(this.#records, node);
    await restoreProbes(() => this.#wantedRecords(), { probes, log });
    log.info({ pods: this.#records.size, inMesh: ztunnel.podCount }, "took stock of the node's pods");
    this.requestAll();
  }

  /**
   * Captures the pod of a new sandbox, if its labels ask for it; resolves when ztunnel has acknowledged it.
   * @returns `outside`: it does not belong into the mesh, and nothing was touched
   * @throws EnrolmentError with cause and remedy; nothing of the attempt is left then
   */
  async add(added: AddedSandbox): Promise<"enrolled" | "outside"> {
    const { pod, namespace, place, attachment, open, patience } = added;
    const { attachments, history } = this.#options;
    if (!decideEnrolment(pod, namespace, this.#options.policy).wanted) {
      attachments.added(place, attachment);
      return "outside";
    }
    if (this.#stage === "stopped") throw new EnrolmentError(pod, new Error("the agent is stopping"));
    const netns = open();
    const { containerId } = place;
    // another interface of a sandbox that was told of before, or of one that this agent has forgotten: processes may run in it
    const isNew = attachments.ofContainer(containerId) === undefined && pod.phase !== "Running";
    attachments.added(place, attachment);
    // of all its attachments: this ADD may be that of a second network
    const { ips } = attachments.ofContainer(containerId) ?? place;
    const sandbox: Sandbox = { netns, containerId, ips, isNew, source: place.toldBy ?? "add" };
    const netnsKey = netns.key;
    const record = this.#records.of(pod.uid);
    const wait = this.#waiters.wait(record, netnsKey, patience);
    history.asked(pod.uid);
    record.put({ type: "added", pod, namespace, sandbox });
    this.#queue.request(pod.uid, { isUrgent: true });
    try {
      return await wait.answer;
    } catch (error) {
      // another attachment of the sandbox may still hold it
      const stays = patience !== undefined || attachments.removed(attachment) === "others-left";
      if (!stays) void this.#end(pod.uid, { containerId, netnsKey });
      throw new EnrolmentError(pod, error);
    } finally {
      wait.end();
      this.#queue.request(pod.uid);
    }
  }

  /**
   * An attachment ended. The sandbox is let go with the last of them: resolves when ztunnel has heard of it, for the plugins
   * that come next take the way on which it ends its connections, or half a second later. Never rejects.
   */
  async remove(named: NamedSandbox): Promise<void> {
    const { attachments } = this.#options;
    const place = attachments.ofContainer(named.containerId);
    const record = this.#records.find(named, place);
    if (place === undefined) {
      // made before this agent's memory: its addresses will tell whether it has ended
      if (record !== undefined) this.#tell(record.uid, { ...about(named), type: "doubted" });
      return;
    }
    if (attachments.removed(named) !== "last" || record === undefined) return;
    const withdrawn = this.#end(record.uid, named);
    if (withdrawn !== undefined) await unlessLate(withdrawn, { ms: delMs, clock: this.#options.clock });
  }

  /** The runtime told of sandboxes that no ADD announced: their pods are looked for there. */
  told(places: readonly Place[]): void {
    for (const place of places) {
      this.#options.attachments.added(place, { network: "", ifname: "" });
      if (this.#stage === "started" && this.#records.has(place.uid)) this.#queue.request(place.uid);
    }
  }

  /** The runtime says that a sandbox is gone, whatever was attached to it. */
  gone(place: Place): void {
    this.#options.attachments.ended(place.containerId);
    if (this.#records.has(place.uid)) void this.#end(place.uid, place);
  }

  /**
   * CNI's GC: of this network there is nothing but these attachments. Sandboxes that an ADD under way is about are spared:
   * the list may be older.
   */
  keepOnly(network: string, valid: readonly Pick<Attachment, "containerId" | "ifname">[]): void {
    const { attachments } = this.#options;
    const places = new Map(attachments.places().map((place) => [place.containerId, place]));
    const spare = (containerId: string): boolean => this.#records.isAwaited(places.get(containerId));
    for (const containerId of attachments.collected(network, valid, { spare })) {
      const place = places.get(containerId);
      if (place !== undefined && this.#records.has(place.uid)) void this.#end(place.uid, place);
    }
  }

  /**
   * What is known to be wrong with a pod's capture, from memory; a look at it is asked for in any case.
   * @returns `undefined` when nothing is known to be wrong
   */
  check(named: NamedSandbox): string | undefined {
    const record = this.#records.find(named, this.#options.attachments.ofContainer(named.containerId));
    if (record === undefined || this.#desiredOf(record)?.wanted !== true) return undefined;
    this.#queue.request(record.uid);
    const acknowledged = this.#options.ztunnel.acknowledged(record.uid);
    return captureFault(record, { netnsKey: named.netnsKey, acknowledged });
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
    if (!record.isIdle || isTouched(record.workload)) return false;
    return record.facts === undefined || this.desired(record.facts)?.wanted === false;
  }

  /**
   * Takes every pod out of the mesh, and keeps those out that come; resolves when each was tried.
   * @returns false when it is not known which pods there are: then nothing was done
   */
  async leaveAll(): Promise<boolean> {
    if (this.#stage !== "started") return false;
    this.#isLeaving = true;
    await untilLeft(this.#records.keys(), { queue: this.#queue, clock: this.#options.clock });
    return true;
  }

  /** Pods that istiod still takes for the mesh's, as their annotation says: they stay as they are. */
  stillAnnounced(): PodStatus[] {
    return this.#records.announced(this.#options.annotations);
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
    this.#stage = "stopped";
    this.#waiters.stop(this.#records.values());
    await this.#queue.stop();
    // after the last run, which may have begun to listen
    await this.#notices.stop();
    this.#records.close(this.#options.clock.nowMs());
  }

  #tell(uid: string, message: Message): void {
    this.#records.of(uid).put(message);
    this.#queue.request(uid);
  }

  /** @returns what to wait for until ztunnel has heard of it; `undefined` where it need not */
  #end(uid: string, named: Parameters<typeof about>[0]): Promise<void> | undefined {
    const record = this.#records.of(uid);
    record.put({ ...about(named), type: "ended" });
    // its run may have to wait; a ztunnel that connects meanwhile must not be given a namespace that is torn down
    const next = record.preview(this.#options.clock.nowMs());
    if (next.sandbox === undefined) this.#options.ztunnel.withdraw(uid);
    this.#queue.request(uid);
    return next.phase.at === "ended" ? record.untilWithdrawn() : undefined;
  }

  #desiredOf({ workload }: PodRecord): Desired | undefined {
    const { node, policy } = this.#options;
    return decideWorkload(workload, { node, policy });
  }

  #wantedRecords(): PodRecord[] {
    return [...this.#records.values()].filter((record) => this.#desiredOf(record)?.wanted === true);
  }
}
