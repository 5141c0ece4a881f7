// SPDX-License-Identifier: Apache-2.0
// What stands between agent and API server in the campaign, in a process of its own: faithful, until it is told to answer as no API server should.
import { once } from "node:events";
import {
  createServer as createHttpServer,
  type IncomingMessage,
  request,
  type ServerResponse,
} from "node:http";
import { createServer as createTlsServer, Server as TlsServer } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { gzipSync } from "node:zlib";
import { HostileApiServer, type ListMode } from "../support/hostile-api-server.ts";

/** How lists of pods are answered, watches of pods, or everything. */
export type ProxyMode =
  | "faithful"
  | Exclude<ListMode, "good">
  /** Lists: two million brackets; 100 MB behind 100 kB of gzip. */
  | "deep-nesting"
  | "gzip-bomb"
  /** Watches: a line without an end; lines that are no events; each ends at once, with 410. */
  | "endless-line"
  | "garbage-lines"
  | "always-gone"
  /** Everything: 500; 401; sent on to a thief; no answer. */
  | "errors"
  | "unauthorized"
  | "redirects"
  | "hangs";

const listModes: ReadonlySet<string> = new Set([
  "endless-pages",
  "empty-pages",
  "drip",
  "200-mb",
  "one-huge-object",
  "foreign",
]);

/** Since it was asked last. */
export interface ProxyTally {
  readonly requests: number;
  readonly podLists: number;
  /** What the thief was sent: method, path and credentials. */
  readonly stolen: readonly string[];
}

let upstream = new URL("http://127.0.0.1");
let mode: ProxyMode = "faithful";
let hostile: HostileApiServer | undefined;
let thiefUrl = "";
let requests = 0;
let podLists = 0;
let stolen: string[] = [];
const watches = new Set<ServerResponse>();
const lists = new Set<ServerResponse>();
const sockets = new Set<Socket>();
let tlsServer: TlsServer | undefined;

/** Starts it. @param tls key and certificate (PEM); plain HTTP without @returns its URL */
export async function start(options: {
  readonly upstream: string;
  readonly tls?: { readonly key: string; readonly cert: string };
  readonly port?: number;
}): Promise<string> {
  upstream = new URL(options.upstream);
  hostile ??= await HostileApiServer.start();
  if (thiefUrl === "") {
    const thief = createHttpServer((asked, response) => {
      stolen.push(`${asked.method} ${asked.url} ${asked.headers.authorization ?? "without credentials"}`);
      response.end("{}");
    });
    thiefUrl = `http://127.0.0.1:${await listen(thief)}`;
  }
  const server =
    options.tls === undefined ? createHttpServer(serve) : createTlsServer({ ...options.tls }, serve);
  server.keepAliveTimeout = 90_000;
  if (server instanceof TlsServer) tlsServer = server;
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
  });
  const port = await listen(server, options.port);
  return `${options.tls === undefined ? "http" : "https"}://127.0.0.1:${port}`;
}

/** Another certificate from now on; all connections are cut. */
export function useCertificate(pair: { readonly key: string; readonly cert: string }): void {
  tlsServer?.setSecureContext(pair);
  for (const socket of sockets) socket.destroy();
}

/** From now on; open watches go on. */
export function behave(next: ProxyMode): void {
  mode = next;
  // what it is asked still goes on as it began: its own good list has no pods, and would end them all
  if (hostile !== undefined && listModes.has(next)) hostile.mode = next as ListMode;
}

/** Ends the watches of pods so that nothing but a new list helps. */
export function expire(): void {
  const status = { kind: "Status", code: 410, reason: "Expired", message: "too old" };
  for (const watch of watches) watch.end(`${JSON.stringify({ type: "ERROR", object: status })}\n`);
}

/** Cuts lists of pods that are under way, and what hangs. */
export function cutLists(): void {
  for (const list of lists) list.destroy();
}

/** Cuts the watches of pods: the next ones are answered as it behaves now. */
export function cutWatches(): void {
  for (const watch of watches) watch.destroy();
}

/** Above all of the real server's, which a new list brings back. */
const floodVersion = 10_000_000;

/**
 * Puts events of so many versions of pods into the watches, 500 at once.
 * @param wanted.names how many different pods; each event has 500 bytes of annotations; a new list ends them all, see {@link expire}
 */
export async function floodEvents(wanted: {
  readonly count: number;
  readonly names: number;
  readonly nodeName: string;
}): Promise<void> {
  const pad = "x".repeat(500);
  for (let index = 0; index < wanted.count; index++) {
    const name = `flood-${index % wanted.names}`;
    const object = {
      metadata: {
        uid: `uid-${name}`,
        name,
        namespace: "evil",
        resourceVersion: String(floodVersion + index),
        annotations: { pad },
      },
      spec: { nodeName: wanted.nodeName, serviceAccountName: "default" },
      status: { phase: "Pending" },
    };
    await sendLine(JSON.stringify({ type: "MODIFIED", object }));
    // on two cores a sender without a pause is itself what slows a pod's start
    if (index % 500 === 499) await delay(50);
  }
}

/**
 * Puts so many versions of one object into the watches of pods, each with another value of an annotation, or of a label; a new list
 * ends them, see {@link expire}. Made here: the one who measures has other things to do.
 */
