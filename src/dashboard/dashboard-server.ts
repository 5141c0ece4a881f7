// SPDX-License-Identifier: Apache-2.0
// Serves the dashboard on the loopback address: the page, its live feed, and what is known of one pod and its rules.
import { once } from "node:events";
import {
  createServer,
  type IncomingMessage,
  type Server,
  type ServerOptions,
  type ServerResponse,
} from "node:http";
import type { AddressInfo } from "node:net";
import type { StateReader } from "../status/state-reader.ts";
import { LiveFeed } from "./live-feed.ts";
import { refusalOf } from "./loopback-guard.ts";
import type { PageKey } from "./page-key.ts";
import type { PodRules } from "./pod-rules.ts";

export interface DashboardServerOptions {
  readonly agent: StateReader;
  readonly rules: Pick<PodRules, "rules">;
  /** Who has it not is answered nothing. */
  readonly key: PageKey;
  /** See `LiveFeedOptions`. */
  readonly onfault: (fault: Error | undefined) => void;
  /** Default: the one in the bundle. */
  readonly page?: PageText;
}

/** Source: W3C Content Security Policy Level 3, Trusted Types. */
const securityHeaders = {
  "Content-Security-Policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; " +
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
  "X-Content-Type-Options": "nosniff",
  "X-Frame-Options": "DENY",
  "Referrer-Policy": "no-referrer",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cache-Control": "no-store",
} as const;

/** A connection on which nothing moves for so long is closed, also in the middle of an answer. */
const idleMs = 10_000;
/** For a whole request to arrive. */
const requestMs = 5_000;
const serverLimits: ServerOptions = {
  maxHeaderSize: 8 * 1024,
  requestTimeout: requestMs,
  headersTimeout: requestMs,
  keepAliveTimeout: 5_000,
  connectionsCheckingInterval: 1_000,
};
/** A stream ends after this long at the latest; the page comes back by itself. */
const answerMs = 3_600_000;
const podPath = /^\/api\/v1\/pods\/([a-z0-9][a-z0-9.-]{0,252})\/([a-z0-9][a-z0-9.-]{0,252})(\/rules)?$/;

/** Read-only, for browsers on this machine or behind a forwarded port. */
export class DashboardServer {
  readonly #options: DashboardServerOptions;
  readonly #server: Server;
  readonly #feed: LiveFeed;
  readonly #files: ReadonlyMap<string, { readonly type: string; readonly body: string }>;

  constructor(options: DashboardServerOptions) {
    const { agent, onfault, page = embeddedPage() } = options;
    this.#options = options;
    this.#feed = new LiveFeed({ agent, onfault });
    this.#files = new Map([
      ["/", { type: "text/html", body: page.html }],
      ["/dashboard.css", { type: "text/css", body: page.css }],
      ["/dashboard.js", { type: "text/javascript", body: page.js }],
    ]);
    this.#server = createServer(serverLimits, (request, response) => {
      // a client that keeps sending is never idle, whether or not it reads
      const timer = setTimeout(() => request.socket.destroy(), answerMs);
      response.once("close", () => clearTimeout(timer));
      this.#serve(request, response);
    });
    this.#server.maxConnections = 32;
    // a reader that takes nothing leaves the socket as idle as one that asks nothing
    this.#server.setTimeout(idleMs, (socket) => socket.destroy());
  }

  /** Pages that listen. */
  get pageCount(): number {
    return this.#feed.size;
  }

  /** @param port 0 takes any free one @returns the port in use @throws Error (EADDRINUSE, …) */
  async listen(port: number): Promise<number> {
    this.#server.listen({ host: "127.0.0.1", port });
    await once(this.#server, "listening");
    return (this.#server.address() as AddressInfo).port;
  }

  async close(): Promise<void> {
    this.#feed.close();
    if (!this.#server.listening) return;
    const closed = once(this.#server, "close");
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }

  #serve(request: IncomingMessage, response: ServerResponse): void {
    // without a listener a client that leaves in the middle would end the process
    response.on("error", () => {});
    for (const [name, value] of Object.entries(securityHeaders)) response.setHeader(name, value);
    const { agent, rules, key } = this.#options;
    const [path = ""] = (request.url ?? "").split("?", 1);
    const refusal = refusalOf(request);
    const [, ns, name, ofRules] = podPath.exec(path) ?? [];
    const file = this.#files.get(path);
    request.resume();
    if (refusal !== undefined) {
      if (refusal.status === 405) response.setHeader("Allow", "GET, HEAD");
      say(response, refusal.status, refusal.reason);
    } else if (!key.opens(request))
      say(response, 401, "open the address that ambient-cni dashboard printed, with its key");
    else if (ns !== undefined && name !== undefined) {
      const look = ofRules === undefined ? agent.pod(ns, name) : rules.rules(ns, name);
      void sendPod(response, look, `${ns}/${name}`);
    } else if (path === "/events") this.#stream(response);
    else if (file !== undefined) {
      if (path === "/") response.setHeader("Set-Cookie", key.cookie);
      reply(response, { status: 200, ...file });
    } else say(response, 404, "no such page");
  }

  #stream(response: ServerResponse): void {
    if (!this.#feed.hasRoom) {
      response.setHeader("Retry-After", "5");
      say(response, 503, "too many pages listen already: close one of them");
      return;
    }
    response.writeHead(200, { "Content-Type": "text/event-stream; charset=utf-8" });
    if (response.req.method === "HEAD") {
      response.end();
      return;
    }
    response.write("retry: 1000\n\n");
    this.#feed.add(response);
  }
}

/** What is known of a pod; why nobody can tell. */
async function sendPod(response: ServerResponse, look: Promise<unknown>, what: string): Promise<void> {
  const send = (status: number, body: unknown): void =>
    reply(response, { status, type: "application/json", body: `${JSON.stringify(body)}\n` });
  try {
    const report = await look;
    if (report === undefined) send(404, { error: `no pod "${what}" on this node` });
    else send(200, report);
  } catch (error) {
    send(503, { error: (error as Error).message });
  }
}

function say(response: ServerResponse, status: number, sentence: string): void {
  reply(response, { status, type: "text/plain", body: `${sentence}\n` });
}

/** Of an answer to HEAD Node sends the head alone. */
function reply(
  response: ServerResponse,
  answer: { readonly status: number; readonly type: string; readonly body: string },
): void {
  if (response.destroyed) return;
  response.writeHead(answer.status, {
    "Content-Type": `${answer.type}; charset=utf-8`,
    "Content-Length": Buffer.byteLength(answer.body),
  });
  response.end(answer.body);
}

/** The page's three files. */
export interface PageText {
  readonly html: string;
  readonly css: string;
  readonly js: string;
}

/** Replaced by scripts/bundle.ts. */
declare const EMBEDDED_PAGE: PageText | undefined;

/** The page of this build. */
export function embeddedPage(): PageText {
  if (typeof EMBEDDED_PAGE !== "undefined") return EMBEDDED_PAGE;
  return {
    html: "This runs from its sources and has no page in it: build it with npm run setup.\n",
    css: "",
    js: "",
  };
}
