// SPDX-License-Identifier: Apache-2.0
// The server side of the traffic: answers lines, at once or slowly, pushes lines, and takes lines that are pushed to it.
import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";

/** One note in so many is answered: the rest of the stream goes one way. */
const notesPerAnswer = 5;

/** What a client asks for: an answer of so many bytes, its first half after `afterMs`, the rest `betweenMs` later. */
export interface Ask {
  readonly id: number;
  readonly bytes: number;
  readonly afterMs: number;
  readonly betweenMs: number;
}

/** A request as a line. */
export function askLine({ id, bytes, afterMs, betweenMs }: Ask): string {
  return `ask ${id} ${bytes} ${afterMs} ${betweenMs}`;
}

/** The whole answer to a request, as a line. */
export function answerLine({ id, bytes }: Pick<Ask, "id" | "bytes">): string {
  return `answer ${id} ${"x".repeat(bytes)}`;
}

/**
 * Serves `ask`, `watch EVERY_MS` (a line `event N` again and again) and `note N` until the process ends.
 */
export class TrafficServer {
  readonly #server: Server;
  readonly #connections = new Set<Socket>();

  private constructor() {
    this.#server = createServer((socket) => this.#serve(socket));
  }

  /** Listens on both families; port 0 takes a free one. */
  static async listen(port: number): Promise<TrafficServer> {
    const server = new TrafficServer();
    server.#server.listen({ port, host: "::", backlog: 512 });
    await once(server.#server, "listening");
    return server;
  }

  get port(): number {
    const address = this.#server.address();
    return typeof address === "object" && address !== null ? address.port : 0;
  }

  /** Connections whose end this side has not heard of. */
  get openConnections(): number {
    return this.#connections.size;
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#connections) socket.destroy();
  }

  #serve(socket: Socket): void {
    this.#connections.add(socket);
    socket.setNoDelay(true);
    socket.setEncoding("latin1");
    const timers = new Set<NodeJS.Timeout>();
    let rest = "";
    socket.on("data", (text) => {
      const lines = (rest + String(text)).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) obey(line, { socket, timers });
    });
    // an error is always followed by close
    socket.on("error", () => {});
    socket.on("close", () => {
      this.#connections.delete(socket);
      for (const timer of timers) clearTimeout(timer);
    });
  }
}

function obey(line: string, { socket, timers }: { socket: Socket; timers: Set<NodeJS.Timeout> }): void {
  const [verb, ...words] = line.split(" ");
  const [first = 0, bytes = 0, afterMs = 0, betweenMs = 0] = words.map(Number);
  const later = (ms: number, action: () => void): void => {
    if (ms === 0) {
      action();
      return;
    }
    const timer = setTimeout(() => {
      timers.delete(timer);
      action();
    }, ms);
    timers.add(timer);
  };
  if (verb === "ask") {
    const answer = `${answerLine({ id: first, bytes })}\n`;
    const half = betweenMs === 0 ? answer.length : Math.floor(answer.length / 2);
    later(afterMs, () => {
      socket.write(answer.slice(0, half), "latin1");
      if (half < answer.length) later(betweenMs, () => socket.write(answer.slice(half), "latin1"));
    });
  } else if (verb === "watch") {
    let count = 0;
    timers.add(setInterval(() => socket.write(`event ${count++}\n`), first));
  } else if (verb === "note") {
    if (first % notesPerAnswer === 0) socket.write(`noted ${first}\n`);
  } else socket.destroy(new Error(`Cannot serve "${line}"`));
}
