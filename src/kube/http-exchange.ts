// SPDX-License-Identifier: Apache-2.0
// One HTTP request with deadlines: until the answer begins, and for silence while it lasts.
import http from "node:http";
import https from "node:https";
import { Scratch } from "./scratch.ts";

export interface ExchangeRequest {
  readonly method: string;
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly agent: http.Agent;
  readonly auth?: string | undefined;
  readonly body?: string | undefined;
}

export interface ExchangeLimits {
  readonly signal: AbortSignal;
  /** Time until the answer's headers are there. */
  readonly headersMs: number;
  /** Longest silence in the body. */
  readonly silenceMs: number;
}

/** An answer whose headers have come; read it with `for await`, or close it. */
export interface Exchange {
  readonly status: number;
  readonly headers: http.IncomingHttpHeaders;
  /**
   * The body piece by piece; fails with TimeoutError after too long a silence, with ECONNRESET when it breaks off.
   * Leaving the loop early closes the connection.
   */
  readonly chunks: AsyncIterable<Buffer>;
}

const tcpKeepAliveMs = 15_000;

/** An error that tells which deadline passed. */
function timeoutError(message: string): Error {
  return new DOMException(message, "TimeoutError");
}

/**
 * Sends a request and waits for the answer's headers.
 * A connection from the pool that the server has closed meanwhile is replaced once. So only requests that may be
 * repeated can be sent: reads, merge patches, and creations under a fixed name.
 */
export async function openExchange(request: ExchangeRequest, limits: ExchangeLimits): Promise<Exchange> {
  try {
    return await tryExchange(request, limits);
  } catch (error) {
    if ((error as { stalePooledSocket?: boolean }).stalePooledSocket !== true) throw error;
    return await tryExchange(request, limits);
  }
}

async function tryExchange(request: ExchangeRequest, limits: ExchangeLimits): Promise<Exchange> {
  limits.signal.throwIfAborted();
  const abort = new AbortController();
  const signal = AbortSignal.any([limits.signal, abort.signal]);
  const watchdog = setTimeout(() => {
    abort.abort(timeoutError(`no answer within ${limits.headersMs} ms`));
  }, limits.headersMs);
  try {
    const response = await send(request, signal);
    const chunks = readChunks(response, { signal, abort, silenceMs: limits.silenceMs });
    return { status: response.statusCode ?? 0, headers: response.headers, chunks };
  } finally {
    clearTimeout(watchdog);
  }
}

function send(request: ExchangeRequest, signal: AbortSignal): Promise<http.IncomingMessage> {
  const { url, method, agent, auth, body } = request;
  const headers: Record<string, string | number> = { ...request.headers };
  if (body !== undefined) headers["content-length"] = Buffer.byteLength(body);
  const options = { method, agent, headers, signal, ...(auth === undefined ? {} : { auth }) };
  return new Promise((resolve, reject) => {
    const sent = (url.protocol === "https:" ? https : http).request(url, options, resolve);
    sent.on("socket", (socket) => socket.setKeepAlive(true, tcpKeepAliveMs));
    sent.on("error", (error: NodeJS.ErrnoException) => {
      const stale = sent.reusedSocket && (error.code === "ECONNRESET" || error.code === "EPIPE");
      reject(
        signal.aborted ? signal.reason : stale ? Object.assign(error, { stalePooledSocket: true }) : error,
      );
    });
    sent.end(body);
  });
}

async function* readChunks(
  response: http.IncomingMessage,
  options: { signal: AbortSignal; abort: AbortController; silenceMs: number },
): AsyncGenerator<Buffer, void, void> {
  const { signal, abort, silenceMs } = options;
  const watchdog = setTimeout(() => {
    abort.abort(timeoutError(`the connection has been silent for ${silenceMs} ms`));
  }, silenceMs);
  try {
    for await (const chunk of response) {
      watchdog.refresh();
      yield chunk as Buffer;
    }
  } catch (error) {
    throw signal.aborted ? signal.reason : error;
  } finally {
    clearTimeout(watchdog);
  }
}

/** Reads a whole body as text. @throws Error with code BAD_RESPONSE when it is longer than `maxBytes` */
export async function readText(chunks: AsyncIterable<Buffer>, maxBytes: number): Promise<string> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of chunks) {
    bytes += chunk.length;
    if (bytes > maxBytes) {
      throw Object.assign(new Error(`the answer is longer than ${maxBytes} bytes`), { code: "BAD_RESPONSE" });
    }
    parts.push(chunk);
  }
  return Buffer.concat(parts).toString();
}

/** Cuts a body into lines, each good until the next one is asked for; the last one counts only if a line break ends it. */
export async function* readLines(
  chunks: AsyncIterable<Buffer>,
  maxBytes: number,
): AsyncGenerator<Buffer, void, void> {
  using line = new Scratch(maxBytes);
  const take = (bytes: Buffer): void => {
    if (line.append(bytes)) return;
    throw Object.assign(new Error(`a line is longer than ${maxBytes} bytes`), { code: "BAD_RESPONSE" });
  };
  for await (const chunk of chunks) {
    let start = 0;
    for (let end = chunk.indexOf(0x0a); end >= 0; end = chunk.indexOf(0x0a, start)) {
      take(chunk.subarray(start, end));
      yield line.view();
      line.clear();
      start = end + 1;
    }
    take(chunk.subarray(start));
  }
}

/** An error for an answer that is not what an API server says. */
export function badJson(cause: unknown): Error {
  const why = cause instanceof Error ? cause.message : String(cause);
  return Object.assign(new Error(`the answer is not the JSON expected: ${why}`, { cause }), {
    code: "BAD_RESPONSE",
  });
}
