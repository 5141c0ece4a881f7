// SPDX-License-Identifier: Apache-2.0
// What a process of ours calls a file that lies beside its place for a moment, so that it is taken for nobody else's.
import { statSync } from "node:fs";

/**
 * The name with the process' number and that of the numbers it is one of: two agents of one node, each in a container of its own while
 * one replaces the other, have the same number, and write the same files when the API server tells both of something.
 * Source: pid_namespaces(7); namespaces(7), "The /proc/pid/ns/ directory".
 */
export function ownName(name: string): string {
  const numbers = statSync("/proc/self/ns/pid", { throwIfNoEntry: false })?.ino ?? 0;
  return `${name}.${process.pid}-${numbers}`;
}
