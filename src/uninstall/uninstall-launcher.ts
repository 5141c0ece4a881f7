// SPDX-License-Identifier: Apache-2.0
// The launcher leaves the node when nobody calls it any more.
import { lstat } from "node:fs/promises";
import { setTimeout as delay } from "node:timers/promises";
import { removeExemptList } from "../install/exempt-namespaces.ts";
import { launcherPath, removeLauncher } from "../install/launcher-copy.ts";
import { whyLauncherStays } from "../install/launcher-stay.ts";
import type { UninstallCalls } from "./uninstall-calls.ts";

export interface LauncherLookOptions {
  readonly hostRoot: string;
  readonly binDir: string;
  /** Do not ask whether a runtime will call it. */
  readonly removeLauncherAlways?: boolean;
}

export interface LauncherLeaveOptions extends LauncherLookOptions {
  /** How long there must have been no call. */
  readonly quietMs: number;
  /** Our stand-in at the socket; none when there is no run dir to have one in. */
  readonly calls: UninstallCalls | undefined;
}

/** What became of it; at most one is set. */
export interface LauncherLeave {
  readonly done?: string;
  readonly kept?: string;
  readonly failed?: string;
}

/** Where it is, and why it has to stay if it has; undefined when there is none. */
export async function lookAtLauncher(
  options: LauncherLookOptions,
): Promise<{ path: string; stays: string | undefined } | undefined> {
  const path = launcherPath(options.binDir);
  if ((await lstat(path).catch(() => undefined)) === undefined) return undefined;
  const why = options.removeLauncherAlways === true ? undefined : await whyLauncherStays(options);
  return { path, stays: why === undefined ? undefined : `left "${path}": ${why}` };
}

/** Calls that go on for so long come from a chain that was not found. */
const patienceMs = 30_000;

/** Removes the launcher; to be called when no chain names it any more. */
export async function leaveLauncher(options: LauncherLeaveOptions): Promise<LauncherLeave> {
  const { binDir, quietMs, calls } = options;
  const found = await lookAtLauncher(options);
  // what stays of the launcher answers DEL, which asks no list
  await removeExemptList(binDir).catch(() => {});
  if (found?.stays !== undefined) return { kept: found.stays };
  // a runtime reads its chain before it runs it: ADDs and DELs under way still call us
  if (found !== undefined && calls === undefined) await delay(quietMs);
  const deadlineMs = quietMs + patienceMs;
  if (found !== undefined && calls !== undefined && !(await calls.quiet(quietMs, { deadlineMs }))) {
    return {
      failed: `"${found.path}" is still called (${calls.count} times); look for a CNI configuration that names ambient-cni in another folder`,
    };
  }
  // also without a launcher: an installer that was killed may have left half of one
  return await remove(binDir);
}

async function remove(binDir: string): Promise<LauncherLeave> {
  try {
    return (await removeLauncher(binDir)) ? { done: `removed "${launcherPath(binDir)}"` } : {};
  } catch (error) {
    return { failed: (error as Error).message };
  }
}
