// SPDX-License-Identifier: Apache-2.0
// A stub Kubernetes API server over real sockets: list, watch and patch as the real one does them, plus its bad days.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { handleControl } from "./api-server/control.ts";
import { type Faults, failureError, noFaults, takeFailure } from "./api-server/faults.ts";
import { kubeconfigText } from "./api-server/kubeconfig.ts";
import { ObjectStore } from "./api-server/object-store.ts";
import { type KubeObject, type ResourceName, StatusError } from "./api-server/objects.ts";
import { answerList, answerObject, answerWatch, sendJson, sendStatus } from "./api-server/reading.ts";
import { parseRequestTarget, type RequestTarget } from "./api-server/request-target.ts";
import type { WatchStream } from "./api-server/watch-stream.ts";
import { applyWrite } from "./api-server/writing.ts";

export interface ApiServerOptions {
  readonly host?: string;
  readonly port?: number;
  /** Key and certificate in PEM; without them the server speaks plain HTTP. */
  readonly tls?: { readonly key: string; readonly cert: string };
  /** Bearer tokens that are let in; without the list everybody is. */
  readonly tokens?: readonly string[];
  /** Writes kept for watches to resume from; older versions are answered with 410. */
  readonly historyLimit?: number;
  /** Time between bookmarks of a watch that asked for them (real servers: about a minute). */
  readonly bookmarkMs?: number;
}

/** One request as it arrived; `atMs` is on the clock of `performance.now()`. */
export interface LoggedRequest {
  readonly atMs: number;
  readonly method: string;
  readonly path: string;
  readonly query: Readonly<Record<string, string>>;
  readonly verb: string;
  readonly resource: string;
  readonly namespace: string | undefined;
  readonly name: string | undefined;
  readonly subresource: string | undefined;
  readonly authorization: string | undefined;
  readonly accept: string | undefined;
  /** Number of the TCP connection it came on, to see reuse. */
  readonly connection: number;
  readonly body: unknown;
  /** HTTP status answered; 0 while there is none. */
  status: number;
}

const maxLoggedRequests = 20_000;

/** The stub server; start one with `ApiServer.start()`. */
export class ApiServer {
  readonly store: ObjectStore;
  /** Switches; set their fields at any time. */
  readonly faults: Faults = noFaults();
  /** All requests so far, oldest first. */
  readonly requests: LoggedRequest[] = [];
  readonly watches = new Set<WatchStream>();
  readonly bookmarkMs: number;
  tokens: readonly string[] | undefined;
  readonly #connections = new Map<Socket, number>();
  readonly #host: string;
  readonly #tls: ApiServerOptions["tls"];
  #server: Server;
  #port: number;
  #connectionCount = 0;

  private constructor(options: ApiServerOptions) {
    this.store = new ObjectStore(
      options.historyLimit === undefined ? {} : { historyLimit: options.historyLimit },
    );
    this.tokens = options.tokens;
    this.bookmarkMs = options.bookmarkMs ?? 60_000;
    this.#host = options.host ?? "127.0.0.1";
    this.#port = options.port ?? 0;
    this.#tls = options.tls;
    this.#server = this.#createServer();
    this.store.subscribe((change) => {
      for (const watch of this.watches) watch.change(change);
    });
  }

  /** Starts listening; port 0 (the default) takes a free one. */
  static async start(options: ApiServerOptions = {}): Promise<ApiServer> {
    const server = new ApiServer(options);
    await server.#listen();
    return server;
  }

  get url(): string {
    const host = this.#host.includes(":") ? `[${this.#host}]` : this.#host;
    return `${this.#tls === undefined ? "http" : "https"}://${host}:${this.#port}`;
  }

  /** The text of a kubeconfig for this server; see `writeKubeconfig` for a file. */
  kubeconfig(credentials: { token?: string; tokenFile?: string } = {}): string {
    return kubeconfigText(this.url, credentials);
  }

  /** Creates or replaces objects, bypassing faults and checks. */
  put(resource: ResourceName, object: KubeObject): KubeObject {
    return this.store.put(resource, object);
  }

  /** Changes an object in place: the callback gets a copy to edit. */
  edit(
    resource: ResourceName,
    ref: { name: string; namespace?: string },
    change: (object: KubeObject) => void,
  ): KubeObject {
    const copy = structuredClone(this.store.get(resource, ref.name, ref.namespace));
    change(copy);
    return this.store.update(resource, copy);
  }

  /** Removes an object at once, without a grace period. */
  delete(resource: ResourceName, name: string, namespace?: string): void {
    this.store.delete(resource, name, namespace);
  }

  /** The logged requests of one verb and resource. */
  requestsOf(verb: string, resource: ResourceName): LoggedRequest[] {
    return this.requests.filter((request) => request.verb === verb && request.resource === resource);
  }

  /** Breaks the connections of all open watches. */
  dropWatches(): void {
    for (const watch of this.watches) watch.drop();
  }

  /** Ends all open watches in order, as their timeout does. */
  endWatches(): void {
    for (const watch of this.watches) watch.end();
  }

  /** Refuses connections (and breaks the open ones) until `listenAgain`. */
  async refuse(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const socket of this.#connections.keys()) socket.destroy();
    await closed;
  }

