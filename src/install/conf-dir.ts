// SPDX-License-Identifier: Apache-2.0
// Reads and changes the CNI folder: every change is one rename, and only if nobody else has changed the file since.
import { randomBytes } from "node:crypto";
import { type BigIntStats, lstatSync, renameSync, unlinkSync } from "node:fs";
import { type FileHandle, lstat, readdir, readFile, stat, unlink } from "node:fs/promises";
import { join } from "node:path";
import type { Action, FolderFiles } from "../conflist/conf-folder.ts";
import { type ConfText, confBytes, confTextOf, isConfName } from "../conflist/conf-text.ts";
import { originalNameOf } from "../conflist/conf-wrap.ts";
import { syncFolder, writeNewFile } from "../linux/atomic-file.ts";

/** The folder as it was at one moment. */
export interface FolderSnapshot {
  readonly files: FolderFiles;
  readonly stats: ReadonlyMap<string, BigIntStats>;
}

/** Mode of files that replace none. */
export interface NewFileOptions {
  /** `CNI_CONF_GROUP_READ`: 0640 instead of 0600. */
  readonly groupRead: boolean;
}

/** A file changed between being read and being replaced; look again. */
export class FolderChangedError extends Error {
  override readonly name = "FolderChangedError";
}

/** Longer files are no CNI configuration. Source: containerd/go-cni opts.go, MaxFileSize */
const maxFileBytes = 2n * 1024n * 1024n;

/** Identity of the folder, to notice that another one took its place. @throws ENOENT */
export async function folderId(netDir: string): Promise<string> {
  const { dev, ino } = await stat(netDir, { bigint: true });
  return `${dev}:${ino}`;
}

/**
 * Reads what runtimes read and the originals saved by us; `all`: every regular file.
 * @throws the file system's error, ENOENT if there is no folder
 */
export async function readFolder(netDir: string, options: { all?: boolean } = {}): Promise<FolderSnapshot> {
  const files = new Map<string, ConfText>();
  const stats = new Map<string, BigIntStats>();
  for (const name of (await readdir(netDir)).sort()) {
    if (!options.all && !isConfName(name) && originalNameOf(name) === undefined) continue;
    if (isTemporary(name)) continue;
    const path = join(netDir, name);
    try {
      // before reading: whatever is written from here on shows as a difference later
      const stats0 = await lstat(path, { bigint: true });
      const target = stats0.isSymbolicLink() ? await stat(path, { bigint: true }) : stats0;
      if (!target.isFile() || target.size > maxFileBytes) continue;
      files.set(name, confTextOf(await readFile(path)));
      stats.set(name, stats0);
    } catch (error) {
      // gone since it was listed, or a link to nothing
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
  }
  return { files, stats };
}

/**
 * Does the actions in their order.
 * @throws FolderChangedError when a file is no longer as in the snapshot; the file system's error otherwise
 */
export async function applyActions(
  netDir: string,
  actions: readonly Action[],
  options: NewFileOptions & { readonly snapshot: FolderSnapshot },
): Promise<void> {
  const { stats } = options.snapshot;
  for (const action of actions) {
    if (action.kind === "write") {
      const model = stats.get(action.name) ?? stats.get(action.like ?? "");
      const temporary = join(netDir, temporaryNameFor(action.name));
      try {
        await writeTemporary(temporary, action.text, { model, mode: options.groupRead ? 0o640 : 0o600 });
        // no await between looking and renaming: the smaller this gap, the smaller the chance to undo a foreign write
        assertUnchanged(netDir, action.name, stats.get(action.name));
        rename(temporary, join(netDir, action.name));
      } catch (error) {
        await unlink(temporary).catch(() => {});
        throw error;
      }
    } else if (action.kind === "rename") {
      assertUnchanged(netDir, action.from, stats.get(action.from));
      rename(join(netDir, action.from), join(netDir, action.to));
    } else {
      assertUnchanged(netDir, action.name, stats.get(action.name));
      unlinkSync(join(netDir, action.name));
    }
  }
  if (actions.length > 0) await syncFolder(netDir);
}

/** Removes what a killed run was writing. Another agent's write that loses its file looks again and repeats it. */
export async function removeTemporaries(netDir: string): Promise<void> {
  for (const name of await readdir(netDir)) {
    if (isTemporary(name)) await unlink(join(netDir, name)).catch(() => {});
  }
}

const temporaryPattern = /^\..+\.ambient-cni-tmp-[0-9a-f]{12}$/;

function isTemporary(name: string): boolean {
  return temporaryPattern.test(name);
}

/** In the same folder, because containerd 1.6 ignores a rename from another one; with an ending no runtime reads. */
function temporaryNameFor(name: string): string {
  return `.${name}.ambient-cni-tmp-${randomBytes(6).toString("hex")}`;
}

interface FileModel {
  readonly model: BigIntStats | undefined;
  readonly mode: number;
}

async function writeTemporary(path: string, text: ConfText, { model, mode }: FileModel): Promise<void> {
  const content = confBytes(text);
  if (model === undefined || model.isSymbolicLink()) return await writeNewFile(path, { content, mode });
  const prepare = (file: FileHandle): Promise<void> => copyOwner(file, model);
  await writeNewFile(path, { content, mode: Number(model.mode & 0o7777n), prepare });
}

async function copyOwner(file: FileHandle, model: BigIntStats): Promise<void> {
  const { uid, gid } = await file.stat({ bigint: true });
  if (uid === model.uid && gid === model.gid) return;
  try {
    await file.chown(Number(model.uid), Number(model.gid));
  } catch (error) {
    // without CAP_CHOWN the content still matters more than its owner
    if ((error as NodeJS.ErrnoException).code !== "EPERM") throw error;
  }
}

function assertUnchanged(netDir: string, name: string, then: BigIntStats | undefined): void {
  const now = lstatSync(join(netDir, name), { bigint: true, throwIfNoEntry: false });
  const isSame =
    now === undefined || then === undefined
      ? now === then
      : now.ino === then.ino &&
        now.size === then.size &&
        now.mtimeNs === then.mtimeNs &&
        now.ctimeNs === then.ctimeNs;
  if (!isSame) throw new FolderChangedError(`"${name}" was changed by another program`);
}

function rename(from: string, to: string): void {
  try {
    renameSync(from, to);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    throw new FolderChangedError(`"${from}" was removed by another program`, { cause: error });
  }
}
