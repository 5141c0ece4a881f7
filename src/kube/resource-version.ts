// SPDX-License-Identifier: Apache-2.0
// Order of resource versions, so that late and repeated events do no harm.

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
