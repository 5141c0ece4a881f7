// SPDX-License-Identifier: Apache-2.0
// Pods of which two have one network namespace, which nobody can redirect both of.
import { type Fault, fault } from "./fault.ts";
import { hasRedirection, type PodSubject } from "./pod-check.ts";

/** A fault for each pod that shares its namespace with one that is redirected. */
export function sharedNamespaces(subjects: readonly PodSubject[]): Fault[] {
  const byKey = new Map<string, PodSubject[]>();
  for (const subject of subjects) {
    if (subject.running === undefined) continue;
    const { netnsKey } = subject.running;
    byKey.set(netnsKey, [...(byKey.get(netnsKey) ?? []), subject]);
  }
  return [...byKey]
    .filter(([, pods]) => pods.length > 1 && pods.some(({ wanted }) => hasRedirection(wanted)))
    .flatMap(([key, pods]) =>
      pods.map(({ name }) =>
        fault(
          "shared-netns",
          name,
          `network namespace ${key} has ${pods.map((pod) => pod.name).join(" and ")}`,
        ),
      ),
    );
}
