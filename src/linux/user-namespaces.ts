// SPDX-License-Identifier: Apache-2.0
// Which user namespaces rule over a network namespace: where a process must stand for its capabilities to count there.
import { closeSync, fstatSync } from "node:fs";
import { NativeError, namespaceOwner } from "./native.ts";

/** More than the kernel nests. Source: user_namespaces(7), "Nested namespaces": 32 levels. */
const maxLevels = 40;

/**
 * Identities (`dev:ino`) of the user namespace that owns a network namespace and of those above it, as far up as this process sees.
 * A capability counts in a network namespace for processes of these alone: one that made a user namespace of its own has every
 * capability there, and none here.
 *
 * Source: user_namespaces(7), "Interaction of user namespaces and other types of namespaces"; Linux security/commoncap.c, cap_capable.
 * @throws NativeError (EPERM: the owner is above, or beside, this process' own user namespace)
 */
export function userNamespacesOver(netnsFd: number): ReadonlySet<string> {
  const keys = new Set<string>();
  let fd = namespaceOwner(netnsFd);
  for (;;) {
    let parentFd: number | undefined;
    try {
      const { dev, ino } = fstatSync(fd, { bigint: true });
      keys.add(`${dev}:${ino}`);
      parentFd = keys.size < maxLevels ? parentOf(fd) : undefined;
    } finally {
      closeSync(fd);
    }
    if (parentFd === undefined) return keys;
    fd = parentFd;
  }
}

function parentOf(userNamespaceFd: number): number | undefined {
  try {
    return namespaceOwner(userNamespaceFd);
  } catch (error) {
    // the first one has none, and what is above our own is not shown
    if (error instanceof NativeError && error.code === "EPERM") return undefined;
    throw error;
  }
}
