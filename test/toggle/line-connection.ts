// SPDX-License-Identifier: Apache-2.0
// A client's TCP connection that carries lines and knows exactly how it ended: the difference between a request that may
// be repeated, one that is lost, and one that nobody ever answers.
import { connect, type Socket } from "node:net";

/**
 * How a connection ended: `fin` between two lines, `cut` within one, `silent` when nothing came in time, `closed` by
 * ourselves, the rest as the kernel says.
 */
export type EndKind = "refused" | "reset" | "fin" | "cut" | "silent" | "closed" | "other";

/** The end of a {@link LineConnection}. */
export class ConnectionEnd extends Error {
  override readonly name = "ConnectionEnd";
  readonly kind: EndKind;

  constructor(kind: EndKind, message: string) {
    super(message);
    this.kind = kind;
  }
}

/** Where a connection goes. */
export interface LineTarget {
  readonly host: string;
  readonly port: number;
  /** A connection that is not there by then has been forgotten by everybody. */
  readonly timeoutMs: number;
}

/**
 * EPIPE is what a reset becomes when the peer's FIN was there first: for us the FIN counts.
 * Source: tcp(7); linux net/ipv4/tcp_input.c, tcp_reset.
 */
const kinds: Readonly<Record<string, EndKind>> = {
  ECONNREFUSED: "refused",
  ECONNRESET: "reset",
  ETIMEDOUT: "silent",
  EPIPE: "fin",
};

/** An open connection; whoever opened it closes it. */
export class LineConnection {
  readonly #socket: Socket;
  readonly #lines: string[] = [];
  #rest = "";
  #end: ConnectionEnd | undefined;
  #wake: () => void = () => {};

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding("latin1");
    socket.setNoDelay(true);
    socket.on("data", (text) => this.#take(String(text)));
    socket.on("end", () => this.#finish(this.#rest === "" ? "fin" : "cut", "the peer has closed"));
    socket.on("error", (error: NodeJS.ErrnoException) => {
      const kind = kinds[error.code ?? ""] ?? "other";
      this.#finish(kind === "fin" && this.#rest !== "" ? "cut" : kind, error.message);
    });
    socket.on("close", () => this.#finish("closed", "closed by ourselves"));
  }

  /** Connects. @throws ConnectionEnd */
  static async open({ host, port, timeoutMs }: LineTarget): Promise<LineConnection> {
    const socket = connect({ host, port });
    const connection = new LineConnection(socket);
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(
      () => connection.#finish("silent", `not open within ${timeoutMs} ms`),
      timeoutMs,
    );
    connection.#wake = resolve;
    socket.once("connect", resolve);
    await promise;
    clearTimeout(timer);
    if (connection.#end === undefined) return connection;
    socket.destroy();
    throw connection.#end;
  }

  /** Undefined while it is open. */
  get end(): ConnectionEnd | undefined {
    return this.#end;
  }

  /** Sends a line; on a connection that has ended it goes nowhere, which {@link line} tells. */
  send(line: string): void {
    if (this.#end === undefined) this.#socket.write(`${line}\n`, "latin1");
  }

  /** The next line. One reader at a time. @throws ConnectionEnd after the last one, or when none comes in time */
  async line(timeoutMs: number): Promise<string> {
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      const line = this.#lines.shift();
      if (line !== undefined) return line;
      if (this.#end !== undefined) throw this.#end;
      const leftMs = deadline - performance.now();
      if (leftMs <= 0) throw new ConnectionEnd("silent", `no answer within ${timeoutMs} ms`);
      const { promise, resolve } = Promise.withResolvers<void>();
      const timer = setTimeout(resolve, leftMs);
      this.#wake = resolve;
      await promise;
      clearTimeout(timer);
    }
  }

  close(): void {
    this.#finish("closed", "closed by ourselves");
    this.#socket.destroy();
  }

  #take(text: string): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    this.#lines.push(...lines);
    this.#wake();
  }

  /** The first end counts. */
  #finish(kind: EndKind, why: string): void {
    this.#end ??= new ConnectionEnd(kind, why);
    this.#wake();
  }
}
