// SPDX-License-Identifier: Apache-2.0
// Takes what the agent keeps in its run dir away: sockets, the backend decision, the exempt list, what ADD told of sandboxes.
import { lstat, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { AgentConfig } from "../config.ts";
import { SANDBOX_FOLDER } from "../enrolment/attachment-store.ts";
import { LOCK_FOLDER } from "../linux/lock-files.ts";
import { NativeError } from "../linux/native.ts";
import { connectSeqpacket } from "../linux/seqpacket.ts";
import { isServed } from "./uninstall-calls.ts";

export interface FileCleanupOptions extends Pick<AgentConfig, "runDir" | "ztunnelSocketPath"> {
  /**
   * An agent calls, whose own socket is closed, and which is about to close what it still serves: those go, too, and another one on its
   * socket is its successor and gets the node. Default false.
   */
  readonly isAgent?: boolean;
}

/** Files of ours; the folder itself stays, it may be a mount. */
const ourFiles =
  /^(?:iptables-backend\.json(?:\.\d+(?:-\d+)?\.tmp)?|(?:ambient-cni\.)?exempt-namespaces(?:\.\d+(?:-\d+)?\.tmp)?)$/;
const ourFolders: ReadonlySet<string> = new Set([SANDBOX_FOLDER, LOCK_FOLDER]);
const ourSockets = /^(?:pluginevent|state)\.sock(?:\.\d+)?$/;

/** Paths of what is there. @throws Error of the file system */
export async function lookAtFiles(options: FileCleanupOptions): Promise<string[]> {
  const { runDir, ztunnelSocketPath } = options;
  const names = await readdir(runDir).catch(whenAbsent<string[]>([]));
  const paths = names
    .filter((name) => ourFiles.test(name) || ourSockets.test(name) || ourFolders.has(name))
    .map((name) => join(runDir, name));
  return (await isSocket(ztunnelSocketPath)) ? [...paths, ztunnelSocketPath] : paths;
}

/** Removes them, but for sockets that somebody else serves. */
export async function cleanFiles(
  options: FileCleanupOptions,
): Promise<{ removed: string[]; failed: string[] }> {
  const removed: string[] = [];
  const failed: string[] = [];
  for (const path of await lookAtFiles(options)) {
    try {
      const isAlive = options.isAgent !== true && (await isAnybodyThere(path, options));
      if (isAlive) failed.push(`"${path}": a process serves it`);
      else {
        await rm(path, { recursive: true, force: true });
        removed.push(`"${path}"`);
      }
    } catch (error) {
      failed.push(`"${path}": ${(error as Error).message}`);
    }
  }
  return { removed, failed };
}

async function isAnybodyThere(path: string, { ztunnelSocketPath }: FileCleanupOptions): Promise<boolean> {
  if (path === ztunnelSocketPath) return isSeqpacketServed(path);
  return (await isSocket(path)) && (await isServed(path));
}

function isSeqpacketServed(path: string): boolean {
  try {
    connectSeqpacket(path).close();
    return true;
  } catch (error) {
    return !(error instanceof NativeError && ["ECONNREFUSED", "ENOENT"].includes(error.code));
  }
}

async function isSocket(path: string): Promise<boolean> {
  return (await lstat(path).catch(whenAbsent(undefined)))?.isSocket() === true;
}

function whenAbsent<T>(value: T): (error: unknown) => T {
  return (error) => {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return value;
    throw error;
  };
}
