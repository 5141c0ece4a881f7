// SPDX-License-Identifier: Apache-2.0
// Lock files of the agent's own, one for each thing that is written, which exist while a program that locks them runs.
import { constants } from "node:fs";
import { lstat, mkdir, open, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { KeyedMutex } from "../loop/keyed-mutex.ts";

/**
 * A file that a program can lock, and that is another one for each process that opens it by this name, so that none is kept waiting.
 * Source: proc(5), /proc/pid/environ; only its own process and root may open it.
 */
export const NOBODYS_LOCK = "/proc/self/environ";

/** Name of the folder in the run dir. */
export const LOCK_FOLDER = "xtables-locks";

/** No program that was started longer ago than this still runs. */
const STALE_AFTER_MS = 10 * 60_000;

/**
 * Work on the same thing waits for each other, in this agent by a queue, and between two agents on one node (while one replaces the
 * other) by the file. A third one that comes in the moment in which the first takes the file away is not kept waiting: whoever
 * writes proves what stands there afterwards.
 */
export class LockFiles {
  readonly #folder: string;
  readonly #mutex = new KeyedMutex();
  #isSwept = false;

  /** @param folder made when it is needed, for root alone; nothing else lives in it */
  constructor(folder: string) {
    this.#folder = folder;
  }

  /**
   * Does the work while a lock file for the key is there, which is gone afterwards. A file that cannot be made, on a full disk for
   * example, is no reason not to work: {@link NOBODYS_LOCK} takes its place.
   * @param key letters, digits, `:` and `-`
   * @throws what the work throws
   */
  async hold<T>(key: string, work: (path: string) => Promise<T>): Promise<T> {
    return await this.#mutex.run(key, async () => {
      const path = join(this.#folder, `${key}.lock`);
      const isMade = await this.#make(path);
      try {
        return await work(isMade ? path : NOBODYS_LOCK);
      } finally {
        if (isMade) await rm(path, { force: true }).catch(() => {});
      }
    });
  }

  async #make(path: string): Promise<boolean> {
    try {
      await mkdir(this.#folder, { recursive: true, mode: 0o700 });
      await this.#sweep();
      const file = await open(path, constants.O_CREAT | constants.O_RDWR | constants.O_NOFOLLOW, 0o600);
      try {
        // for whoever sweeps: an agent that was killed may have left it long ago
        const now = new Date();
        await file.utimes(now, now);
      } finally {
        await file.close();
      }
      return true;
    } catch {
      return false;
    }
  }

  /** Takes away, once, what agents left that were killed. */
  async #sweep(): Promise<void> {
    if (this.#isSwept) return;
    this.#isSwept = true;
    for (const name of await readdir(this.#folder)) {
      const path = join(this.#folder, name);
      const facts = await lstat(path).catch(() => undefined);
      if (name.endsWith(".lock") && facts !== undefined && Date.now() - facts.mtimeMs > STALE_AFTER_MS)
        await rm(path, { force: true });
    }
  }
}
