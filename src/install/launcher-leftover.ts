// SPDX-License-Identifier: Apache-2.0
// The plugin binary of the istio-cni whose place this agent takes: recognised, and removed only when asked.
import { lstat, unlink } from "node:fs/promises";
import { join } from "node:path";
import { istioCniType } from "../conflist/conflist-edit.ts";
import { whyLauncherStays } from "./launcher-stay.ts";

export interface LeftoverOptions {
  readonly hostRoot: string;
  readonly binDir: string;
}

/** istio-cni's plugin in the runtime's folder. */
export interface IstioCniLeftover {
  readonly path: string;
  /** Why removing it would keep pods from being deleted; undefined: nobody calls it any more. */
  readonly stays: string | undefined;
}

/** Looks for it; to be called when the chain does not name it any more. */
export async function findIstioCni({
  hostRoot,
  binDir,
}: LeftoverOptions): Promise<IstioCniLeftover | undefined> {
  const path = join(binDir, istioCniType);
  if ((await lstat(path).catch(() => undefined))?.isFile() !== true) return undefined;
  return { path, stays: await whyLauncherStays({ hostRoot, type: istioCniType }) };
}

/** Removes it unless a runtime may still call it. @returns whether it was removed @throws the file system's error */
export async function removeIstioCni(options: LeftoverOptions): Promise<boolean> {
  const found = await findIstioCni(options);
  if (found === undefined || found.stays !== undefined) return false;
  await unlink(found.path);
  return true;
}
