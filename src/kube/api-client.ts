// SPDX-License-Identifier: Apache-2.0
// The few requests the agent makes to the Kubernetes API, with deadlines and errors that say what to do.

import { cutText } from "../bounds/bounded.ts";
import { bounds } from "../bounds/bounds.ts";
import { Turns } from "../loop/turns.ts";
import { ApiError, type AskedFor, errorOfStatus } from "./api-error.ts";
import { type ApiAsk, ApiRequests, type ClientLimits, type Query } from "./api-requests.ts";
import { Credentials } from "./credentials.ts";
import { badJson, readLines, readText } from "./http-exchange.ts";
import { recordOf, textOf, wordOf } from "./json-fields.ts";
import { clusterBudget, type ListBudget, ListSpending } from "./list-budget.ts";
import { ListSplitter } from "./list-splitter.ts";
import { type Fields, pickFields } from "./pick-fields.ts";

/** Every call takes a signal; without one only the client's own deadlines end it. */
export interface CallOptions {
  readonly signal?: AbortSignal;
}

export interface ReadOptions extends CallOptions {
  /** ApiAsk for metadata without spec and status; servers that cannot do it send whole objects. */
  readonly metadataOnly?: boolean | undefined;
  /** Fields that are read of each object; without them all are. */
  readonly fields?: Fields | undefined;
}

export interface ListOptions<T> extends ReadOptions {
  /** Turns each raw object into what is kept, before the next one is read; undefined drops it. */
  readonly convert: (raw: unknown) => T | undefined;
  /** Default: that of a whole cluster. */
  readonly budget?: ListBudget | undefined;
}

export interface WatchOptions extends ReadOptions {
  /** Longest silence before the connection counts as dead. */
  readonly silenceMs: number;
  /** Called when the server has accepted the watch. */
  readonly onopen?: () => void;
}

export interface ListResult<T> {
  readonly items: T[];
  readonly resourceVersion: string;
}

/** What an object must still be. Source: kubernetes apimachinery meta/v1 types.go, Preconditions. */
export interface Preconditions {
  readonly uid: string;
  readonly resourceVersion: string;
}

const pageSize = 500;

/** A list that is under way. */
type Listing<T> = ListOptions<T> & { readonly signal: AbortSignal; readonly spending: ListSpending };

/** A connection to one API server; safe for any number of calls at once. */
export class ApiClient {
  readonly #requests: ApiRequests;

  private constructor(requests: ApiRequests) {
    this.#requests = requests;
  }

  /** Loads the configuration: `kubeconfigPath`, else the pod's service account. @throws ApiError, reason "Credentials" */
  static load(
    options: { kubeconfigPath?: string | undefined; limits?: Partial<ClientLimits> } = {},
  ): ApiClient {
    return new ApiClient(new ApiRequests(Credentials.load(options), options.limits ?? {}));
  }

  /** The raw pod. @throws ApiError */
  getPod(namespace: string, name: string, options: CallOptions = {}): Promise<unknown> {
    return this.get(podPath(namespace, name), options);
  }

  /** The raw namespace. @throws ApiError */
  getNamespace(name: string, options: CallOptions = {}): Promise<unknown> {
    return this.get(`/api/v1/namespaces/${encodeURIComponent(name)}`, options);
  }

  /** Any other raw object. @throws ApiError */
  get(path: string, options: CallOptions = {}): Promise<unknown> {
    return this.#requests.json({ ...options, method: "GET", path });
  }

  /**
   * Whether the server says that it has read all that it answers from, its roles among it; any client may ask.
   * Source: Kubernetes API health endpoints; cluster role system:public-info-viewer.
   */
  async isReady({ signal }: CallOptions = {}): Promise<boolean> {
    try {
      const { chunks } = await this.#requests.read({ method: "GET", path: "/readyz", signal }, undefined);
      return (await readText(chunks, bounds.errorBody.bytes)) === "ok";
    } catch {
      return false;
    }
  }

  /** All objects of a collection, fetched in pages, read item by item and in turns. @throws ApiError */
  async list<T>(path: string, query: Query, options: ListOptions<T>): Promise<ListResult<T>> {
    using spending = new ListSpending(options.budget ?? clusterBudget);
    const signal =
      options.signal === undefined ? spending.signal : AbortSignal.any([options.signal, spending.signal]);
    const listing = { ...options, signal, spending };
    // Version "0" is answered from the server's memory in one piece, so pages would only ask for more requests.
    const paged = query.resourceVersion === undefined;
    try {
      return await this.#listPages(path, paged ? { limit: pageSize, ...query } : query, listing);
    } catch (error) {
      // The list grew old between two pages: the next try takes it in one piece.
      if (!paged || !(error instanceof ApiError) || error.status !== 410) throw error;
      return await this.#listPages(path, query, listing);
    }
  }

