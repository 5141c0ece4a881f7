// SPDX-License-Identifier: Apache-2.0
// What keeps the agent safe from clients that are slow, silent or too many.
import { createServer, type RequestListener, type Server } from "node:http";

export interface ClientLimits {
  /** Connections at a time; more are refused. Default 64. */
  readonly maxConnections?: number;
  /** A connection on which nothing moves for this long is closed, also in the middle of an answer. Default 10 s. */
  readonly idleMs?: number;
  /** For a whole request to arrive, default 5 s. */
  readonly requestMs?: number;
  /** From a request's head until the client has taken the whole answer, default 20 s. */
  readonly answerMs?: number;
}

/** A server for people and scrapers. What a client does wrong costs its own connection, never more. */
export function createLimitedServer(handler: RequestListener, limits: ClientLimits = {}): Server {
  const { maxConnections = 64, idleMs = 10_000, requestMs = 5000, answerMs = 20_000 } = limits;
  const server = createServer(
    {
      maxHeaderSize: 8 * 1024,
      requestTimeout: requestMs,
      headersTimeout: requestMs,
      keepAliveTimeout: Math.min(5000, idleMs),
      connectionsCheckingInterval: Math.min(1000, requestMs),
    },
    (request, response) => {
      // a client that keeps sending is never idle, whether or not it reads
      const timer = setTimeout(() => request.socket.destroy(), answerMs);
      response.once("close", () => clearTimeout(timer));
      handler(request, response);
    },
  );
  server.maxConnections = maxConnections;
  // a reader that takes nothing leaves the socket as idle as one that asks nothing
  server.setTimeout(idleMs, (socket) => socket.destroy());
  return server;
}

/** Listens on a path or port. @throws Error (EADDRINUSE, EACCES, …) */
export async function listenOn(
  server: Server,
  where: string | { readonly port: number; readonly host?: string },
): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("error", reject);
  server.listen(where, resolve);
  await promise;
  server.off("error", reject);
}

/** Stops; connections are cut. */
export async function closeServer(server: Server): Promise<void> {
  if (!server.listening) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  server.close(() => resolve());
  server.closeAllConnections();
  await promise;
}
