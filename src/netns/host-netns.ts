// SPDX-License-Identifier: Apache-2.0
// Which network namespaces are the host's, so that none of them is ever taken for a pod's.
import { statSync } from "node:fs";
import { join } from "node:path";

/** Where the host is looked for. */
export interface HostNetnsOptions {
  /** Prefix under which the host's files are seen. */
  readonly hostRoot: string;
}

/**
 * `Netns.key` of every namespace that must not be written with pod rules: the host's and the agent's own
 * (the same one when the agent runs with host networking).
 */
export function hostNetnsKeys(options: HostNetnsOptions): ReadonlySet<string> {
  const keys = new Set<string>();
  for (const path of ["/proc/self/ns/net", join(options.hostRoot, "proc/1/ns/net")]) {
    const key = netnsKeyAt(path);
    if (key !== undefined) keys.add(key);
  }
  return keys;
}

/** `Netns.key` of the namespace behind a path; `undefined` when it is gone or may not be seen. */
export function netnsKeyAt(path: string): string | undefined {
  const stat = statSync(path, { bigint: true, throwIfNoEntry: false });
  return stat === undefined ? undefined : `${stat.dev}:${stat.ino}`;
}
