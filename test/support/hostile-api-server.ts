// SPDX-License-Identifier: Apache-2.0
// An API server that answers lists of pods as no API server should, and everything else as one does.
import { once } from "node:events";
import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as delay } from "node:timers/promises";

/** How lists of pods are answered; `good` is as an API server answers them. */
export type ListMode =
  | "good"
  | "endless-pages"
  | "empty-pages"
  | "drip"
  | "200-mb"
  | "one-huge-object"
  | "foreign";

const pad = "x".repeat(3600);

/** A pod of the namespace "mesh"; those of `node-1` are the agent's own. */
export function rawPod(name: string, { nodeName = "node-1", version = 1, annotations = {} } = {}): object {
  return {
    metadata: { uid: `uid-${name}`, name, namespace: "mesh", resourceVersion: String(version), annotations },
    spec: { nodeName, serviceAccountName: "default" },
    status: { phase: "Pending" },
  };
}

/** Start with `HostileApiServer.start()`; listens on the loopback address. */
export class HostileApiServer {
  mode: ListMode = "good";
  /** The pods that a good list has. */
  pods: object[] = [];
  /** Lists of pods that were asked for, pages each. */
  lists = 0;
  readonly #server: Server;
  readonly #watches = new Set<ServerResponse>();

  private constructor() {
    this.#server = createServer((request, response) => {
      response.on("error", () => {});
      const url = new URL(request.url ?? "/", "http://localhost");
      void this.#answer(url, response).catch(() => response.destroy());
    });
  }

  static async start(port = 0): Promise<HostileApiServer> {
    const server = new HostileApiServer();
    server.#server.listen(port, "127.0.0.1");
    await once(server.#server, "listening");
    return server;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** How many watches of pods are open. */
  get watchCount(): number {
    return this.#watches.size;
  }

  /** Ends the watches of pods so that nothing but a new list helps. */
  expire(): void {
    const status = { kind: "Status", code: 410, reason: "Expired", message: "too old" };
    for (const watch of this.#watches) watch.end(`${JSON.stringify({ type: "ERROR", object: status })}\n`);
  }

  /** Sends events to the watches of pods, as fast as they are taken. */
  async send(events: Iterable<object>): Promise<void> {
    for (const watch of this.#watches) {
      for (const event of events) if (!watch.write(`${JSON.stringify(event)}\n`)) await drained(watch);
    }
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }

  async #answer(url: URL, response: ServerResponse): Promise<void> {
    response.setHeader("content-type", "application/json");
    const isPods = url.pathname === "/api/v1/pods";
    if (url.searchParams.get("watch") === "true") return this.#watch(isPods, response);
    if (url.pathname === "/api/v1/namespaces") {
      const labels = { "istio.io/dataplane-mode": "ambient" };
      const items = [{ metadata: { name: "mesh", uid: "u", resourceVersion: "1", labels } }];
      response.end(JSON.stringify({ kind: "NamespaceList", metadata: { resourceVersion: "5" }, items }));
      return;
    }
    if (!isPods) {
      response.statusCode = 404;
      response.end(JSON.stringify({ kind: "Status", code: 404, reason: "NotFound" }));
      return;
    }
    this.lists += 1;
    await this.#list(Number(url.searchParams.get("continue") ?? 0), response);
  }

  #watch(isPods: boolean, response: ServerResponse): void {
    response.flushHeaders();
    if (!isPods) return;
    this.#watches.add(response);
    response.on("close", () => this.#watches.delete(response));
  }

  async #list(page: number, response: ServerResponse): Promise<void> {
    const end = (items: readonly object[], metadata: object = {}): void => {
      response.end(
        JSON.stringify({ kind: "PodList", metadata: { resourceVersion: "5", ...metadata }, items }),
      );
    };
    const foreign = (count: number): object[] =>
      Array.from({ length: count }, (_, index) => rawPod(`${page}-${index}`, { nodeName: "other" }));
    switch (this.mode) {
      case "good":
        return end(this.pods);
      case "endless-pages":
        return end(foreign(50), { continue: String(page + 1) });
      case "empty-pages":
        return end([], { continue: String(page + 1) });
      case "drip":
        return await stream(response, '{"kind":"PodList","items":[', () => " ", {
          count: 100_000,
          pauseMs: 50,
        });
      case "200-mb": {
        const item = (index: number): string =>
          `${index === 0 ? "" : ","}${JSON.stringify(rawPod(`p${index}`, { nodeName: "other", annotations: { pad } }))}`;
        return await stream(
          response,
          '{"kind":"PodList","metadata":{"resourceVersion":"5"},"items":[',
          item,
          { count: 55_000 },
        );
      }
      case "one-huge-object":
        return await stream(response, '{"kind":"PodList","items":[{"a":"', () => pad, { count: 60_000 });
      case "foreign":
        return end(foreign(50_000));
    }
  }
}

/** Resolves when there is room again, or nobody reads any more. */
async function drained(response: ServerResponse): Promise<void> {
  const over = new AbortController();
  const first = ["drain", "close"].map((name) => once(response, name, { signal: over.signal }));
  await Promise.race(first).finally(() => over.abort());
}

/** Writes as fast as it is read, or with pauses; ends early when nobody reads any more. */
async function stream(
  response: ServerResponse,
  begin: string,
  part: (index: number) => string,
  { count, pauseMs = 0 }: { readonly count: number; readonly pauseMs?: number },
): Promise<void> {
  response.write(begin);
  for (let index = 0; index < count && !response.destroyed; index += 1) {
    if (!response.write(part(index))) await drained(response);
    if (pauseMs > 0) await delay(pauseMs);
  }
  response.end("]}");
}
