// SPDX-License-Identifier: Apache-2.0
// A stand-in for the agent: a Unix socket whose every byte the test decides.
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";

/** A request as it came: the head up to and with its blank line, and the body. */
export interface RawRequest {
  readonly head: string;
  readonly headers: ReadonlyMap<string, string>;
  readonly body: Buffer;
}

/** What to do with a request; the socket is the test's to write to and to end. */
export type Reply = (socket: Socket, request: RawRequest) => void;

/** A complete answer of status 200. */
export function answer(body: string | Uint8Array, exit = 0): Buffer {
  const bytes = Buffer.from(body);
  return Buffer.concat([
    Buffer.from(`HTTP/1.1 200 OK\r\nCNI-Exit: ${exit}\r\nContent-Length: ${bytes.length}\r\n\r\n`),
    bytes,
  ]);
}

/** The same in chunks of `size`. */
export function chunkedAnswer(body: Uint8Array, size: number): Buffer {
  const parts = [
    Buffer.from("HTTP/1.1 200 OK\r\nCNI-Exit: 0\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"),
  ];
  for (let at = 0; at < body.length; at += size) {
    const chunk = body.subarray(at, at + size);
    parts.push(Buffer.from(`${chunk.length.toString(16)}\r\n`), Buffer.from(chunk), Buffer.from("\r\n"));
  }
  return Buffer.concat([...parts, Buffer.from("0\r\n\r\n")]);
}

/** Parses a request once it is complete; null until then. */
function parseRequest(bytes: Buffer): RawRequest | null {
  const end = bytes.indexOf("\r\n\r\n");
  if (end < 0) return null;
  const head = bytes.subarray(0, end + 4).toString("latin1");
  const headers = new Map<string, string>();
  for (const line of head.split("\r\n").slice(1, -2)) {
    const colon = line.indexOf(": ");
    headers.set(line.slice(0, colon), line.slice(colon + 2));
  }
  const body = bytes.subarray(end + 4);
  return body.length < Number(headers.get("Content-Length")) ? null : { head, headers, body };
}

/** The socket in a run directory, with the requests that came. */
export class StandInAgent implements AsyncDisposable {
  readonly requests: RawRequest[] = [];
  connections = 0;
  reply: Reply;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(reply: Reply, onConnection?: (socket: Socket) => void) {
    this.reply = reply;
    this.#server = createServer({ allowHalfOpen: true }, (socket) => {
      this.connections++;
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
      socket.on("error", () => undefined);
      if (onConnection) onConnection(socket);
      else this.#serve(socket);
    });
  }

  /** Listens in `runDir`. With `onConnection` nothing is read for the test. */
  static async listen(
    runDir: string,
    reply: Reply,
    onConnection?: (socket: Socket) => void,
  ): Promise<StandInAgent> {
    const agent = new StandInAgent(reply, onConnection);
    await new Promise<void>((resolve, reject) => {
      agent.#server.on("error", reject);
      agent.#server.listen({ path: join(runDir, "pluginevent.sock"), backlog: 511 }, resolve);
    });
    return agent;
  }

  #serve(socket: Socket): void {
    let received = Buffer.alloc(0);
    socket.on("data", (part) => {
      received = Buffer.concat([received, part as Buffer]);
      const request = parseRequest(received);
      if (request === null) return;
      this.requests.push(request);
      this.reply(socket, request);
    });
    // A launcher that says it is done sending has lost its answer with Node's own server.
    socket.on("end", () => socket.destroy());
  }

  /** Stops listening and cuts every connection. */
  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** Answers each request with `bytes` and leaves the connection open, as the launcher must not wait for its end. */
export function sends(bytes: string | Uint8Array): Reply {
  return (socket) => void socket.write(bytes);
}

/** Answers with `bytes` and ends the connection. */
export function sendsAndEnds(bytes: string | Uint8Array): Reply {
  return (socket) => void socket.end(bytes);
}
