// SPDX-License-Identifier: Apache-2.0
// The name of a Unix socket: taken over from a predecessor, left to a successor, and back when somebody removed it.
import {
  chmodSync,
  type FSWatcher,
  linkSync,
  lstatSync,
  mkdirSync,
  renameSync,
  rmSync,
  watch,
} from "node:fs";
import type { Server } from "node:net";
import { basename, dirname } from "node:path";
import type { Logger } from "../log/logger.ts";
import type { Clock } from "../loop/clock.ts";
import { KeepTrue } from "../loop/keep-true.ts";

/** Only root may connect, from the first moment that the name is there. */
const socketMode = 0o600;

/** A socket with a name. */
export interface PublishedSocket {
  readonly inode: bigint;
}

/**
 * Listens, and takes the name over from whatever has it: a stale file, or an agent that is just ending. When the server is
 * closed the name stays: it may be a successor's by then.
 * @throws Error of the file system or the kernel (EACCES, ENAMETOOLONG, …), ENOENT without a folder
 */
export async function publishSocket(server: Server, path: string): Promise<PublishedSocket> {
  const ownPath = await bindBeside(server, path);
  const { ino: inode } = lstatSync(ownPath, { bigint: true });
  renameSync(ownPath, path);
  return { inode };
}

/** As {@link publishSocket}, but makes the folder, and leaves a name that is there alone: the server is closed then. @throws also EEXIST */
export async function publishMissingSocket(server: Server, path: string): Promise<void> {
  try {
    mkdirSync(dirname(path), { recursive: true });
    const ownPath = await bindBeside(server, path);
    try {
      // unlike a rename this never takes the place of one that has come meanwhile
      linkSync(ownPath, path);
    } finally {
      rmSync(ownPath);
    }
  } catch (error) {
    server.close();
    throw error;
  }
}

/** libuv removes the name it was bound to when it closes: that must not be the name that others know. */
async function bindBeside(server: Server, path: string): Promise<string> {
  const ownPath = `${path}.${process.pid}`;
  rmSync(ownPath, { force: true });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("error", reject);
  server.listen(ownPath, resolve);
  await promise;
  server.off("error", reject);
  chmodSync(ownPath, socketMode);
  return ownPath;
}

export interface SocketNameOptions {
  readonly path: string;
  /** What the socket is, for the log. */
  readonly what: string;
  /** Opens a socket under that name: one that is bound cannot get its name back. */
  readonly reopen: () => Promise<void>;
  readonly log: Logger;
  readonly clock?: Clock | undefined;
}

const lookMs = 1_000;
/**
 * For a successor, which removes the name before it binds it: who put its own there in between would take the node's pods from the one
 * that has come to stay. Source: istio/istio cni/pkg/pluginlistener/listener.go, os.Remove and then net.Listen.
 */
const SUCCESSOR_MS = 500;
/** Where the kernel tells of the folder: three names that are looked at each second were a tenth of an idle agent's processor time. */
const watchedLookMs = 30_000;

/**
 * Keeps the name of a socket there. istio-cni removes this name when it ends, whoever has taken it over: no pod of the node
 * would start. A file that is there is left alone, it may be a successor's.
 * Source: go net/unixsock_posix.go, UnixListener.close.
 */
export class SocketName {
  readonly #options: SocketNameOptions;
  readonly #looks: KeepTrue;
  #watcher: FSWatcher | undefined;

  constructor(options: SocketNameOptions) {
    this.#options = options;
    const longestMs = () => (this.#watcher === undefined ? lookMs : watchedLookMs);
    this.#looks = new KeepTrue({ work: () => this.#look(), longestMs, clock: options.clock });
  }

  /** Begins to look. */
  keep(): void {
    this.#watch();
    this.#looks.requestIn(this.#watcher === undefined ? lookMs : watchedLookMs);
  }

  /** Ends it, after a socket that is just being opened; the name stays. */
  async stop(): Promise<void> {
    this.#unwatch();
    await this.#looks.stop();
  }

  /** A folder that is not there, or a user that has no inotify watch left: the name is looked at each second. */
  #watch(): void {
    const { path } = this.#options;
    try {
      const watcher = watch(dirname(path), { persistent: false });
      this.#watcher = watcher;
      // what is said of the folder itself: it was removed or moved away
      const names: readonly unknown[] = [basename(path), basename(dirname(path)), null];
      watcher.on("change", (event, name) => {
        if (event === "rename" && names.includes(name)) this.#request();
      });
      watcher.on("error", () => {
        this.#unwatch();
        this.#request();
      });
    } catch {
      this.#watcher = undefined;
    }
  }

  #unwatch(): void {
    this.#watcher?.close();
    this.#watcher = undefined;
  }

  #request(): void {
    this.#looks.requestIn(SUCCESSOR_MS);
  }

  async #look(): Promise<void> {
    const { path, what, reopen, log } = this.#options;
    if (lstatSync(path, { throwIfNoEntry: false }) !== undefined) return;
    // the folder itself may have gone with the name
    this.#unwatch();
    try {
      await reopen();
      if (!this.#looks.isStopped) this.#watch();
      log.warn({ path }, `somebody removed ${what}; it is back`);
    } catch (error) {
      log.error({ path, err: error }, `cannot open ${what} again`);
    }
  }
}
