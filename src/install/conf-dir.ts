// SPDX-License-Identifier: Apache-2.0
// Reads and changes the CNI folder: every change is one rename, and only if nobody else has changed the file since.
import { randomBytes } from "node:crypto";
import { type BigIntStats, lstatSync, renameSync, unlinkSync } from "node:fs";
import { type FileHandle, mkdir, readdir, stat, unlink } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { Action, FolderFiles, UnreadFile } from "../conflist/conf-folder.ts";
import { type ConfText, confBytes, isConfName, isPartName } from "../conflist/conf-text.ts";
import { originalNameOf } from "../conflist/conf-wrap.ts";
import { syncFolder, writeNewFile } from "../linux/atomic-file.ts";
import { type FoundFile, readConfFile, type SeenFolder } from "./conf-file.ts";

/** The folder as it was at one moment. */
export interface FolderSnapshot {
  readonly files: FolderFiles;
  /** Of every file, also of those that could not be read. */
  readonly stats: ReadonlyMap<string, BigIntStats>;
  readonly unread: ReadonlyMap<string, UnreadFile>;
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

/** Identity of the folder, to notice that another one took its place. @throws ENOENT, ESTALE */
export async function folderId(netDir: string): Promise<string> {
  const { dev, ino, nlink } = await stat(netDir, { bigint: true });
  // what a container has mounted stays after it was removed on the node: empty, and nothing can be written
  if (nlink === 0n) throw Object.assign(new Error("the folder was removed"), { code: "ESTALE" });
  return `${dev}:${ino}`;
}

/** How much of a folder is read. */
export interface ReadOptions {
  /** Every regular file, not only what runtimes read and the originals saved by us. */
  readonly all?: boolean;
  /** Prefix under which the host's files are seen, for links; default "/". */
  readonly hostRoot?: string;
}

/**
 * Reads the folder, and the files of lists in the folders in it. A file that cannot be read is among `unread`, with the reason.
 * @throws the file system's error, ENOENT if there is no folder
 */
export async function readFolder(netDir: string, options: ReadOptions = {}): Promise<FolderSnapshot> {
  const snapshot = {
    files: new Map<string, ConfText>(),
    stats: new Map<string, BigIntStats>(),
    unread: new Map<string, UnreadFile>(),
  };
  const { hostRoot = "/", all } = options;
  for (const entry of await readdir(netDir, { withFileTypes: true })) {
    const { name } = entry;
    const isWanted = all === true || isConfName(name) || originalNameOf(name) !== undefined;
    const mayBeFolder = entry.isDirectory() || entry.isSymbolicLink();
    if (isTemporary(name) || (!isWanted && !mayBeFolder)) continue;
    const found = await readConfFile({ path: netDir, hostRoot }, name);
    if (found.kind === "folder" && entry.isSymbolicLink() && isConfName(name))
      snapshot.unread.set(name, { why: "it is a link to a folder" });
    else if (found.kind === "folder") await readParts({ path: found.path, hostRoot }, name, snapshot);
    else if (isWanted) keep(snapshot, name, found);
  }
  return snapshot;
}

/** A folder may belong to the list of the network that has its name. */
async function readParts(folder: SeenFolder, network: string, snapshot: MutableSnapshot): Promise<void> {
  const names = await readdir(folder.path).catch((error: NodeJS.ErrnoException) => error);
  if (names instanceof Error) {
    // a list of this network is refused for it
    snapshot.unread.set(`${network}/*.conf`, { why: names.code ?? names.message });
    return;
  }
  for (const name of names.sort().filter((each) => isPartName(`${network}/${each}`) && !isTemporary(each)))
    keep(snapshot, `${network}/${name}`, await readConfFile(folder, name));
}

interface MutableSnapshot {
  readonly files: Map<string, ConfText>;
  readonly stats: Map<string, BigIntStats>;
  readonly unread: Map<string, UnreadFile>;
}

function keep(snapshot: MutableSnapshot, name: string, found: FoundFile): void {
  if (found.kind === "file" || found.kind === "unread") snapshot.stats.set(name, found.stats);
  if (found.kind === "file") snapshot.files.set(name, found.text);
  if (found.kind === "unread") snapshot.unread.set(name, found.fault);
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
      await makePlace(netDir, action.name);
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
  const names = actions.map((action) => (action.kind === "rename" ? action.to : action.name));
  for (const folder of new Set(names.map((name) => dirname(join(netDir, name))))) await syncFolder(folder);
}

/** The folder of a list's plugins is made with the first file that goes into it. */
async function makePlace(netDir: string, name: string): Promise<void> {
  const folder = dirname(join(netDir, name));
  if (folder !== join(netDir, ".")) await makeFolder(folder);
}

/** Makes a folder in one that is there; one that is there already is right. @throws the file system's error, ENOENT */
export async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { mode: 0o755 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  }
}

/** Removes what a killed run was writing. Another agent's write that loses its file looks again and repeats it. */
export async function removeTemporaries(netDir: string): Promise<void> {
  for (const entry of await readdir(netDir, { withFileTypes: true })) {
    const path = join(netDir, entry.name);
    if (isTemporary(entry.name)) await unlink(path).catch(() => {});
    if (!entry.isDirectory()) continue;
    for (const name of (await readdir(path).catch(() => [])).filter(isTemporary))
      await unlink(join(path, name)).catch(() => {});
  }
}

const temporaryPattern = /^\..+\.ambient-cni-tmp-[0-9a-f]{12}$/;

function isTemporary(name: string): boolean {
  return temporaryPattern.test(name);
}

/** In the same folder, because containerd 1.6 ignores a rename from another one; with an ending no runtime reads. */
function temporaryNameFor(name: string): string {
  return join(dirname(name), `.${basename(name)}.ambient-cni-tmp-${randomBytes(6).toString("hex")}`);
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