  /**
   * Events of a collection until the server ends the watch in order.
   *
   * @throws ApiError for ERROR events (410 among them), broken connections, too long a silence and garbled lines
   */
  async *watch(path: string, query: Query, options: WatchOptions): AsyncGenerator<WatchEvent, void, void> {
    const exchange = await this.#requests.read(
      {
        method: "GET",
        path,
        query: { ...query, watch: true },
        signal: options.signal,
        headersMs: this.#requests.watchOpenMs,
        silenceMs: options.silenceMs,
      },
      options.metadataOnly === true ? "PartialObjectMetadata" : undefined,
    );
    options.onopen?.();
    const asked = this.#requests.asked("watch", path);
    try {
      for await (const line of readLines(exchange.chunks, bounds.object.bytes)) {
        if (line.length > 0) yield parseWatchEvent(line, { asked, fields: options.fields });
      }
    } catch (error) {
      throw this.#requests.failure(asked, error, options.signal);
    }
  }

  /** Changes an object with a JSON merge patch and returns it. @throws ApiError */
  mergePatch(path: string, body: object, options: CallOptions = {}): Promise<unknown> {
    return this.#requests.json({
      ...options,
      method: "PATCH",
      path,
      body,
      contentType: "application/merge-patch+json",
    });
  }

  /** Creates an object and returns it. @throws ApiError */
  create(path: string, body: object, options: CallOptions = {}): Promise<unknown> {
    return this.#requests.json({ ...options, method: "POST", path, body, contentType: "application/json" });
  }

  /** Asks for an object's end; a Conflict (409) says that it is not, or not any more, the one that is meant. @throws ApiError */
  delete(path: string, preconditions: Preconditions, options: CallOptions = {}): Promise<unknown> {
    const body = { apiVersion: "v1", kind: "DeleteOptions", preconditions };
    return this.#requests.json({ ...options, method: "DELETE", path, body, contentType: "application/json" });
  }

  /** Closes all connections. */
  close(): void {
    this.#requests.close();
  }

  async #listPages<T>(path: string, query: Query, listing: Listing<T>): Promise<ListResult<T>> {
    const items: T[] = [];
    let next = "";
    let resourceVersion = "";
    do {
      const ask: ApiAsk = {
        method: "GET",
        path,
        query: next === "" ? query : { ...query, continue: next },
        signal: listing.signal,
      };
      const metadata = recordOf((await this.#readPage(ask, items, { listing, token: next })).metadata);
      next = textOf(metadata.continue);
      resourceVersion = wordOf(metadata.resourceVersion, bounds.resourceVersion) || resourceVersion;
    } while (next !== "");
    return { items, resourceVersion };
  }

  /** Puts what is kept of a page into `items`. @returns the page without its items. @throws ApiError */
  async #readPage<T>(
    ask: ApiAsk,
    items: T[],
    { listing, token }: { readonly listing: Listing<T>; readonly token: string },
  ): Promise<Readonly<Record<string, unknown>>> {
    const { convert, fields, spending, metadataOnly } = listing;
    try {
      spending.page(token);
      const exchange = await this.#requests.read(
        ask,
        metadataOnly === true ? "PartialObjectMetadataList" : undefined,
      );
      using splitter = new ListSplitter();
      const turns = new Turns();
      for await (const chunk of exchange.chunks) {
        spending.bytes(chunk.length);
        for (const bytes of splitter.push(chunk)) {
          // a list of things that are no objects would be taken for one without the objects that there are
          if (!beginsObject(bytes)) throw badJson(new Error("an item is no object"));
          const item = convert(
            fields === undefined ? JSON.parse(bytes.toString()) : pickFields(bytes, fields),
          );
          spending.item({ bytes: bytes.length, isKept: item !== undefined });
          if (item !== undefined) items.push(item);
          await turns.next();
        }
        await turns.next();
      }
      const page = recordOf(JSON.parse(splitter.end()));
      // what is no list would be taken for an empty one, and every pod for deleted
      if (!isList(page)) throw badJson(new Error("it is no list with a resourceVersion"));
      return page;
    } catch (error) {
      throw this.#requests.failure(
        this.#requests.asked(ask.method, ask.path),
        error instanceof SyntaxError ? badJson(error) : error,
        ask.signal,
      );
    }
  }
}

/** By its first byte that is no white space: before anything is made of the others. Source: RFC 8259, section 2. */
function beginsObject(bytes: Buffer): boolean {
  return bytes.find((byte) => byte !== 0x20 && (byte < 0x09 || byte > 0x0d)) === 0x7b;
}

/** @param page without its items, which have been taken out already */
function isList({ kind, items, metadata }: Readonly<Record<string, unknown>>): boolean {
  // an empty list of Go's may be null; items under a name that is written in another way have not been taken
  const hasItems = items === null || items === undefined || (Array.isArray(items) && items.length === 0);
  return (
    textOf(kind).endsWith("List") &&
    hasItems &&
    wordOf(recordOf(metadata).resourceVersion, bounds.resourceVersion) !== ""
  );
}

/** The URL path of a pod, or of one of its subresources. */
export function podPath(namespace: string, name: string, subresource?: string): string {
  const pod = `/api/v1/namespaces/${encodeURIComponent(namespace)}/pods/${encodeURIComponent(name)}`;
  return subresource === undefined ? pod : `${pod}/${subresource}`;
}

/** One event of a watch; BOOKMARK objects carry only a resourceVersion. */
export interface WatchEvent {
  readonly type: "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK";
  readonly object: unknown;
}

/** What a Status says, in the place of an object. */
const statusFields: Fields = { kind: true, code: true, reason: true, message: true, details: true };

/** Reads one line, and of its object these fields. @throws ApiError for ERROR events, Error with code BAD_RESPONSE for what is no event */
export function parseWatchEvent(
  line: Buffer,
  { asked, fields }: { readonly asked: AskedFor; readonly fields: Fields | undefined },
): WatchEvent {
  const { type, object } = parseLine(line, fields === undefined ? true : { ...fields, ...statusFields });
  switch (type) {
    case "ADDED":
    case "MODIFIED":
    case "DELETED":
    case "BOOKMARK":
      return { type, object };
    case "ERROR":
      throw errorOfStatus(asked, object);
    default:
      throw badJson(
        new Error(`unknown event type ${cutText(JSON.stringify(type) ?? "", bounds.errorCauses)}`),
      );
  }
}

function parseLine(line: Buffer, object: true | Fields): Readonly<Record<string, unknown>> {
  try {
    return recordOf(object === true ? JSON.parse(line.toString()) : pickFields(line, { type: true, object }));
  } catch (error) {
    throw badJson(error);
  }
}
