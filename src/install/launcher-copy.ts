// SPDX-License-Identifier: Apache-2.0
// The launcher in the folder where the runtime looks for plugins.
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { lstat, readdir, readFile, rename, rm, stat, unlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { istioCniType, type PluginType, pluginType } from "../conflist/conflist-edit.ts";
import { syncFolder, writeNewFile } from "../linux/atomic-file.ts";
import { ToolRunner } from "../linux/run-tool.ts";

/** Name of the launcher's file in the image, and the usual one in the runtime's folder. */
export const launcherName: PluginType = pluginType;
/** All names under which it may be there. */
export const launcherNames: readonly PluginType[] = [pluginType, istioCniType];

export interface LauncherOptions {
  /** The launcher that came with this agent. */
  readonly source: string;
  /** The runtime's plugin folder as this process sees it. */
  readonly binDir: string;
  /** The `type` of our entry in the chain; default {@link launcherName}. */
  readonly name?: PluginType;
}

/** A launcher that cannot be put in place; the message has the remedy. */
export class LauncherError extends Error {
  override readonly name = "LauncherError";
}

const remedies: Readonly<Record<string, string>> = {
  ENOENT:
    "there is no such folder: mount the node's CNI plugin folder there (cniBinDir of the chart), and check MOUNTED_CNI_BIN_DIR",
  ENOTDIR: "it is no folder: check MOUNTED_CNI_BIN_DIR",
  EROFS:
    "it is on a read-only file system: on a node whose system is immutable the plugins are in another folder (cniBinDir of the chart, see the platforms in its README)",
  ENOSPC: "the node's disk is full: free space there",
  EDQUOT: "the disk quota is used up: free space there",
  EACCES:
    "permission denied: run as root with DAC_OVERRIDE, and let SELinux or AppArmor permit writes to the folder",
  EPERM:
    "not permitted: the folder or the file may be immutable (lsattr), or SELinux or AppArmor forbids the write",
};

/** The launcher beside the bundle (an image), or where the sources build it. */
export function ownLauncher(): string {
  const beside = join(import.meta.dirname, launcherName);
  return existsSync(beside) ? beside : join(import.meta.dirname, "../plugin/build", launcherName);
}

/** Where the launcher of a node is. */
export function launcherPath(binDir: string, name: PluginType = launcherName): string {
  return join(binDir, name);
}

/** A launcher is 50 KB, istio-cni's plugin 85 MB. */
const maxLauncherBytes = 4 * 1024 * 1024;
/** What no plugin of others says of itself. Source: plugin/launcher.c, show_usage. */
const ownWords = "ambient-cni is the CNI plugin of Istio's ambient mesh";

/** The names under which the folder holds a launcher of ours, of whatever version. @throws the file system's error */
export async function ownLaunchers(binDir: string): Promise<PluginType[]> {
  const found: PluginType[] = [];
  for (const name of launcherNames) if (await isOwnLauncher(binDir, name)) found.push(name);
  return found;
}

/** Whether a launcher of ours is there under this name. @throws the file system's error */
export async function isOwnLauncher(binDir: string, name: PluginType): Promise<boolean> {
  const path = launcherPath(binDir, name);
  const stats = await lstat(path).catch(() => undefined);
  if (stats === undefined || name === launcherName) return stats !== undefined;
  return stats.isFile() && stats.size <= maxLauncherBytes && (await readFile(path)).includes(ownWords);
}

/**
 * Copies the launcher unless the same is there already. A temporary file in the same folder is renamed over it: a launcher
 * that runs at this moment goes on, the next call finds the old or the new one, never half of it. What was written is started
 * once, so that a folder from which nothing may run, or a launcher for another processor, shows now and not at the next pod.
 * @throws {LauncherError}
 */
export async function installLauncher({
  source,
  binDir,
  name,
}: LauncherOptions): Promise<"installed" | "unchanged"> {
  const path = launcherPath(binDir, name);
  const wanted = await readFile(source).catch((error: Error) => {
    throw new LauncherError(`Cannot install the launcher: "${source}" cannot be read: ${error.message}`);
  });
  try {
    for (let attempt = 1; ; attempt++) {
      await removeStale(binDir);
      if (await isSame(path, wanted)) return "unchanged";
      const temporary = join(binDir, `.${launcherName}.${randomBytes(6).toString("hex")}`);
      const isLast = attempt === maxAttempts;
      if (await replace(path, { temporary, wanted, isLast })) return "installed";
    }
  } catch (error) {
    if (error instanceof LauncherError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    throw new LauncherError(`Cannot install the launcher "${path}": ${remedies[code ?? ""] ?? message}`, {
      cause: error,
    });
  }
}

interface Replacement {
  readonly temporary: string;
  readonly wanted: Buffer;
  readonly isLast: boolean;
}

/** @returns false when the temporary file was taken for a leftover by another agent: a rolling upgrade runs two of us */
async function replace(path: string, { temporary, wanted, isLast }: Replacement): Promise<boolean> {
  try {
    await writeNewFile(temporary, { content: wanted, mode: 0o755 });
    await assertStarts(temporary);
    await rename(temporary, path);
  } catch (error) {
    const isTaken = !isLast && !existsSync(temporary) && existsSync(dirname(path));
    await unlink(temporary).catch(() => {});
    if (isTaken) return false;
    throw error;
  }
  await syncFolder(dirname(path));
  if (await isSame(path, wanted)) return true;
  throw new LauncherError(
    `Cannot install the launcher "${path}": what is there differs from what was written; look for another program ` +
      "that writes it, and at the node's disk",
  );
}

/** Removes the launcher and what a killed installer left; absence is success. @returns whether it was there @throws {LauncherError} */
export async function removeLauncher(binDir: string, name?: PluginType): Promise<boolean> {
  const path = launcherPath(binDir, name);
  try {
    await removeStale(binDir);
    await unlink(path);
    await syncFolder(binDir);
    return true;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") return false;
    throw new LauncherError(`Cannot remove the launcher "${path}": ${remedies[code ?? ""] ?? message}`, {
      cause: error,
    });
  }
}

/** What tells cheaply whether a file is still the one that was looked at; undefined when there is none. */
export async function fileMark(path: string): Promise<string | undefined> {
  try {
    const { dev, ino, size, mtimeNs, mode } = await stat(path, { bigint: true });
    return `${dev}:${ino}:${size}:${mtimeNs}:${mode}`;
  } catch {
    return undefined;
  }
}

async function isSame(path: string, wanted: Buffer): Promise<boolean> {
  try {
    const { mode } = await stat(path);
    return (mode & 0o777) === 0o755 && wanted.equals(await readFile(path));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw error;
  }
}

const maxAttempts = 5;
const startTimeoutMs = 5_000;
const busyPauseMs = 20;
const maxBusyTries = 50;

/** VERSION needs neither agent nor pod. */
async function assertStarts(path: string): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    const why = await whyNotStarting(path);
    if (why === undefined) return;
    // "text file busy": a program that we start at this moment has our descriptor until its own exec
    if (why.code === "ETXTBSY" && attempt < maxBusyTries) {
      await delay(busyPauseMs);
      continue;
    }
    throw new LauncherError(
      `Cannot install the launcher: the copy in this folder does not start (${why.message}); ` +
        "the folder may be mounted noexec, or the image be made for another processor",
    );
  }
}

interface NotStarting {
  /** The system's, for a program that could not be started at all. */
  readonly code?: string;
  readonly message: string;
}

async function whyNotStarting(path: string): Promise<NotStarting | undefined> {
  try {
    const { stdout } = await new ToolRunner().run({
      argv: [path],
      env: { CNI_COMMAND: "VERSION" },
      stdin: '{"cniVersion":"1.0.0"}',
      timeoutMs: startTimeoutMs,
    });
    return stdout.includes("supportedVersions") ? undefined : { message: "it gave no answer" };
  } catch (error) {
    const { message, cause } = error as Error & { cause?: NodeJS.ErrnoException };
    return cause?.code === undefined ? { message } : { code: cause.code, message: cause.code };
  }
}

const stalePattern = new RegExp(`^\\.${launcherName}\\.[0-9a-f]{12}$`);

async function removeStale(binDir: string): Promise<void> {
  for (const name of await readdir(binDir)) {
    if (stalePattern.test(name)) await rm(join(binDir, name), { force: true });
  }
}
