// SPDX-License-Identifier: Apache-2.0
// Memory in which one object or line after the other arrives, and that goes back to the system when a large one is done: buffers
// of the heap's would stay until it is collected, some tens of MB later.

/** What is kept between two, in bytes. */
const keptBytes = 256 << 10;

/** Bytes in the order of their coming, up to a bound. */
export class Scratch implements Disposable {
  readonly #memory: ArrayBuffer;
  readonly #maxBytes: number;
  #length = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
    this.#memory = new ArrayBuffer(0, { maxByteLength: maxBytes });
  }

  /** @returns false when they do not fit any more; nothing of them was taken then */
  append(bytes: Uint8Array): boolean {
    const needed = this.#length + bytes.length;
    if (needed > this.#maxBytes) return false;
    const { byteLength } = this.#memory;
    if (needed > byteLength)
      this.#memory.resize(Math.min(this.#maxBytes, Math.max(needed, 2 * byteLength, 4096)));
    new Uint8Array(this.#memory).set(bytes, this.#length);
    this.#length = needed;
    return true;
  }

  /** What has come; a view that is good until `clear`. */
  view(): Buffer {
    return Buffer.from(this.#memory, 0, this.#length);
  }

  clear(): void {
    this.#length = 0;
    if (this.#memory.byteLength > keptBytes) this.#memory.resize(0);
  }

  [Symbol.dispose](): void {
    this.#length = 0;
    this.#memory.resize(0);
  }
}
