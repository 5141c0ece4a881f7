// SPDX-License-Identifier: Apache-2.0
// The folders that the agent works in: there, writable, with room left.
import { access, constants, stat, statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { type Finding, failing, fine, warning } from "./finding.ts";

/** A folder, and what it is for. */
export interface NamedFolder {
  readonly id: string;
  readonly path: string;
  readonly use: string;
  /** Setting that names it. */
  readonly setting: string;
  /** The agent makes it if it is not there, below a folder that is. */
  readonly isMade?: boolean;
}

const LOW_BYTES = 32 << 20;

const REMEDIES: Readonly<Record<string, string>> = {
  ENOENT: "there is no such folder: mount the node's folder there, or correct",
  ENOTDIR: "it is no folder: correct",
  EROFS: "it is on a read-only file system: mount it writable, or correct",
  EACCES: "permission denied: run as root with DAC_OVERRIDE, let SELinux or AppArmor permit it, or correct",
};

/** One finding for each folder. */
export async function checkFolder(folder: NamedFolder): Promise<Finding> {
  const { id, path, use, setting } = folder;
  try {
    const { mode } = await stat(path);
    if ((mode & constants.S_IFMT) !== constants.S_IFDIR)
      throw Object.assign(new Error("no folder"), { code: "ENOTDIR" });
    await access(path, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (error) {
    const { code = "", message } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" && folder.isMade === true && dirname(path) !== path)
      return await checkFolder({ ...folder, path: dirname(path) });
    const fix = `${REMEDIES[code] ?? `${message}: correct`} ${setting}`;
    return failing(id, `${use} "${path}" cannot be used: ${code || message}`, fix);
  }
  return await room(folder);
}

async function room({ id, path, use, setting }: NamedFolder): Promise<Finding> {
  const { bsize, blocks, bavail, ffree, files } = await statfs(path);
  // a file system that counts nothing
  const free = blocks === 0 ? Number.POSITIVE_INFINITY : bavail * bsize;
  const remedy = "free space on the node's disk, or remove what fills it";
  if (free === 0) return failing(id, `${use} "${path}": the disk is full`, remedy);
  if (files > 0 && ffree === 0) return failing(id, `${use} "${path}": the disk has no inode left`, remedy);
  if (free < LOW_BYTES)
    return warning(id, `${use} "${path}": only ${Math.round(free / 1024)} KiB are left on the disk`, remedy);
  return fine(id, `${use} "${path}" can be written (${setting})`);
}
