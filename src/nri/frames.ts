// SPDX-License-Identifier: Apache-2.0
// Cuts a stream of bytes into frames of a fixed head and as long a body as the head says. Pure, no I/O.

/** What a stream is cut by. */
export interface FrameShape<Head> {
  /** What the frames are, for errors. */
  readonly what: string;
  readonly headBytes: number;
  /** Reads a head of that many bytes. @throws RangeError when there can be none such */
  readonly readHead: (head: Buffer) => Head & { readonly bodyBytes: number };
  /** More than that in a body is refused before any of it is kept. */
  readonly maxBodyBytes: number;
}

/** One frame. */
export interface Frame<Head> {
  readonly head: Head;
  /** A view of the bytes that came in. */
  readonly body: Buffer;
}

/** Keeps what has come of a frame until the rest is there; what is kept has the bound of one frame and one piece. */
export class FrameReader<Head> {
  readonly #shape: FrameShape<Head>;
  #pieces: Buffer[] = [];
  #bytes = 0;
  /** Of the frame that has begun, once its head is there. */
  #head: (Head & { readonly bodyBytes: number }) | undefined;

  constructor(shape: FrameShape<Head>) {
    this.#shape = shape;
  }

  /** Bytes of a frame of which the rest has not come. */
  get pendingBytes(): number {
    return this.#bytes;
  }

  /** Takes the next bytes; gives the frames that they complete, one by one. @throws RangeError, and it must not be used any more */
  *push(piece: Uint8Array): Generator<Frame<Head>> {
    if (piece.length > 0) this.#pieces.push(Buffer.from(piece.buffer, piece.byteOffset, piece.length));
    this.#bytes += piece.length;
    for (;;) {
      const head = this.#head ?? this.#beginFrame();
      if (head === undefined || this.#bytes < this.#shape.headBytes + head.bodyBytes) return;
      const bytes = this.#joined();
      const end = this.#shape.headBytes + head.bodyBytes;
      this.#head = undefined;
      this.#keep(bytes.subarray(end));
      yield { head, body: bytes.subarray(this.#shape.headBytes, end) };
    }
  }

  #beginFrame(): (Head & { readonly bodyBytes: number }) | undefined {
    const { what, headBytes, readHead, maxBodyBytes } = this.#shape;
    if (this.#bytes < headBytes) return undefined;
    const bytes = this.#joined();
    this.#keep(bytes);
    const head = readHead(bytes.subarray(0, headBytes));
    if (head.bodyBytes > maxBodyBytes)
      throw new RangeError(`${what} has ${head.bodyBytes} bytes, and may have ${maxBodyBytes}`);
    this.#head = head;
    return head;
  }

  /** Joined only where that completes a head or a frame, so that each byte is copied twice at most. */
  #joined(): Buffer {
    const [only] = this.#pieces;
    return this.#pieces.length === 1 && only !== undefined ? only : Buffer.concat(this.#pieces);
  }

  #keep(bytes: Buffer): void {
    this.#pieces = bytes.length === 0 ? [] : [bytes];
    this.#bytes = bytes.length;
  }
}
