// SPDX-License-Identifier: Apache-2.0
// The stub API server's memory: objects, one global resource version, and the history that watches resume from.
import { randomUUID } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import { type KubeObject, type ResourceName, resourceKinds, StatusError } from "./objects.ts";

export type ChangeType = "ADDED" | "MODIFIED" | "DELETED";

/** One write, as watches see it; `previous` decides what a selector makes of it. */
export interface Change {
  readonly type: ChangeType;
  readonly resource: ResourceName;
  readonly version: number;
  readonly object: KubeObject;
  readonly previous: KubeObject | undefined;
}

/** The store at one moment. */
export interface Backup {
  readonly version: number;
  readonly objects: ReadonlyMap<ResourceName, ReadonlyMap<string, KubeObject>>;
}

/** Objects of all resources with versions and history. */
export class ObjectStore {
  readonly #objects = new Map<ResourceName, Map<string, KubeObject>>();
  readonly #listeners = new Set<(change: Change) => void>();
  readonly #historyLimit: number;
  #history: Change[] = [];
  #oldestVersion: number;
  #version: number;

  constructor(options: { historyLimit?: number; startVersion?: number } = {}) {
    this.#historyLimit = options.historyLimit ?? 10_000;
    this.#version = options.startVersion ?? 1000;
    this.#oldestVersion = this.#version;
  }

  /** The version of the latest write. */
  get version(): number {
    return this.#version;
  }

  list(resource: ResourceName): KubeObject[] {
    const entries = [...this.#of(resource)].sort(([a], [b]) => (a < b ? -1 : 1));
    return entries.map(([, object]) => object);
  }

  find(resource: ResourceName, name: string, namespace = ""): KubeObject | undefined {
    return this.#of(resource).get(`${namespace}/${name}`);
  }

  /** @throws StatusError 404 */
  get(resource: ResourceName, name: string, namespace = ""): KubeObject {
    const object = this.find(resource, name, namespace);
    if (object !== undefined) return object;
    throw new StatusError(404, `${resource} "${name}" not found`, { details: { name, kind: resource } });
  }

  /** @throws StatusError 409 AlreadyExists */
  create(resource: ResourceName, object: KubeObject): KubeObject {
    const { name, namespace } = object.metadata;
    if (this.find(resource, name, namespace) !== undefined) {
      throw new StatusError(409, `${resource} "${name}" already exists`, { reason: "AlreadyExists" });
    }
    return this.#commit("ADDED", resource, object);
  }

  /** Replaces an object and keeps its identity; a write that changes nothing gets no new version, as in the real server. */
  update(resource: ResourceName, object: KubeObject): KubeObject {
    const { name, namespace } = object.metadata;
    const existing = this.get(resource, name, namespace);
    const { uid, creationTimestamp, resourceVersion } = existing.metadata;
    const identity = { uid, creationTimestamp, resourceVersion };
    const next = { ...object, metadata: { ...object.metadata, ...identity } } as KubeObject;
    if (isDeepStrictEqual(next, existing)) return existing;
    return this.#commit("MODIFIED", resource, next);
  }

  /** Creates or replaces. */
  put(resource: ResourceName, object: KubeObject): KubeObject {
    const { name, namespace } = object.metadata;
    const exists = this.find(resource, name, namespace) !== undefined;
    return exists ? this.update(resource, object) : this.create(resource, object);
  }

  /** @throws StatusError 404 */
  delete(resource: ResourceName, name: string, namespace = ""): KubeObject {
    const object = this.get(resource, name, namespace);
    if (resource === "namespaces") {
      for (const pod of this.list("pods")) {
        if (pod.metadata.namespace === name) this.delete("pods", pod.metadata.name, name);
      }
    }
    return this.#commit("DELETED", resource, object);
  }

  /** Changes of a resource after a version, or undefined when history no longer reaches back that far. */
  since(resource: ResourceName, version: number): Change[] | undefined {
    if (version < this.#oldestVersion) return undefined;
    return this.#history.filter((change) => change.resource === resource && change.version > version);
  }

  /** Forgets all history: a watch from any earlier version is answered with 410. */
  compact(): void {
    this.#version += 1;
    this.#history = [];
    this.#oldestVersion = this.#version;
  }

  /** What {@link restore} takes. */
  backup(): Backup {
    const objects = new Map([...this.#objects].map(([resource, each]) => [resource, new Map(each)]));
    return { version: this.#version, objects };
  }

  /** A backup is put in the store's place: what was written since is as if it had never been, and nobody is told. */
  restore({ version, objects }: Backup): void {
    this.#version = version;
    this.#objects.clear();
    for (const [resource, each] of objects) this.#objects.set(resource, new Map(each));
    this.#history = [];
    this.#oldestVersion = 0;
  }

  subscribe(listener: (change: Change) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #of(resource: ResourceName): Map<string, KubeObject> {
    const found = this.#objects.get(resource);
    if (found !== undefined) return found;
    const created = new Map<string, KubeObject>();
    this.#objects.set(resource, created);
    return created;
  }

  #commit(type: ChangeType, resource: ResourceName, object: KubeObject): KubeObject {
    this.#version += 1;
    const { name, namespace = "" } = object.metadata;
    const key = `${namespace}/${name}`;
    const previous = this.#of(resource).get(key);
    const written = complete(resource, object, this.#version);
    if (type === "DELETED") this.#of(resource).delete(key);
    else this.#of(resource).set(key, written);
    const change: Change = { type, resource, version: this.#version, object: written, previous };
    this.#history.push(change);
    while (this.#history.length > this.#historyLimit) {
      this.#oldestVersion = this.#history.shift()?.version ?? this.#version;
    }
    for (const listener of this.#listeners) listener(change);
    return written;
  }
}

function complete(resource: ResourceName, object: KubeObject, version: number): KubeObject {
  const { kind, apiVersion } = resourceKinds[resource];
  const copy = structuredClone(object);
  copy.kind = kind;
  copy.apiVersion = apiVersion;
  copy.metadata.uid ??= randomUUID();
  copy.metadata.creationTimestamp ??= new Date().toISOString().replace(/\.\d+Z$/, "Z");
  copy.metadata.resourceVersion = String(version);
  if (resource === "namespaces") {
    copy.metadata.labels = { ...copy.metadata.labels, "kubernetes.io/metadata.name": copy.metadata.name };
    copy.status ??= { phase: "Active" };
  }
  return copy;
}
