// SPDX-License-Identifier: Apache-2.0
// Watches for pods whose sidecar's rules were never written, and does about each of them what the settings ask for.
import { type ApiClient, podPath } from "../kube/api-client.ts";
import { ApiError } from "../kube/api-error.ts";
import { nodePodsBudget } from "../kube/list-budget.ts";
import type { ObjectChange } from "../kube/object-cache.ts";
import { sameFacts } from "../kube/pod-facts.ts";
import { Reflector } from "../kube/reflector.ts";
import type { ReflectorOptions } from "../kube/reflector-options.ts";
import { Backoff } from "../loop/backoff.ts";
import { type Clock, systemClock } from "../loop/clock.ts";
import { KeyedQueue } from "../loop/keyed-queue.ts";
import type { RepairMode, RepairSettings } from "../settings/repair-settings.ts";
import { decideRepair } from "./decide-repair.ts";
import { DeletionPace } from "./deletion-pace.ts";
import { type InPlaceMeans, repairPodInPlace } from "./repair-in-place.ts";
import { isUnanswered, RepairReport, type RepairReportOptions } from "./repair-report.ts";
import { type SuspectPod, suspectFields, toSuspectPod } from "./suspect-pod.ts";

export interface RepairControllerOptions extends Omit<RepairReportOptions, "mode" | "clock"> {
  readonly client: Pick<ApiClient, "list" | "watch" | "delete" | "mergePatch">;
  readonly settings: ActiveRepair;
  readonly inPlace: InPlaceMeans;
  /** Why the pod in place of a deleted one would be broken, too; undefined: it would not. Nothing is deleted meanwhile. Default: never. */
  readonly holdsBack?: () => string | undefined;
  readonly clock?: Clock;
  readonly random?: () => number;
  /** Of the watch; see ReflectorOptions. */
  readonly watch?: Pick<ReflectorOptions<SuspectPod>, "watchSeconds" | "graceMs" | "backoff">;
}

/** Settings that ask for something. */
export type ActiveRepair = Omit<RepairSettings, "mode"> & { readonly mode: RepairMode };

/** What is remembered of a pod while the API server has it. */
interface Memory {
  /** See {@link DeletionPace}. */
  readonly generation: number;
  readonly backoff: Backoff;
  /** No try before that, on the clock's scale. */
  notBeforeMs: number;
  /** The failure that needs nothing more. */
  doneId: string | undefined;
}

const parallel = 4;
const holdBackMs = 5_000;
const tries = { baseMs: 1_000, capMs: 300_000 };
/** Cap of the pauses after tries that nobody answered: who is back is asked soon. */
const unansweredCapMs = 30_000;

/** Works between `start` and `stop`; faults are told, and tried again. */
export class RepairController {
  readonly #options: RepairControllerOptions;
  readonly #clock: Clock;
  readonly #pods: Reflector<SuspectPod>;
  readonly #queue: KeyedQueue<void>;
  readonly #pace: DeletionPace;
  readonly #report: RepairReport;
  readonly #memories = new Map<string, Memory>();
  readonly #stop = new AbortController();

