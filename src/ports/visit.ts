// SPDX-License-Identifier: Apache-2.0
// One connection to a limited server, from its first moment to its end, with a deadline for each part of the way.
import type { Socket } from "node:net";
import type { Clock, Timer } from "../loop/clock.ts";
import { peerOf } from "./peer.ts";
import type { Visitor } from "./places.ts";
import { type Refused, RequestBytes, type RequestLimits } from "./request-bytes.ts";

/** How long a connection may take. */
export interface VisitLimits extends RequestLimits {
  /** From the connection to its first byte. */
  readonly firstByteMs: number;
  /** From the connection to the whole request. */
  readonly requestMs: number;
  /** From the whole request until the client has taken the whole answer. */
  readonly answerMs: number;
}

interface VisitOptions {
  readonly limits: VisitLimits;
  readonly clock: Clock;
  readonly ongone: () => void;
  readonly onmaderoom: () => void;
  readonly onrequest: (bytes: Buffer) => void;
}

/** One connection, from its first moment to its end. */
export class Visit implements Visitor {
  readonly peer: string | undefined;
  readonly isOwn: boolean;
  isSilent = true;
  isWaiting = true;
  readonly #socket: Socket;
  readonly #options: VisitOptions;
  readonly #bytes: RequestBytes;
  readonly #startMs: number;
  #timer: Timer | undefined;

  constructor(socket: Socket, options: VisitOptions) {
    const { address, isOwn } = peerOf(socket);
    this.peer = address;
    this.isOwn = isOwn;
    this.#socket = socket;
    this.#options = options;
    this.#bytes = new RequestBytes(options.limits);
    this.#startMs = options.clock.nowMs();
  }

  begin(): void {
    const { limits, ongone } = this.#options;
    const socket = this.#socket;
    socket.once("close", () => {
      this.#timer?.cancel();
      ongone();
    });
    this.#cutAfter(limits.firstByteMs);
    socket.on("data", this.#take);
    socket.once("end", this.#ended);
    socket.resume();
  }

  makeRoom(): void {
    this.#options.onmaderoom();
    this.cut();
  }

  /** Leaves nothing of the connection, in the kernel neither. */
  cut(): void {
    if (this.#socket.remoteAddress === undefined) this.#socket.destroy();
    else this.#socket.resetAndDestroy();
  }

  readonly #take = (chunk: Buffer): void => {
    const { limits, clock, onrequest } = this.#options;
    if (this.isSilent) this.#cutAfter(limits.requestMs - (clock.nowMs() - this.#startMs));
    this.isSilent = false;
    const gathered = this.#bytes.take(chunk);
    if (gathered.kind === "more") return;
    this.#socket.off("data", this.#take).off("end", this.#ended).pause();
    this.isWaiting = false;
    this.#cutAfter(limits.answerMs);
    if (gathered.kind === "whole") onrequest(this.#bytes.bytes);
    else this.#refuse(gathered);
  };

  #refuse({ status, reason }: Refused): void {
    this.#socket.write(
      `HTTP/1.1 ${status} Refused\r\nContent-Type: text/plain\r\nContent-Length: ${reason.length + 1}\r\n` +
        `Connection: close\r\n\r\n${reason}\n`,
    );
    this.#socket.destroySoon();
  }

  /** Half a request is all that comes. */
  readonly #ended = (): void => this.cut();

  #cutAfter(ms: number): void {
    this.#timer?.cancel();
    this.#timer = this.#options.clock.after(ms, () => this.cut());
  }
}
