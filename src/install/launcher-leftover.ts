// SPDX-License-Identifier: Apache-2.0
// What the agent that was here before has left for its plugin: recognised, and removed when nothing calls that plugin any more.
import { lstat, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import type { PluginType } from "../conflist/conflist-edit.ts";
import { isOwnLauncher, launcherNames, launcherPath } from "./launcher-copy.ts";
import { whyLauncherStays } from "./launcher-stay.ts";

/** Where leftovers are looked for. */
export interface LeftoverOptions {
  readonly hostRoot: string;
  readonly binDir: string;
  /** Name of the launcher that is in use; none: no launcher of ours is. */
  readonly current?: PluginType | undefined;
}

/** A plugin in the runtime's folder that is not ours to call. */
export interface Leftover {
  readonly name: PluginType;
  readonly path: string;
  readonly owner: "ours" | "istio-cni";
  /** Why removing it would keep pods from being deleted; undefined: nobody calls it any more. */
  readonly stays: string | undefined;
}

/** Plugins of istio-cni, and launchers of ours under another name; to be asked when the chain names none of them. */
export async function findLeftovers({ hostRoot, binDir, current }: LeftoverOptions): Promise<Leftover[]> {
  const found: Leftover[] = [];
  for (const name of launcherNames) {
    const path = launcherPath(binDir, name);
    const isFile = (await lstat(path).catch(() => undefined))?.isFile() === true;
    if (!isFile || name === current) continue;
    const owner = (await isOwnLauncher(binDir, name)) ? "ours" : "istio-cni";
    found.push({ name, path, owner, stays: await whyLauncherStays({ hostRoot, type: name }) });
  }
  return found;
}

/**
 * Removes what istio-cni's plugin reads and nobody else: a token for the API server lies in it.
 * Source: istio/istio cni/pkg/install/kubeconfig.go; before 1.24 in the CNI folder.
 * @returns the paths that were there @throws the file system's error
 */
export async function removeIstioCniFiles({
  runDir,
  netDir,
}: {
  readonly runDir: string;
  readonly netDir: string;
}): Promise<string[]> {
  const removed: string[] = [];
  for (const path of [join(runDir, "istio-cni-kubeconfig"), join(netDir, "ZZZ-istio-cni-kubeconfig")]) {
    if ((await readFile(path).catch(() => undefined)) === undefined) continue;
    await rm(path, { force: true });
    removed.push(path);
  }
  return removed;
}

/** Whether a configuration names a plugin, copies that others made included. */
export function namesPlugin(text: string, name: PluginType): boolean {
  return new RegExp(`"type"\\s*:\\s*"${name}"`).test(text);
}
