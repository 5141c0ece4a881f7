// SPDX-License-Identifier: Apache-2.0
// Reads one file of the CNI folder as the runtime reads it on the host; what cannot be read has a reason and hides no other.
import type { BigIntStats } from "node:fs";
import { lstat, readdir, readFile, readlink, stat } from "node:fs/promises";
import { join, normalize, relative } from "node:path";
import type { UnreadFile } from "../conflist/conf-folder.ts";
import { type ConfText, confTextOf } from "../conflist/conf-text.ts";
import { hostPath, hostRoots } from "../linux/host-path.ts";

/** A folder as this process sees it, and where the host is seen. */
export interface SeenFolder {
  readonly path: string;
  /** Prefix under which the host's files are seen; "/": links lead where they lead here. */
  readonly hostRoot: string;
}

/** What is at a name of the folder. */
export type FoundFile =
  | { readonly kind: "file"; readonly text: ConfText; readonly stats: BigIntStats }
  /** Its names are those in it. */
  | { readonly kind: "folder"; readonly path: string }
  | { readonly kind: "unread"; readonly fault: UnreadFile; readonly stats: BigIntStats }
  /** Gone since it was listed. */
  | { readonly kind: "gone" };

/** Longer files are no CNI configuration: real ones have some KB, and 2 MiB of brackets took 130 MB and the loop 150 ms to read. */
const maxFileBytes = 256n * 1024n;

/** Looks at a name; never rejects over a file of it. The stats are those of a link itself. */
export async function readConfFile(folder: SeenFolder, name: string): Promise<FoundFile> {
  const path = join(folder.path, name);
  let stats: BigIntStats;
  try {
    // before reading: whatever is written from here on shows as a difference later
    stats = await lstat(path, { bigint: true });
  } catch (error) {
    if (codeOf(error) === "ENOENT") return { kind: "gone" };
    throw error;
  }
  try {
    const place = stats.isSymbolicLink() ? await followed(folder, name) : path;
    if (typeof place !== "string") return { kind: "unread", fault: place, stats };
    const target = stats.isSymbolicLink() ? await stat(place, { bigint: true }) : stats;
    if (target.isDirectory()) return { kind: "folder", path: place };
    if (!target.isFile()) return unread("it is no regular file", stats);
    if (target.size > maxFileBytes) return unread("it is longer than 256 KiB", stats);
    return { kind: "file", text: confTextOf(await readFile(place)), stats };
  } catch (error) {
    if (codeOf(error) === "ENOENT" && !stats.isSymbolicLink()) return { kind: "gone" };
    return unread(`it cannot be read: ${codeOf(error) ?? (error as Error).message}`, stats);
  }
}

function unread(why: string, stats: BigIntStats): FoundFile {
  return { kind: "unread", fault: { why }, stats };
}

/** Where a link leads, as this process sees it, or why it leads nowhere. */
async function followed({ path, hostRoot }: SeenFolder, name: string): Promise<string | UnreadFile> {
  const target = await readlink(join(path, name));
  const hostFolder = join("/", relative(hostRoot, path));
  const onHost = target.startsWith("/") ? target : join(hostFolder, target);
  let code: string | undefined;
  for (const root of hostRoots(hostRoot)) {
    try {
      const place = await hostPath(root, onHost);
      await stat(place);
      return place;
    } catch (error) {
      code ??= codeOf(error);
    }
  }
  if (code !== "ENOENT" && code !== "ENOTDIR" && code !== "EACCES")
    return { why: `is a link to "${target}", which cannot be read: ${code}` };
  if (code !== "EACCES" && (await isGone({ path, hostRoot }, { target, hostFolder })))
    return { why: `is a link to "${target}", which is not there`, isAbsent: true };
  return { why: `is a link to "${target}" on the host, which cannot be seen from here`, isOutOfSight: true };
}

interface Link {
  readonly target: string;
  readonly hostFolder: string;
}

/** Whether the runtime does not find it either: only who sees all of the host may say so. */
async function isGone({ path, hostRoot }: SeenFolder, { target, hostFolder }: Link): Promise<boolean> {
  if (hostRoot === "/") return true;
  const isWithin = !target.startsWith("/") && !normalize(target).startsWith("..");
  if (isWithin && (await lstat(join(path, target)).catch(() => undefined)) === undefined) return true;
  const root = join(hostRoot, "proc/1/root");
  const names = await readdir(root).catch(() => []);
  if (names.length === 0) return false;
  // a mount may show another folder here than the one of that name on the host
  return target.startsWith("/") || (await isSameFolder(path, join(root, hostFolder)));
}

/** Whether two paths lead to one folder; false when one leads to none. */
export async function isSameFolder(one: string, other: string): Promise<boolean> {
  try {
    const [a, b] = await Promise.all([stat(one, { bigint: true }), stat(other, { bigint: true })]);
    return a.dev === b.dev && a.ino === b.ino;
  } catch {
    return false;
  }
}

function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException).code;
}
