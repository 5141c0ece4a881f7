// SPDX-License-Identifier: Apache-2.0
// File events of one folder, also after the folder was removed and made anew.
import { type FSWatcher, watch } from "node:fs";
import { basename } from "node:path";
import { folderId } from "./conf-dir.ts";

/** Calls back when something in the folder changed; events are a hint, a slow poll is the net under them. */
export class FolderWatch implements Disposable {
  readonly path: string;
  readonly #onevent: () => void;
  #watcher: FSWatcher | undefined;
  #watchedId: string | undefined;
  #fault: string | undefined;

  constructor(path: string, onevent: () => void) {
    this.path = path;
    this.#onevent = onevent;
  }

  /** Why there are no events now; undefined while there are. */
  get fault(): string | undefined {
    return this.#fault;
  }

  /** Watches the folder that is there now, if it is not the watched one. @throws ENOENT when there is none; ESTALE */
  async renew(): Promise<void> {
    let id: string;
    try {
      id = await folderId(this.path);
    } catch (error) {
      this.#drop();
      throw error;
    }
    if (id === this.#watchedId) return;
    this.#drop();
    try {
      const watcher = watch(this.path, { persistent: false }, (_event, name) => {
        // what inotify says of the watched folder itself: it was removed or moved away
        if (name === null || name === basename(this.path)) this.#drop();
        this.#onevent();
      });
      watcher.on("error", (error) => {
        this.#fault = error.message;
        this.#drop();
      });
      this.#watcher = watcher;
      this.#watchedId = id;
      this.#fault = undefined;
    } catch (error) {
      // no watches left on this node: the poll goes on
      this.#fault = (error as Error).message;
    }
  }

  [Symbol.dispose](): void {
    this.#drop();
  }

  #drop(): void {
    this.#watcher?.close();
    this.#watcher = undefined;
    this.#watchedId = undefined;
  }
}
