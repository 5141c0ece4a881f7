// SPDX-License-Identifier: Apache-2.0
// Tells the node's own programs from what pods run: a process may call itself whatever it likes.
import { join } from "node:path";
import { netnsKeyAt } from "./host-netns.ts";
import { nodeCgroupOf, type Process, unlessGone } from "./proc.ts";

/**
 * Whether a process is a program of the node: in the node's network namespace and in no pod. Its name, its arguments, its environment
 * and the files that it sees are words until that is known.
 * @param procRoot the /proc folder in which all processes of the node are seen
 */
export function nodePrograms(procRoot: string): (process: Process) => boolean {
  const node = nodeCgroupOf(procRoot);
  const hostNetns = unlessGone(() => netnsKeyAt(join(procRoot, "1/ns/net")));
  return (process) => {
    if (process.netnsKey() !== hostNetns) return false;
    const owner = process.owner(node);
    // one that ended in between is nobody
    return owner !== undefined && owner.podUid === undefined;
  };
}
