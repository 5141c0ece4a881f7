// SPDX-License-Identifier: Apache-2.0
// What Node's HTTP parser sees of a connection: the bytes of one request, and a way for its answer.
import type { Socket } from "node:net";
import { Duplex } from "node:stream";

/**
 * Reads as one request without an end, writes to the socket, and closes it behind the answer. The socket is read no further: a client
 * that goes on sending fills its own buffers.
 */
export class Exchange extends Duplex {
  readonly #socket: Socket;
  #request: Buffer | undefined;

  constructor(socket: Socket, request: Buffer) {
    super({ allowHalfOpen: true });
    this.#socket = socket;
    this.#request = request;
    socket.once("close", () => this.destroy());
  }

  /** As the socket's, for who is told more than a stranger. */
  get remoteAddress(): string | undefined {
    return this.#socket.remoteAddress;
  }

  get localAddress(): string | undefined {
    return this.#socket.localAddress;
  }

  override _read(): void {
    const request = this.#request;
    this.#request = undefined;
    if (request !== undefined) this.push(request);
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#socket.write(chunk, done);
  }

  /** Head and body of an answer go out together. */
  override _writev(
    chunks: readonly { readonly chunk: Buffer }[],
    done: (error?: Error | null) => void,
  ): void {
    this.#socket.write(Buffer.concat(chunks.map(({ chunk }) => chunk)), done);
  }

  override _final(done: () => void): void {
    this.#socket.destroySoon();
    done();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#socket.destroy();
    done(error);
  }
}
