// SPDX-License-Identifier: Apache-2.0
// Files that are there whole or not at all: written beside their place, then renamed into it.
import { type FileHandle, open, readdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { ownName } from "./own-name.ts";

export interface NewFile {
  readonly content: string | Uint8Array;
  /** Permissions, whatever the umask. */
  readonly mode: number;
  /** Called before the mode is set, for example to give the file to somebody: that clears bits. */
  readonly prepare?: (file: FileHandle) => Promise<void>;
}

/**
 * Writes a file that must not be there yet, to the disk. Only its owner can open it before it is complete.
 * @throws the file system's error (EEXIST, …); part of the file may be left
 */
export async function writeNewFile(path: string, { content, mode, prepare }: NewFile): Promise<void> {
  const file = await open(path, "wx", 0o600);
  try {
    await file.writeFile(content);
    await prepare?.(file);
    await file.chmod(mode);
    await file.sync();
  } finally {
    await file.close();
  }
}

/**
 * Puts a file in place of whatever is there, in one step: whoever opens it finds the old or the new content, also after a
 * crash of the node. @throws the file system's error; then the old one is still there
 */
export async function replaceFile(path: string, file: NewFile): Promise<void> {
  const temporary = `${ownName(path)}.tmp`;
  // what a process of this number was writing when it was killed
  await rm(temporary, { force: true });
  try {
    await writeNewFile(temporary, file);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => {});
    throw error;
  }
  await syncFolder(dirname(path));
}

const halfEnding = /^\.\d+(?:-\d+)?\.tmp$/;

/**
 * Removes what processes left beside a file that were killed while they replaced it. One that does so at this moment loses its
 * half, and its write fails: for files that are written again then. @throws the file system's error, but ENOENT
 */
export async function removeHalves(path: string): Promise<void> {
  const [folder, name] = [dirname(path), basename(path)];
  const found = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw error;
  });
  for (const each of found)
    if (each.startsWith(name) && halfEnding.test(each.slice(name.length)))
      await rm(join(folder, each), { force: true });
}

/** Makes what was renamed, made or removed in a folder last over a crash of the node. @throws the file system's error */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}
