// SPDX-License-Identifier: Apache-2.0
// A ZDS client without any manners, for tests that look at single packets.
import { closeSync, fstatSync } from "node:fs";
import { connectSeqpacket, type Packet, type SeqpacketConnection } from "../../../src/linux/seqpacket.ts";

/** What arrived in one packet; `netns` is the identity of each descriptor, "dev:ino". */
export interface ReceivedPacket {
  readonly hex: string;
  readonly netns: readonly string[];
  readonly atMs: number;
}

/** One connection; packets are kept until asked for. */
export class RawClient implements Disposable {
  readonly packets: ReceivedPacket[] = [];
  readonly #socket: SeqpacketConnection;
  readonly #changed = new Set<() => void>();
  #read = 0;
  #endedAtMs: number | undefined;

  constructor(path: string) {
    this.#socket = connectSeqpacket(path, { maxPacketBytes: 65536, maxFds: 8 });
    this.#socket.onpacket = (packet) => this.#receive(packet);
    this.#socket.onend = () => this.#end();
    this.#socket.onerror = () => this.#end();
  }

  /** When the server closed the connection, by `performance.now`. */
  get endedAtMs(): number | undefined {
    return this.#endedAtMs;
  }

  /** Sends one packet of these bytes (hex, spaces allowed). */
  send(hex: string): void {
    this.#socket.send(Buffer.from(hex.replaceAll(" ", ""), "hex"));
  }

  sendBytes(bytes: Uint8Array): void {
    this.#socket.send(bytes);
  }

  /** Sends a packet that carries a descriptor. */
  sendFd(hex: string, fd: number): void {
    this.#socket.send(Buffer.from(hex.replaceAll(" ", ""), "hex"), fd);
  }

  /** The next packet that has not been taken yet. @throws Error at the deadline or at the end of the connection */
  async next(deadlineMs = 2000): Promise<ReceivedPacket> {
    await this.#until(() => this.packets.length > this.#read || this.#endedAtMs !== undefined, deadlineMs);
    const packet = this.packets[this.#read];
    if (packet === undefined) throw new Error("the connection ended instead of a packet");
    this.#read++;
    return packet;
  }

  /** Takes the next packet and acknowledges it. */
  async nextAcked(deadlineMs?: number): Promise<ReceivedPacket> {
    const packet = await this.next(deadlineMs);
    this.send("0a 00");
    return packet;
  }

  /** Says hello and acknowledges everything up to SnapshotSent. @returns the packets of the snapshot, with its end */
  async takeSnapshot(): Promise<ReceivedPacket[]> {
    this.send("08 01");
    const packets: ReceivedPacket[] = [];
    do packets.push(await this.nextAcked());
    while (packets.at(-1)?.hex !== "1a00");
    return packets;
  }

  /** Waits for the end of the connection. @throws Error at the deadline */
  async ended(deadlineMs = 2000): Promise<number> {
    await this.#until(() => this.#endedAtMs !== undefined, deadlineMs);
    return this.#endedAtMs as number;
  }

  /** Watches for so long; @throws Error when a packet or the end of the connection comes */
  async silence(durationMs: number): Promise<void> {
    const before = this.packets.length;
    const quiet = Symbol("quiet");
    const outcome = await this.#until(
      () => this.packets.length > before || this.#endedAtMs !== undefined,
      durationMs,
    ).catch(() => quiet);
    if (outcome === quiet) return;
    throw new Error(`Not silent: ${this.packets.at(before)?.hex ?? "the connection ended"}`);
  }

  close(): void {
    this.#socket.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async #until(condition: () => boolean, deadlineMs: number): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const look = () => {
      if (condition()) resolve();
    };
    this.#changed.add(look);
    const timer = setTimeout(() => reject(new Error(`Nothing within ${deadlineMs} ms`)), deadlineMs);
    look();
    try {
      await promise;
    } finally {
      clearTimeout(timer);
      this.#changed.delete(look);
    }
  }

  #receive(packet: Packet): void {
    const netns = packet.fds.map((fd) => {
      const { dev, ino } = fstatSync(fd, { bigint: true });
      closeSync(fd);
      return `${dev}:${ino}`;
    });
    this.packets.push({ hex: Buffer.from(packet.data).toString("hex"), netns, atMs: performance.now() });
    for (const look of this.#changed) look();
  }

  #end(): void {
    this.#endedAtMs ??= performance.now();
    for (const look of this.#changed) look();
  }
}
