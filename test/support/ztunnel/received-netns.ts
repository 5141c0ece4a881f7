// SPDX-License-Identifier: Apache-2.0
// A namespace descriptor the agent passed: owned first, looked at after.
import { closeSync, fstatSync, statfsSync } from "node:fs";

/** `f_type` of the filesystem namespaces live on. Source: linux/magic.h NSFS_MAGIC. */
const NSFS_MAGIC = 0x6e736673;

/** One received descriptor; closing twice is fine. */
export class ReceivedNetns implements Disposable {
  readonly fd: number;
  /** Identity of the namespace, as text: "dev:ino". */
  readonly key: string;
  readonly dev: string;
  readonly ino: string;
  #closed = false;

  constructor(fd: number) {
    this.fd = fd;
    const { dev, ino } = fstatSync(fd, { bigint: true });
    this.dev = String(dev);
    this.ino = String(ino);
    this.key = `${dev}:${ino}`;
  }

  /** True when the descriptor is on nsfs, as a namespace's is. */
  isNamespace(): boolean {
    return statfsSync(`/proc/self/fd/${this.fd}`).type === NSFS_MAGIC;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeSync(this.fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