  /** Listens again on the same port. */
  async listenAgain(): Promise<void> {
    this.#server = this.#createServer();
    await this.#listen();
  }

  async stop(): Promise<void> {
    this.faults.hang = false;
    await this.refuse();
  }

  #createServer(): Server {
    const handle = (request: IncomingMessage, response: ServerResponse) => {
      this.#handle(request, response).catch((error: unknown) => sendStatus(response, error));
    };
    const server = this.#tls === undefined ? createServer(handle) : createTlsServer(this.#tls, handle);
    server.keepAliveTimeout = 90_000;
    server.on(this.#tls === undefined ? "connection" : "secureConnection", (socket: Socket) => {
      this.#connectionCount += 1;
      this.#connections.set(socket, this.#connectionCount);
      socket.on("error", () => socket.destroy());
      socket.on("close", () => this.#connections.delete(socket));
    });
    return server;
  }

  async #listen(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen(this.#port, this.#host, resolve);
    });
    this.#port = (this.#server.address() as AddressInfo).port;
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? "/", this.url);
    const body = await readJson(request);
    if (url.pathname.startsWith("/stub/")) {
      await handleControl(this, { method: request.method ?? "GET", url, body, response });
      return;
    }
    if (["/healthz", "/livez", "/readyz"].includes(url.pathname)) {
      if (this.faults.hang) return;
      if (url.pathname === "/readyz" && this.faults.unready !== undefined)
        throw new StatusError(this.faults.unready, "stub: not ready");
      response.end("ok");
      return;
    }
    if (url.pathname === "/version") {
      sendJson(response, 200, { major: "1", minor: "34", gitVersion: "v1.34.0-stub" });
      return;
    }
    const target = this.#targetOf(request, url);
    this.#log(request, response, { target, url, body });
    if (this.faults.hang) return;
    this.#authorize(request);
    const failure = takeFailure(this.faults, target);
    if (failure !== undefined) {
      if (failure.retryAfterSeconds !== undefined)
        response.setHeader("retry-after", failure.retryAfterSeconds);
      if (failure.text !== undefined) {
        response.writeHead(failure.status, { "content-type": "text/plain" }).end(failure.text);
        return;
      }
      throw failureError(failure, target.verb, target.resource);
    }
    await this.#answer(target, { request, response, body });
  }

  async #answer(
    target: RequestTarget,
    exchange: { request: IncomingMessage; response: ServerResponse; body: unknown },
  ): Promise<void> {
    const { request, response, body } = exchange;
    const accept = request.headers.accept ?? "";
    switch (target.verb) {
      case "watch":
        answerWatch(this, { target, response, accept });
        return;
      case "list":
        await answerList(this, { target, response, accept });
        return;
      case "get":
        answerObject(this.store.get(target.resource, target.name ?? "", target.namespace), {
          response,
          accept,
        });
        return;
      default: {
        const contentType = request.headers["content-type"] ?? "";
        const written = applyWrite(this.store, target, { contentType, body });
        sendJson(response, target.verb === "create" ? 201 : 200, written);
      }
    }
  }

  /** A stranger does not learn which paths there are. */
  #targetOf(request: IncomingMessage, url: URL): RequestTarget {
    try {
      return parseRequestTarget(request.method ?? "GET", url);
    } catch (error) {
      this.#authorize(request);
      throw error;
    }
  }

  #authorize(request: IncomingMessage): void {
    if (this.tokens === undefined) return;
    const token = /^Bearer (.*)$/.exec(request.headers.authorization ?? "")?.[1];
    if (token === undefined || !this.tokens.includes(token)) throw new StatusError(401, "Unauthorized");
  }

  #log(
    request: IncomingMessage,
    response: ServerResponse,
    details: { target: RequestTarget; url: URL; body: unknown },
  ): void {
    const { verb, resource, namespace, name, subresource, query } = details.target;
    const entry: LoggedRequest = {
      atMs: performance.now(),
      method: request.method ?? "",
      path: details.url.pathname,
      query: Object.fromEntries(query),
      verb,
      resource,
      namespace,
      name,
      subresource,
      authorization: request.headers.authorization,
      accept: request.headers.accept,
      connection: this.#connections.get(request.socket) ?? 0,
      body: details.body,
      status: 0,
    };
    const writeHead = response.writeHead.bind(response) as (...args: unknown[]) => ServerResponse;
    response.writeHead = ((...args: unknown[]) => {
      entry.status = args[0] as number;
      return writeHead(...args);
    }) as typeof response.writeHead;
    this.requests.push(entry);
    if (this.requests.length > maxLoggedRequests) this.requests.shift();
  }
}

async function readJson(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  if (chunks.length === 0) return undefined;
  try {
    return JSON.parse(Buffer.concat(chunks).toString()) as unknown;
  } catch (error) {
    throw new StatusError(400, `the body is not JSON: ${(error as Error).message}`);
  }
}

/** Waits until a condition holds. @throws Error naming `what` when it does not within the deadline. */
export async function waitFor(what: string, condition: () => boolean, deadlineMs = 5000): Promise<void> {
  const end = performance.now() + deadlineMs;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`Waited ${deadlineMs} ms in vain: ${what}`);
    await delay(5);
  }
}