  constructor(options: RepairControllerOptions) {
    const { client, settings, log, clock = systemClock, random, watch } = options;
    this.#options = options;
    this.#clock = clock;
    this.#pace = new DeletionPace(clock);
    this.#report = new RepairReport({ ...options, mode: settings.mode, clock });
    this.#queue = new KeyedQueue({ concurrency: parallel, run: (uid) => this.#run(uid), clock });
    this.#pods = new Reflector({
      client,
      log,
      clock,
      random,
      ...watch,
      what: "pods that may have to be repaired",
      path: "/api/v1/pods",
      query: podQuery(settings),
      convert: (raw) => toSuspectPod(raw, settings),
      fields: suspectFields(settings),
      budget: nodePodsBudget,
      same: sameFacts,
    });
    this.#pods.subscribe((change) => this.#take(change));
  }

  /** Begins to watch; resolves at once. */
  start(): void {
    const { settings, log } = this.#options;
    const { mode, nodeName, labelSelectors, fieldSelectors } = settings;
    log.info(
      { mode, nodeName, labelSelectors, fieldSelectors },
      "looking for pods without their sidecar's rules",
    );
    this.#pods.start();
  }

  /** Ends the watch, and waits for what is under way. */
  async stop(): Promise<void> {
    this.#stop.abort(new Error("the agent is stopping"));
    await Promise.all([this.#pods.stop(), this.#queue.stop()]);
  }

  #take(change: ObjectChange<SuspectPod>): void {
    if (change.type === "delete") {
      this.#memories.delete(change.previous.uid);
      return;
    }
    const pod = change.current;
    if (!this.#memories.has(pod.uid)) this.#memories.set(pod.uid, this.#newMemory(pod));
    if (decideRepair(pod, this.#options.settings) !== undefined) this.#queue.request(pod.uid);
  }

  #newMemory({ ownerUid }: SuspectPod): Memory {
    const { random } = this.#options;
    return {
      generation: this.#pace.generationOf(ownerUid),
      backoff: new Backoff({ ...tries, random }),
      notBeforeMs: Number.NEGATIVE_INFINITY,
      doneId: undefined,
    };
  }

  /** Looks at the newest state of the pod: what asked for this run may be over. */
  async #run(uid: string): Promise<void> {
    const pod = this.#pods.get(uid);
    const memory = this.#memories.get(uid);
    if (pod === undefined || memory === undefined) return;
    const decision = decideRepair(pod, this.#options.settings);
    if (decision === undefined || decision.failureId === memory.doneId) return;
    if (decision.action === "skip") {
      memory.doneId = decision.failureId;
      this.#report.skipped(pod);
      return;
    }
    const pauseMs = Math.max(memory.notBeforeMs - this.#clock.nowMs(), this.#deletionPauseMs(pod, memory));
    if (pauseMs > 0) {
      this.#queue.requestAfter(uid, pauseMs);
      return;
    }
    try {
      await this.#act(pod, decision.action);
      if (decision.action === "delete") this.#pace.deleted(pod.ownerUid, memory.generation);
      memory.backoff.reset();
      memory.doneId = decision.failureId;
      this.#report.succeeded(pod);
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      this.#failed(pod, memory, error);
    }
  }

  /** How long a deletion waits, in ms, because the next pod would be broken, too; 0: it does not. */
  #deletionPauseMs(pod: SuspectPod, { generation }: Memory): number {
    const { settings, holdsBack } = this.#options;
    if (settings.mode !== "delete") return 0;
    const reason = holdsBack?.();
    if (reason !== undefined) {
      this.#report.heldBack(pod, reason);
      return holdBackMs;
    }
    const pauseMs = this.#pace.pauseMs(pod.ownerUid, generation);
    if (pauseMs > 0) this.#report.brokenAgain(pod, pauseMs);
    return pauseMs;
  }

  async #act(pod: SuspectPod, action: RepairMode): Promise<void> {
    const { client, settings, inPlace } = this.#options;
    const { signal } = this.#stop;
    switch (action) {
      case "repair":
        return await repairPodInPlace(pod, { ...inPlace, signal });
      case "delete":
        return await deletePod(pod, { client, signal });
      case "label":
        return await labelPod(pod, { client, label: settings, signal });
    }
  }

  #failed(pod: SuspectPod, memory: Memory, error: unknown): void {
    const isFirst = memory.backoff.failures === 0;
    const pauseMs = memory.backoff.nextMs(isUnanswered(error) ? unansweredCapMs : undefined);
    this.#queue.requestAfter(pod.uid, pauseMs);
    if (hasChanged(error)) {
      // the watch brings what it has become, or that it is gone, and that need not wait
      this.#report.changed(pod, error);
      return;
    }
    memory.notBeforeMs = this.#clock.nowMs() + pauseMs;
    this.#report.failed(pod, { error, isFirst });
  }
}

/** The node's own pods, and of them those that were asked for. */
function podQuery({ nodeName, labelSelectors, fieldSelectors }: ActiveRepair) {
  const fieldSelector = [fieldSelectors, `spec.nodeName=${nodeName}`].filter((each) => each !== "").join(",");
  return { fieldSelector, ...(labelSelectors === "" ? {} : { labelSelector: labelSelectors }) };
}

/** Deletes it, with its grace period. @throws ApiError; see {@link hasChanged} */
export async function deletePod(
  { namespace, name, uid, resourceVersion }: SuspectPod,
  { client, signal }: { readonly client: Pick<ApiClient, "delete">; readonly signal: AbortSignal },
): Promise<void> {
  await client.delete(podPath(namespace, name), { uid, resourceVersion }, { signal });
}

/** Labels it, through its status: the right to do that is the smaller one. @throws ApiError; see {@link hasChanged} */
export async function labelPod(
  { namespace, name, uid, resourceVersion }: SuspectPod,
  options: {
    readonly client: Pick<ApiClient, "mergePatch">;
    readonly label: Pick<RepairSettings, "labelKey" | "labelValue">;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const { client, label, signal } = options;
  const labels = { [label.labelKey]: label.labelValue };
  // both in the patch: the server refuses it for another pod, and for another state of this one
  const patch = { metadata: { uid, resourceVersion, labels } };
  await client.mergePatch(podPath(namespace, name, "status"), patch, { signal });
}

/**
 * The pod is gone, another one has its name, or it has changed since it was looked at: nothing was done.
 * Source: Kubernetes API concepts, "Resource versions" (409); apimachinery ValidateObjectMetaUpdate (metadata.uid: 422).
 */
export function hasChanged(error: unknown): boolean {
  if (!(error instanceof ApiError)) return false;
  return (
    error.isNotFound ||
    [409, 410].includes(error.status) ||
    (error.status === 422 && error.fields.includes("metadata.uid"))
  );
}
