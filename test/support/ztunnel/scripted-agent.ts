// SPDX-License-Identifier: Apache-2.0
// An agent that says what a test tells it, right or wrong: to prove that the stand-in is as strict as it claims.
import { rmSync } from "node:fs";
import {
  listenSeqpacket,
  type SeqpacketConnection,
  type SeqpacketListener,
} from "../../../src/linux/seqpacket.ts";

/** Accepts stand-ins on a socket; the newest connection is the one talked to. */
export class ScriptedAgent implements Disposable {
  /** Connections accepted so far. */
  accepted = 0;
  readonly #path: string;
  readonly #listener: SeqpacketListener;
  readonly #connections: SeqpacketConnection[] = [];
  readonly #packets: string[] = [];
  #changed: () => void = () => {};

  constructor(path: string) {
    this.#path = path;
    rmSync(path, { force: true });
    this.#listener = listenSeqpacket(path, { mode: 0o600 });
    this.#listener.onconnection = (connection) => this.#accept(connection);
  }

  /** The next packet from any stand-in, as hex; the hello included. @throws Error at the deadline */
  async next(deadlineMs = 3000): Promise<string> {
    const end = performance.now() + deadlineMs;
    for (;;) {
      const packet = this.#packets.shift();
      if (packet !== undefined) return packet;
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#changed = resolve;
      const timer = setTimeout(resolve, Math.max(0, end - performance.now()));
      await promise;
      clearTimeout(timer);
      if (this.#packets.length === 0 && performance.now() >= end)
        throw new Error(`No packet within ${deadlineMs} ms`);
    }
  }

  /** Sends one packet and waits for its answer, as hex. */
  async exchange(hex: string, fd?: number): Promise<string> {
    this.send(hex, fd);
    return this.next();
  }

  send(hex: string, fd?: number): void {
    this.#connections.at(-1)?.send(Buffer.from(hex.replaceAll(" ", ""), "hex"), fd);
  }

  /** Ends the newest connection. */
  hangUp(): void {
    this.#connections.pop()?.close();
  }

  [Symbol.dispose](): void {
    for (const connection of this.#connections) connection.close();
    this.#listener.close();
    rmSync(this.#path, { force: true });
  }

  #accept(connection: SeqpacketConnection): void {
    this.accepted++;
    this.#connections.push(connection);
    connection.onpacket = (packet) => {
      this.#packets.push(Buffer.from(packet.data).toString("hex"));
      this.#changed();
    };
    connection.onend = () => connection.close();
    connection.onerror = () => {};
  }
}

/** Text of a refusal in a response given as hex; "" for the plain ack. */
export function refusalText(hex: string): string {
  const bytes = Buffer.from(hex, "hex");
  const at = bytes.indexOf("failure to ");
  return at < 0 ? "" : bytes.toString("utf8", at);
}

/** An Add as an agent sends it, without workload_info when `info` is null; all lengths stay under 128. */
export function addRequest(uid: string, info: { name?: string } | null = {}): string {
  const field = (number: number, body: Buffer) =>
    Buffer.concat([Uint8Array.of(number * 8 + 2, body.length), body]);
  const parts = [field(1, Buffer.from(uid))];
  if (info !== null) parts.push(field(2, field(1, Buffer.from(info.name ?? "pod"))));
  return field(1, Buffer.concat(parts)).toString("hex");
}
