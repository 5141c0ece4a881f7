// SPDX-License-Identifier: Apache-2.0
// The launcher leaves the node when nobody calls it any more, under whichever of its names it is there.
import { setTimeout as delay } from "node:timers/promises";
import type { PluginType } from "../conflist/conflist-edit.ts";
import { removeExemptList } from "../install/exempt-namespaces.ts";
import { launcherName, launcherPath, ownLaunchers, removeLauncher } from "../install/launcher-copy.ts";
import type { Leftover } from "../install/launcher-leftover.ts";
import { whyLauncherStays } from "../install/launcher-stay.ts";
import type { UninstallCalls } from "./uninstall-calls.ts";

export interface LauncherLookOptions {
  readonly hostRoot: string;
  readonly binDir: string;
  /** Do not ask whether a runtime will call it. */
  readonly removeLauncherAlways?: boolean;
}

export interface LauncherLeaveOptions extends Pick<LauncherLookOptions, "binDir"> {
  /** How long there must have been no call. */
  readonly quietMs: number;
  /** Our stand-in at the socket; none when there is no run dir to have one in. */
  readonly calls: UninstallCalls | undefined;
}

/** What became of the launchers. */
export interface LauncherLeave {
  readonly done: readonly string[];
  readonly failed: readonly string[];
}

type OwnLauncher = Pick<Leftover, "name" | "path" | "stays">;

/** Where launchers of ours are, and why they have to stay if they have. */
export async function lookAtLaunchers(options: LauncherLookOptions): Promise<OwnLauncher[]> {
  const { binDir, hostRoot, removeLauncherAlways } = options;
  const found: OwnLauncher[] = [];
  for (const name of await ownLaunchers(binDir)) {
    const path = launcherPath(binDir, name);
    const why = removeLauncherAlways === true ? undefined : await whyLauncherStays({ hostRoot, type: name });
    found.push({ name, path, stays: why === undefined ? undefined : `left "${path}": ${why}` });
  }
  return found;
}

/** Calls that go on for so long come from a chain that was not found. */
const patienceMs = 30_000;

/** Removes those of the launchers that may go; to be called when no chain names them any more. */
export async function leaveLaunchers(
  found: readonly OwnLauncher[],
  { binDir, quietMs, calls }: LauncherLeaveOptions,
): Promise<LauncherLeave> {
  const going = found.filter(({ stays }) => stays === undefined);
  // a runtime reads its chain before it runs it: ADDs and DELs under way still call us
  if (going.length > 0 && calls === undefined) await delay(quietMs);
  const deadlineMs = quietMs + patienceMs;
  if (going.length > 0 && calls !== undefined && !(await calls.quiet(quietMs, { deadlineMs }))) {
    const paths = going.map(({ path }) => `"${path}"`).join(", ");
    const failed = `${paths} is still called (${calls.count} times); look for a CNI configuration that names it in another folder`;
    return { done: [], failed: [failed] };
  }
  // until now for pods whose ADD was under way; what stays of the launcher answers DEL, which asks no list
  await removeExemptList(binDir).catch(() => {});
  const names = going.map(({ name }) => name);
  // also without a launcher: an installer that was killed may have left half of one
  const isThere = found.some(({ name }) => name === launcherName);
  return await removeAll(binDir, isThere ? names : [launcherName, ...names]);
}

async function removeAll(binDir: string, names: readonly PluginType[]): Promise<LauncherLeave> {
  const done: string[] = [];
  const failed: string[] = [];
  for (const name of names) {
    try {
      if (await removeLauncher(binDir, name)) done.push(`removed "${launcherPath(binDir, name)}"`);
    } catch (error) {
      failed.push((error as Error).message);
    }
  }
  return { done, failed };
}
