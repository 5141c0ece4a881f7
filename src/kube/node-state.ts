// SPDX-License-Identifier: Apache-2.0
// The cluster as far as one node is concerned: its own pods, and all namespaces.
import type { Logger } from "../log/logger.ts";
import { Backoff } from "../loop/backoff.ts";
import type { Clock } from "../loop/clock.ts";
import type { ApiClient, CallOptions } from "./api-client.ts";
import { ApiError } from "./api-error.ts";
import { recordOf } from "./json-fields.ts";
import { namespacesBudget, nodePodsBudget } from "./list-budget.ts";
import { compareVersions, laterVersion, type ObjectChange } from "./object-cache.ts";
import {
  type NamespaceFacts,
  namespaceFields,
  type PodFacts,
  podFields,
  sameFacts,
  toNamespaceFacts,
  toPodFacts,
} from "./pod-facts.ts";
import { Reflector } from "./reflector.ts";

/** The requests needed to know a node's pods and the namespaces. */
export type StateClient = Pick<ApiClient, "list" | "watch" | "getPod" | "getNamespace">;

export interface NodeStateOptions {
  readonly client: StateClient;
  readonly nodeName: string;
  readonly log: Logger;
  readonly clock?: Clock;
  readonly random?: () => number;
  /** See ReflectorOptions. */
  readonly watchSeconds?: number;
  /** Range of the pauses after failures. Default 250 ms to 30 s. */
  readonly backoff?: { readonly baseMs?: number; readonly capMs?: number };
}

/** Facts and whether they came from the watch or from a request made just now. */
export interface Looked<T> {
  readonly facts: T | undefined;
  readonly source: "cache" | "live";
}

/** Longest time without a word from the server before the copies count as stale. */
const maxAgeMs = 60_000;

/** Pods of this node and namespaces of the cluster, kept by two watches and looked up live where these cannot tell. */
export class NodeState {
  readonly pods: Reflector<PodFacts>;
  readonly namespaces: Reflector<NamespaceFacts>;
  readonly #client: StateClient;
  readonly #nodeName: string;
  readonly #log: Logger;
  readonly #uidByName = new Map<string, string>();
  readonly #abort = new AbortController();
  /** Whether the watches are of the store that their versions are of: a watch that failed may have come back to another. */
  #store: "known" | "in-doubt" | "asked" = "known";

  /** Called when the API server's store was set back to a backup: versions of before mean nothing any more, and lists follow. */
  onsetback: () => void = () => {};

