// SPDX-License-Identifier: Apache-2.0
// The objects a watch has told of, safe against repeated, late and swapped events.

import { putLast } from "../bounds/bounded.ts";
import type { WatchEvent } from "./api-client.ts";

/** What a cached object must have: a key that no other object ever has, and its version. */
export interface Keyed {
  readonly key: string;
  readonly resourceVersion: string;
}

/** One step of the cache; `previous` is absent for an object not seen before, `current` after its deletion. */
export type ObjectChange<T> =
  | { readonly type: "set"; readonly current: T; readonly previous?: T }
  | { readonly type: "delete"; readonly previous: T; readonly current?: never };

const maxTombstones = 1024;

/** Objects by key; each method returns the changes it made. */
export class ObjectCache<T extends Keyed> {
  readonly #same: (a: T, b: T) => boolean;
  #objects = new Map<string, T>();
  readonly #tombstones = new Map<string, string>();

  /** @param same tells whether two states differ in nothing that matters; such a step is taken silently */
  constructor(same: (a: T, b: T) => boolean = () => false) {
    this.#same = same;
  }

  get size(): number {
    return this.#objects.size;
  }

  get(key: string): T | undefined {
    return this.#objects.get(key);
  }

  values(): IterableIterator<T> {
    return this.#objects.values();
  }

  /** Takes over a whole list: what is not in it is gone. Deletions come first. */
  replace(items: readonly T[]): ObjectChange<T>[] {
    const before = this.#objects;
    this.#objects = new Map(items.map((item) => [item.key, item]));
    this.#tombstones.clear();
    const changes: ObjectChange<T>[] = [];
    for (const [key, previous] of before) {
      if (!this.#objects.has(key)) changes.push({ type: "delete", previous });
    }
    for (const [key, current] of this.#objects) {
      const previous = before.get(key);
      if (previous === undefined) changes.push({ type: "set", current });
      else if (!this.#unchanged(previous, current)) changes.push({ type: "set", current, previous });
    }
    return changes;
  }

  /** Takes in one event. */
  apply(type: Exclude<WatchEvent["type"], "BOOKMARK">, object: T): ObjectChange<T> | undefined {
    const current = this.#objects.get(object.key);
    const known = current?.resourceVersion ?? this.#tombstones.get(object.key);
    const order = known === undefined ? undefined : compareVersions(object.resourceVersion, known);
    if (type === "DELETED") {
      if (order !== undefined && order < 0) return undefined;
      this.#bury(object);
      return current === undefined ? undefined : { type: "delete", previous: current };
    }
    if (order !== undefined && order <= 0) return undefined;
    this.#tombstones.delete(object.key);
    this.#objects.set(object.key, object);
    if (current === undefined) return { type: "set", current: object };
    return this.#unchanged(current, object) ? undefined : { type: "set", current: object, previous: current };
  }

  #unchanged(a: T, b: T): boolean {
    return a.resourceVersion === b.resourceVersion || this.#same(a, b);
  }

  /** Remembers a deletion for a while, so that an older event that comes late does not bring the object back. */
  #bury(object: T): void {
    this.#objects.delete(object.key);
    putLast(this.#tombstones, [object.key, object.resourceVersion], maxTombstones);
  }
}

/**
 * Compares two versions: negative, 0 or positive; undefined when either is not a plain decimal number.
 * Source: Kubernetes API concepts, "Resource versions": comparable as integers for objects of one resource type.
 */
export function compareVersions(a: string, b: string): number | undefined {
  if (!/^[0-9]+$/.test(a) || !/^[0-9]+$/.test(b)) return undefined;
  return a.length === b.length ? (a < b ? -1 : Number(a > b)) : a.length - b.length;
}

/** The later of two versions; `next` when they cannot be compared. */
export function laterVersion(current: string, next: string): string {
  const order = compareVersions(current, next);
  return order !== undefined && order > 0 ? current : next;
}