export async function floodVersions(wanted: {
  readonly object: object;
  readonly count: number;
  readonly pauseMs: number;
  /** Each version's value begins with as many question marks as it has predecessors. */
  readonly changed: {
    readonly kind: "annotations" | "labels";
    readonly name: string;
    readonly value: string;
  };
}): Promise<void> {
  const { kind, name, value } = wanted.changed;
  const object = structuredClone(wanted.object) as { metadata: Record<string, unknown> };
  for (let index = 0; index < wanted.count; index++) {
    const others = object.metadata[kind] as object | undefined;
    object.metadata[kind] = { ...others, [name]: `${"?".repeat(index)}${value}` };
    object.metadata.resourceVersion = String(floodVersion + index);
    await sendLine(JSON.stringify({ type: "MODIFIED", object }));
    await delay(wanted.pauseMs);
  }
}

/** Puts one line into the watches of pods. */
export async function sendLine(line: string): Promise<void> {
  for (const watch of watches) if (!watch.write(`${line}\n`)) await drained(watch);
}

/** Counts, which begin anew. */
export function tally(): ProxyTally {
  const counted = { requests, podLists, stolen };
  requests = 0;
  podLists = 0;
  stolen = [];
  return counted;
}

async function listen(server: ReturnType<typeof createHttpServer>, port = 0): Promise<number> {
  server.listen(port, "127.0.0.1");
  await once(server, "listening");
  return (server.address() as AddressInfo).port;
}

function serve(asked: IncomingMessage, response: ServerResponse): void {
  requests++;
  response.on("error", () => {});
  const url = new URL(asked.url ?? "/", upstream);
  const isPods = url.pathname === "/api/v1/pods";
  const isWatch = url.searchParams.get("watch") === "true";
  switch (mode) {
    case "hangs":
      lists.add(response);
      return;
    case "redirects":
      response.writeHead(307, { location: `${thiefUrl}${asked.url}` }).end();
      return;
    case "errors":
    case "unauthorized": {
      const code = mode === "errors" ? 500 : 401;
      response.writeHead(code, { "content-type": "application/json" });
      response.end(
        JSON.stringify({ kind: "Status", code, reason: "InternalError", message: "x".repeat(100_000) }),
      );
      return;
    }
  }
  if (isPods && isWatch) answerWatch(asked, response);
  else if (isPods) answerList(asked, response);
  else forward(asked, response, upstream);
}

function answerWatch(asked: IncomingMessage, response: ServerResponse): void {
  response.setHeader("content-type", "application/json");
  switch (mode) {
    case "endless-line":
      response.write('{"type":"ADDED","object":{"metadata":{"name":"');
      void pour(response, "a".repeat(1 << 16), 10_000);
      return;
    case "garbage-lines":
      for (const line of garbageLines) response.write(`${line}\n`);
      response.end();
      return;
    case "always-gone":
      response.end(
        `${JSON.stringify({ type: "ERROR", object: { kind: "Status", code: 410, reason: "Expired" } })}\n`,
      );
      return;
  }
  watches.add(response);
  response.on("close", () => watches.delete(response));
  forward(asked, response, upstream);
}

const garbageLines = [
  "\u00ff\u00fe{",
  "null",
  "[]",
  "{}",
  '{"type":"ADDED"}',
  '{"type":"ADDED","object":{}}',
  '{"type":"ADDED","object":{"metadata":null}}',
  '{"type":"MODIFIED","object":{"metadata":{"uid":"x"}}}',
  '{"type":7,"object":"x"}',
];

function answerList(asked: IncomingMessage, response: ServerResponse): void {
  podLists++;
  lists.add(response);
  response.on("close", () => lists.delete(response));
  response.setHeader("content-type", "application/json");
  if (mode === "deep-nesting") {
    const depth = 2_000_000;
    response.end(
      `{"kind":"PodList","metadata":{"resourceVersion":"5"},"items":[${"[".repeat(depth)}${"]".repeat(depth)}]}`,
    );
  } else if (mode === "gzip-bomb") {
    response.setHeader("content-encoding", "gzip");
    response.end(gzipSync(Buffer.alloc(100 << 20, " ")));
  } else forward(asked, response, listModes.has(mode) ? new URL(hostile?.url ?? "") : upstream);
}

function forward(asked: IncomingMessage, response: ServerResponse, to: URL): void {
  const { method, url: path, headers } = asked;
  const passed = request(
    { host: to.hostname, port: to.port, method, path, headers, agent: false },
    (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      response.flushHeaders();
      answer.on("error", () => response.destroy());
      // not pipe: lines are put between those of the other side
      answer.on("data", (chunk: Buffer) => {
        if (response.write(chunk)) return;
        answer.pause();
        void drained(response).then(() => answer.resume());
      });
      answer.on("end", () => response.end());
    },
  );
  passed.on("error", () => response.destroy());
  response.on("close", () => passed.destroy());
  asked.pipe(passed);
}

async function pour(response: ServerResponse, chunk: string, count: number): Promise<void> {
  for (let index = 0; index < count && !response.destroyed; index++)
    if (!response.write(chunk)) await drained(response);
}

/** Resolves when there is room again, or nobody reads any more. */
async function drained(response: ServerResponse): Promise<void> {
  const over = new AbortController();
  const first = ["drain", "close"].map((name) => once(response, name, { signal: over.signal }));
  await Promise.race(first)
    .catch(() => {})
    .finally(() => over.abort());
}
