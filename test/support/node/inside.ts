// SPDX-License-Identifier: Apache-2.0
// The inner side of a test node: knowing that we are inside, and following the process outside into its end.
import { readFileSync } from "node:fs";

/** Where a process finds the things of the node it runs in. */
export interface InsideNode {
  readonly id: string;
  /** A folder on tmpfs that goes away with the node. */
  readonly scratch: string;
  /** The node's own cgroup folder; pods belong below `kubepods` in it. */
  readonly cgroupFolder: string;
}

/**
 * Tells whether this process runs inside a test node.
 *
 * The mount table is asked, not the environment: a variable can be copied to where it is a lie, and a test that believed
 * it would write to the machine.
 */
export function insideNode(): InsideNode | undefined {
  const mountinfo = readFileSync("/proc/self/mountinfo", "utf8");
  const id = / \/run [^\n]* - tmpfs ambient-cni-node-(\S+) /.exec(mountinfo)?.[1];
  if (id === undefined) return undefined;
  const cgroupFolder = readFileSync("/run/node/cgroup-folder", "utf8").trim();
  return { id, scratch: "/run/node", cgroupFolder };
}

/**
 * The same, for code that must never run on the machine itself.
 *
 * @throws Error when called outside.
 */
export function requireNode(): InsideNode {
  const node = insideNode();
  if (node === undefined) {
    throw new Error("Cannot go on outside a test node: start this through runInNode or NodeModule");
  }
  return node;
}

/**
 * Reports to the process outside that the entry runs, takes its signals, and ends when it is gone.
 *
 * The channel does not keep the process alive. Messages that are not signals go to `onMessage`.
 */
export function followOuter(onMessage?: (message: unknown) => void): void {
  process.on("message", (message: unknown) => {
    if (typeof message === "object" && message !== null && "signal" in message) {
      process.kill(process.pid, message.signal as NodeJS.Signals);
    } else onMessage?.(message);
  });
  // nobody is left to clean up for: the end of this process is the end of the pid namespace
  process.on("disconnect", () => process.exit(1));
  if (onMessage === undefined) process.channel?.unref();
  process.send?.("inside");
}
