// SPDX-License-Identifier: Apache-2.0
// The stub API server's answers to get, list and watch, and the JSON and Status they are sent as.
import type { ServerResponse } from "node:http";
import { setTimeout as delay } from "node:timers/promises";
import type { ApiServer } from "../api-server.ts";
import { takeFault } from "./faults.ts";
import { type KubeObject, resourceKinds, StatusError } from "./objects.ts";
import type { RequestTarget } from "./request-target.ts";
import { type Matcher, parseFieldSelector, parseLabelSelector } from "./selectors.ts";
import { WatchStream } from "./watch-stream.ts";

interface Reading {
  readonly target: RequestTarget;
  readonly response: ServerResponse;
  readonly accept: string;
}

export function sendJson(response: ServerResponse, code: number, body: object): void {
  const text = JSON.stringify(body);
  response.writeHead(code, { "content-type": "application/json", "content-length": Buffer.byteLength(text) });
  response.end(text);
}

/** Answers with the Status of a StatusError, or 500 for anything else. */
export function sendStatus(response: ServerResponse, error: unknown): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  const known = error instanceof StatusError ? error : new StatusError(500, `stub failed: ${String(error)}`);
  sendJson(response, known.status.code, known.status);
}

/** Sends one object, cut down to its metadata when asked. */
export function answerObject(
  object: KubeObject,
  options: { response: ServerResponse; accept: string },
): void {
  sendJson(options.response, 200, wantsMetadata(options.accept) ? partial(object) : object);
}

function wantsMetadata(accept: string): boolean {
  return /;\s*as=PartialObjectMetadata(List)?\b/.test(accept);
}

function partial(object: KubeObject): object {
  return { kind: "PartialObjectMetadata", apiVersion: "meta.k8s.io/v1", metadata: object.metadata };
}

function projection(server: ApiServer, accept: string): (object: KubeObject) => object {
  if (!wantsMetadata(accept)) return (object) => object;
  if (!server.faults.rejectPartialMetadata) return partial;
  if (/,\s*application\/json\s*$/.test(accept)) return (object) => object;
  throw new StatusError(406, "only the following media types are accepted: application/json");
}

function matcherOf(target: RequestTarget): Matcher {
  const byField = parseFieldSelector(target.query.get("fieldSelector") ?? "", target.resource);
  const byLabel = parseLabelSelector(target.query.get("labelSelector") ?? "");
  return (object) =>
    (target.namespace === undefined || object.metadata.namespace === target.namespace) &&
    byField(object) &&
    byLabel(object);
}

const pages = new Map<string, { rest: object[]; version: number }>();

/** Answers a list, page by page when `limit` is set. */
export async function answerList(server: ApiServer, reading: Reading): Promise<void> {
  const { target, response, accept } = reading;
  const project = projection(server, accept);
  const token = target.query.get("continue");
  const limit = Number(target.query.get("limit") ?? 0);
  refuseFutureVersion(server, target);
  let page = { rest: [] as object[], version: server.store.version };
  if (token === null) {
    page.rest = server.store.list(target.resource).filter(matcherOf(target)).map(project);
  } else {
    const stored = takeFault(server.faults, "expireContinue") ? undefined : pages.get(token);
    if (stored === undefined) throw new StatusError(410, "The provided continue parameter is too old");
    pages.delete(token);
    page = stored;
  }
  const items = limit > 0 ? page.rest.slice(0, limit) : page.rest;
  const rest = page.rest.slice(items.length);
  const metadata: Record<string, unknown> = { resourceVersion: String(page.version) };
  if (rest.length > 0) {
    const next = Buffer.from(`${page.version}/${performance.now()}/${rest.length}`).toString("base64url");
    pages.set(next, { rest, version: page.version });
    metadata.continue = next;
    metadata.remainingItemCount = rest.length;
  }
  const { kind, apiVersion } = resourceKinds[target.resource];
  const head = wantsMetadata(accept)
    ? { kind: "PartialObjectMetadataList", apiVersion: "meta.k8s.io/v1" }
    : { kind: `${kind}List`, apiVersion };
  await sendList(server, response, { ...head, metadata, items });
}

async function sendList(server: ApiServer, response: ServerResponse, list: object): Promise<void> {
  const text = JSON.stringify(list);
  if (takeFault(server.faults, "cutLists")) {
    response.writeHead(200, {
      "content-type": "application/json",
      "content-length": Buffer.byteLength(text),
    });
    response.write(text.slice(0, text.length / 2), () => response.destroy());
    return;
  }
  if (server.faults.slowListMs === 0) {
    sendJson(response, 200, list);
    return;
  }
  const pieces = 10;
  response.writeHead(200, { "content-type": "application/json" });
  for (let index = 0; index < pieces; index += 1) {
    response.write(text.slice((text.length * index) / pieces, (text.length * (index + 1)) / pieces));
    await delay(server.faults.slowListMs / pieces);
  }
  response.end();
}

/** A list of a version that was never given out: real servers wait a moment, then time out like this. A watch they take. */
function refuseFutureVersion(server: ApiServer, target: RequestTarget): void {
  if (Number(target.query.get("resourceVersion") ?? 0) <= server.store.version) return;
  throw new StatusError(504, `Too large resource version: current: ${server.store.version}`, {
    details: { causes: [{ reason: "ResourceVersionTooLarge", message: "Too large resource version" }] },
  });
}

/** Opens a watch: what happened since the asked version first, then what happens. */
export function answerWatch(server: ApiServer, reading: Reading): void {
  const { target, response, accept } = reading;
  const { faults, store } = server;
  const { query, resource } = target;
  const initial = query.get("sendInitialEvents") === "true";
  if (initial && faults.rejectSendInitialEvents) {
    throw new StatusError(
      422,
      "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
    );
  }
  const gone = new StatusError(410, `too old resource version: ${query.get("resourceVersion")}`, {
    reason: "Expired",
  });
  const forced = takeFault(faults, "goneOnWatch");
  if (forced && faults.goneAs === "status") throw gone;
  const version = Number(query.get("resourceVersion") ?? 0);
  const matches = matcherOf(target);
  const project = projection(server, accept);
  const timeoutSeconds = Number(query.get("timeoutSeconds") ?? 0) || 1800 + Math.random() * 1800;
  const bookmarks = ["1", "true"].includes(query.get("allowWatchBookmarks") ?? "");
  const watch = new WatchStream(response, {
    resource,
    matches,
    project,
    faults,
    bookmarkMs: bookmarks ? server.bookmarkMs : undefined,
    timeoutMs: timeoutSeconds * 1000,
    version: () => store.version,
    after: version,
  });
  const missed = version > 0 && !initial ? store.since(resource, version) : [];
  if (forced || missed === undefined) {
    watch.fail(gone.status);
    return;
  }
  if (version === 0 || initial) {
    for (const object of store.list(resource).filter(matches)) watch.event("ADDED", object);
    if (initial) watch.bookmark(true);
  }
  for (const change of missed) watch.change(change);
  server.watches.add(watch);
  response.on("close", () => server.watches.delete(watch));
}
