// SPDX-License-Identifier: Apache-2.0
// One request to the Kubernetes API: credentials, deadlines, and an error that says what to do for every answer but success.
import { bounds } from "../bounds/bounds.ts";
import { ApiError, type AskedFor, errorOfAnswer, errorOfFailure } from "./api-error.ts";
import type { Credentials } from "./credentials.ts";
import { badJson, type Exchange, openExchange, readText } from "./http-exchange.ts";
import { isDistrust } from "./trust.ts";

/** Of a URL; what is undefined is left out. */
export type Query = Readonly<Record<string, string | number | boolean | undefined>>;

/** Deadlines in milliseconds. */
export interface ClientLimits {
  /** Until the headers of an answer. */
  readonly headersMs: number;
  /** Silence in the middle of an answer. */
  readonly silenceMs: number;
  /** Until a watch is accepted; some proxies hold headers back until the first event. */
  readonly watchOpenMs: number;
}

const defaultLimits: ClientLimits = { headersMs: 10_000, silenceMs: 10_000, watchOpenMs: 30_000 };
/** One request. */
export interface ApiAsk {
  readonly method: string;
  readonly path: string;
  readonly query?: Query;
  readonly accept?: string;
  readonly contentType?: string;
  readonly body?: unknown;
  readonly signal?: AbortSignal | undefined;
  readonly headersMs?: number;
  readonly silenceMs?: number;
}

/** Sends requests to one API server; safe for any number at once. */
export class ApiRequests {
  readonly #credentials: Credentials;
  readonly #limits: ClientLimits;
  #metadataRefused = false;

  constructor(credentials: Credentials, limits: Partial<ClientLimits>) {
    this.#credentials = credentials;
    this.#limits = { ...defaultLimits, ...limits };
  }

  /** How long a watch may take to be accepted. */
  get watchOpenMs(): number {
    return this.#limits.watchOpenMs;
  }

  /** Closes all connections. */
  close(): void {
    this.#credentials.close();
  }

  /** Opens a reading request, as metadata only where that is wanted and known to work. */
  async read(ask: ApiAsk, metadataKind: string | undefined): Promise<Exchange> {
    if (metadataKind === undefined || this.#metadataRefused) return await this.#open(ask);
    try {
      const accept = `application/json;as=${metadataKind};g=meta.k8s.io;v=v1,application/json`;
      return await this.#open({ ...ask, accept });
    } catch (error) {
      if (!(error instanceof ApiError) || (error.status !== 406 && error.status !== 415)) throw error;
      this.#metadataRefused = true;
      return await this.#open(ask);
    }
  }

  /** What is answered, parsed. @throws ApiError */
  async json(ask: ApiAsk): Promise<unknown> {
    const { chunks } = await this.#open(ask);
    try {
      return JSON.parse(await readText(chunks, bounds.object.bytes)) as unknown;
    } catch (error) {
      const asked = this.asked(ask.method, ask.path);
      throw this.failure(asked, error instanceof SyntaxError ? badJson(error) : error, ask.signal);
    }
  }

  /** Sends a request and throws for every answer but success; refused credentials are read again and tried once more. */
  async #open(ask: ApiAsk): Promise<Exchange> {
    const exchange = await this.#send(ask);
    if (exchange.status < 300) return exchange;
    const refused = await this.#answerError(ask, exchange);
    if (refused.status !== 401) throw refused;
    this.#credentials.refresh();
    const second = await this.#send(ask);
    if (second.status < 300) return second;
    throw await this.#answerError(ask, second);
  }

  async #answerError(ask: ApiAsk, exchange: Exchange): Promise<ApiError> {
    const asked = this.asked(ask.method, ask.path);
    try {
      const body = await readText(exchange.chunks, bounds.errorBody.bytes);
      const retryAfterSeconds = exchange.headers["retry-after"];
      return errorOfAnswer(asked, { status: exchange.status, body, retryAfterSeconds });
    } catch (error) {
      if (ask.signal?.aborted === true) throw this.failure(asked, error, ask.signal);
      return errorOfAnswer(asked, { status: exchange.status, body: `(unreadable: ${String(error)})` });
    }
  }

  async #send(ask: ApiAsk): Promise<Exchange> {
    for (let failures = 1; ; failures++) {
      try {
        return await this.#sendOnce(ask);
      } catch (error) {
        if (isDistrust(error) && this.#credentials.distrusted(failures)) continue;
        throw this.failure(this.asked(ask.method, ask.path), error, ask.signal);
      }
    }
  }

  async #sendOnce(ask: ApiAsk): Promise<Exchange> {
    const { method, path, body } = ask;
    const access = await this.#credentials.current();
    const headers: Record<string, string> = {
      ...access.headers,
      accept: ask.accept ?? "application/json",
      "user-agent": "ambient-cni",
    };
    if (ask.contentType !== undefined) headers["content-type"] = ask.contentType;
    return await openExchange(
      {
        method,
        url: this.#url(path, ask.query ?? {}),
        headers,
        agent: access.agent,
        auth: access.auth,
        body: body === undefined ? undefined : JSON.stringify(body),
      },
      {
        signal: ask.signal ?? new AbortController().signal,
        headersMs: ask.headersMs ?? this.#limits.headersMs,
        silenceMs: ask.silenceMs ?? this.#limits.silenceMs,
      },
    );
  }

  #url(path: string, query: Query): URL {
    const base = this.#credentials.server;
    const url = new URL(base.pathname.replace(/\/$/, "") + path, base);
    for (const [name, value] of Object.entries(query)) {
      if (value !== undefined) url.searchParams.set(name, String(value));
    }
    return url;
  }

  /** What an error says was asked for. */
  asked(method: string, path: string): AskedFor {
    return { method, path, server: this.#credentials.server.host };
  }

  /** What to throw: the caller's own reason when it gave up (but for deadlines), else an ApiError. */
  failure(asked: AskedFor, error: unknown, signal: AbortSignal | undefined): unknown {
    const failure = errorOfFailure(asked, error);
    // A dead connection does not say so: the others in the pool may have died with it.
    if (failure.reason === "Timeout") this.#credentials.dropIdleConnections();
    const cancelled = signal?.aborted === true && failure.reason !== "Timeout";
    return cancelled ? signal.reason : failure;
  }
}