  constructor(options: NodeStateOptions) {
    const { client, nodeName, log, clock, random, watchSeconds } = options;
    const shared = { client, log, same: sameFacts, clock, random, watchSeconds };
    const backoff = () => new Backoff({ ...options.backoff, random });
    this.#client = client;
    this.#nodeName = nodeName;
    this.#log = log;
    this.pods = new Reflector({
      ...shared,
      backoff: backoff(),
      what: "pods of this node",
      path: "/api/v1/pods",
      query: { fieldSelector: `spec.nodeName=${nodeName}` },
      convert: (raw) => podOfNode(raw, nodeName),
      fields: podFields,
      budget: nodePodsBudget,
    });
    this.namespaces = new Reflector({
      ...shared,
      backoff: backoff(),
      what: "namespaces",
      path: "/api/v1/namespaces",
      metadataOnly: true,
      convert: toNamespaceFacts,
      fields: namespaceFields,
      budget: namespacesBudget,
    });
    this.pods.subscribe((change) => this.#index(change));
    // after an outage, whoever is answered first wakes the others
    this.pods.onopen = (hasFailed) => this.#watches(hasFailed, this.namespaces);
    this.namespaces.onopen = (hasFailed) => this.#watches(hasFailed, this.pods);
  }

  start(): void {
    this.pods.start();
    this.namespaces.start();
  }

  async stop(): Promise<void> {
    this.#abort.abort();
    await Promise.all([this.pods.stop(), this.namespaces.stop()]);
  }

  /** Resolves when both copies are complete. */
  async waitForSync(): Promise<void> {
    await Promise.all([this.pods.waitForSync(), this.namespaces.waitForSync()]);
  }

  /** Whether both copies can be relied on now. */
  isFresh(): boolean {
    return this.pods.isFresh(maxAgeMs) && this.namespaces.isFresh(maxAgeMs);
  }

  pod(uid: string): PodFacts | undefined {
    return this.pods.get(uid);
  }

  /** The newest pod of that name. */
  podByName(namespace: string, name: string): PodFacts | undefined {
    const uid = this.#uidByName.get(`${namespace}/${name}`);
    return uid === undefined ? undefined : this.pods.get(uid);
  }

  /** Whether the API server told of a pod of that name when it was heard last, and that was not long ago. */
  wasToldOf(namespace: string, name: string): boolean {
    return this.pods.heardWithin(maxAgeMs) && this.podByName(namespace, name) !== undefined;
  }

  namespace(name: string): NamespaceFacts | undefined {
    return this.namespaces.get(name);
  }

  /** Calls back for each change of a pod of this node; returns the way to stop that. */
  onPodChange(listener: (change: ObjectChange<PodFacts>) => void): () => void {
    return this.pods.subscribe(listener);
  }

  /** Calls back for each change of a namespace's labels, and for namespaces that come and go. */
  onNamespaceChange(listener: (change: ObjectChange<NamespaceFacts>) => void): () => void {
    return this.namespaces.subscribe(listener);
  }

  /** Asks the API server for a pod; undefined when there is none. @throws ApiError when it cannot be known */
  async livePod(namespace: string, name: string, options: CallOptions = {}): Promise<PodFacts | undefined> {
    const raw = await this.#answered(this.#client.getPod(namespace, name, options));
    const facts = raw === undefined ? undefined : toPodFacts(raw);
    if (facts?.nodeName === this.#nodeName && this.pods.isContradictedBy(facts)) this.#setBack();
    return facts;
  }

  /** Asks the API server for a namespace; undefined when there is none. @throws ApiError when it cannot be known */
  async liveNamespace(name: string, options: CallOptions = {}): Promise<NamespaceFacts | undefined> {
    const raw = await this.#answered(this.#client.getNamespace(name, options));
    return raw === undefined ? undefined : toNamespaceFacts(raw);
  }

  /**
   * A pod from the copy when that is fresh and has it (with this UID, when given), else from the API server.
   *
   * @throws ApiError when neither can tell
   */
  async findPod(
    pod: { readonly namespace: string; readonly name: string; readonly uid?: string | undefined },
    options: CallOptions = {},
  ): Promise<Looked<PodFacts>> {
    const cached = this.podByName(pod.namespace, pod.name);
    const wanted = cached !== undefined && (pod.uid === undefined || pod.uid === cached.uid);
    if (wanted && this.pods.isFresh(maxAgeMs)) return { facts: cached, source: "cache" };
    return { facts: await this.livePod(pod.namespace, pod.name, options), source: "live" };
  }

  /** A namespace from the copy when that is fresh and has it, else from the API server. @throws ApiError */
  async findNamespace(name: string, options: CallOptions = {}): Promise<Looked<NamespaceFacts>> {
    const cached = this.namespace(name);
    const reliable = cached !== undefined && this.namespaces.isFresh(maxAgeMs);
    if (reliable) return { facts: cached, source: "cache" };
    return { facts: await this.liveNamespace(name, options), source: "live" };
  }

  /** What was asked for, undefined when there is none of it. An answer of either kind tells the watches that the server is back. */
  async #answered<T>(answer: Promise<T>): Promise<T | undefined> {
    const found = await unlessNotFound(answer);
    this.pods.retrySoon();
    this.namespaces.retrySoon();
    return found;
  }

  #watches(hasFailed: boolean, other: { retrySoon: () => void }): void {
    other.retrySoon();
    if (hasFailed && this.#store === "known") this.#store = "in-doubt";
    if (this.#store === "in-doubt") void this.#compareStore();
  }

  /**
   * After an outage the store may have been set back, and a watch from our version is silent then. The list of a single name tells its version,
   * for next to nothing.
   */
  async #compareStore(): Promise<void> {
    const { pods, namespaces } = this;
    if (pods.version === undefined || namespaces.version === undefined) return;
    const seen = laterVersion(pods.version, namespaces.version);
    this.#store = "asked";
    try {
      const { resourceVersion } = await this.#client.list(
        "/api/v1/namespaces",
        { fieldSelector: "metadata.name=kube-system" },
        { convert: toNamespaceFacts, metadataOnly: true, signal: this.#abort.signal },
      );
      this.#store = "known";
      if ((compareVersions(resourceVersion, seen) ?? 0) < 0) this.#setBack();
    } catch (err) {
      this.#store = "in-doubt";
      this.#log.debug({ err }, "cannot ask for the version of the API server's store");
    }
  }

  #setBack(): void {
    // one store has both
    const why = "the API server's store was set back to an older version";
    if (![this.pods, this.namespaces].map((copy) => copy.relist(why)).includes(true)) return;
    this.#log.warn({}, `${why}; pods and namespaces are listed anew`);
    this.onsetback();
  }

  #index(change: ObjectChange<PodFacts>): void {
    const { namespace, name, uid, resourceVersion } =
      change.type === "set" ? change.current : change.previous;
    const key = `${namespace}/${name}`;
    const indexed = this.podByName(namespace, name);
    if (change.type === "delete") {
      if (this.#uidByName.get(key) === uid) this.#uidByName.delete(key);
      return;
    }
    // A pod's successor of the same name may be announced before its predecessor's end.
    const older =
      indexed !== undefined && (compareVersions(resourceVersion, indexed.resourceVersion) ?? 1) < 0;
    if (!older) this.#uidByName.set(key, uid);
  }
}

/** A server may send what it was not asked for: pods of other nodes are no business of this one's. */
function podOfNode(raw: unknown, nodeName: string): PodFacts | undefined {
  // the rest of such a pod is not even looked at
  if (recordOf(recordOf(raw).spec).nodeName !== nodeName) return undefined;
  return toPodFacts(raw);
}

async function unlessNotFound<T>(answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof ApiError && error.isNotFound) return undefined;
    throw error;
  }
}
