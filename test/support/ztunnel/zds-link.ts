// SPDX-License-Identifier: Apache-2.0
// The stand-in's way to the agent: connects, says hello, and connects again when the connection ends.
// Source: istio/ztunnel src/inpod/workloadmanager.rs.

import { NativeError } from "../../../src/linux/native.ts";
import { connectSeqpacket, type SeqpacketConnection } from "../../../src/linux/seqpacket.ts";
import { type DialogueOptions, ZdsDialogue } from "./zds-dialogue.ts";
import { helloBytes } from "./zds-message.ts";

/** ztunnel's receive buffers: 1024 bytes of data, one descriptor. */
const receiveLimits = { maxPacketBytes: 1024, maxFds: 1 };
const firstBackoffMs = 20;
/** Long enough for the agent's first message to arrive and lie unread. */
const unreadMs = 200;

/** How the link reaches the agent. */
export interface ZdsLinkOptions extends DialogueOptions {
  readonly path: string;
  /** Longest pause between two attempts to connect; ztunnel's is 15 s. */
  readonly maxBackoffMs: number;
}

interface Connection {
  readonly socket: SeqpacketConnection;
  readonly dialogue: ZdsDialogue;
}

/** A stream of connections, one at a time, for as long as the stand-in lives. */
export class ZdsLink {
  readonly #options: ZdsLinkOptions;
  #current: Connection | undefined;
  #connections = 0;
  #earlierReadFailures = 0;
  #stopped = false;
  #backoffMs = firstBackoffMs;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: ZdsLinkOptions) {
    this.#options = options;
  }

  get connected(): boolean {
    return this.#current !== undefined;
  }

  /** Connections made so far. */
  get connections(): number {
    return this.#connections;
  }

  /** Messages refused with "failure to read message", on all connections. */
  get readFailures(): number {
    return this.#earlierReadFailures + (this.#current?.dialogue.readFailures ?? 0);
  }

  /** Connects now, and again whenever the connection ends. */
  start(): void {
    if (this.#stopped) return;
    this.#options.log.write("connecting");
    let socket: SeqpacketConnection;
    try {
      socket = connectSeqpacket(this.#options.path, receiveLimits);
    } catch (error) {
      if (!(error instanceof NativeError)) throw error;
      this.#options.log.write("connect-failed", { code: error.code, retryInMs: this.#backoffMs });
      this.#timer = setTimeout(() => this.start(), this.#backoffMs);
      this.#backoffMs = Math.min(this.#backoffMs * 2, this.#options.maxBackoffMs);
      return;
    }
    this.#backoffMs = firstBackoffMs;
    this.#adopt(socket);
  }

  /** Ends the connection, as a ztunnel that stops; no reconnect. */
  stop(): void {
    this.#stopped = true;
    this.#leave("stopped");
  }

  /** Ends the connection and makes the next one. */
  reconnect(): void {
    this.#leave("told to");
    this.start();
  }

  /** Sends raw bytes, asked for or not. */
  sendRaw(bytes: Uint8Array): void {
    if (this.#current !== undefined) this.#send(this.#current.socket, bytes);
  }

  #adopt(socket: SeqpacketConnection): void {
    const faults = this.#options.faults();
    this.#options.log.write("connect", { connection: ++this.#connections });
    const dialogue = new ZdsDialogue(this.#options, {
      send: (bytes) => this.#send(socket, bytes),
      hangUp: (why) => this.#lost(socket, why),
    });
    this.#current = { socket, dialogue };
    socket.onpacket = (packet) => dialogue.receive(packet);
    socket.onend = () => this.#lost(socket, "end of stream");
    socket.onerror = (error) => this.#lost(socket, error.code);
    if (faults.halfStart) socket.setReading(false);
    if (faults.helloDelayMs > 0) this.#timer = setTimeout(() => this.#hello(socket), faults.helloDelayMs);
    else this.#hello(socket);
  }

  #hello(socket: SeqpacketConnection): void {
    const faults = this.#options.faults();
    if (!faults.noHello) {
      const bytes = faults.badHello ?? helloBytes();
      this.#options.log.write("hello", { hex: Buffer.from(bytes).toString("hex") });
      this.#send(socket, bytes);
    }
    if (faults.closeWithUnreadData) {
      socket.setReading(false);
      this.#timer = setTimeout(() => this.#lost(socket, "closed with unread data"), unreadMs);
    } else if (faults.reconnectStorm > 0) {
      faults.reconnectStorm--;
      this.#timer = setTimeout(() => this.#lost(socket, "storm"), 0);
    }
  }

  #lost(socket: SeqpacketConnection, why: string): void {
    if (this.#current?.socket !== socket) return;
    this.#leave(why);
    // in a turn of its own: a server that closes at once must not starve everything else
    this.#timer = setTimeout(() => this.start(), 0);
  }

  #leave(why: string): void {
    clearTimeout(this.#timer);
    const connection = this.#current;
    if (connection === undefined) return;
    this.#earlierReadFailures += connection.dialogue.readFailures;
    this.#current = undefined;
    connection.socket.close();
    this.#options.log.write("close", { why });
    connection.dialogue.end();
  }

  #send(socket: SeqpacketConnection, bytes: Uint8Array): void {
    try {
      if (!socket.send(bytes)) this.#options.log.write("send-blocked", { sizeBytes: bytes.length });
    } catch (error) {
      this.#options.log.write("send-failed", { error: (error as Error).message });
    }
  }
}
