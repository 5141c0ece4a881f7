// SPDX-License-Identifier: Apache-2.0
// The metrics port: what Prometheus scrapes, and nothing else: whoever reaches the node reaches it.
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Logger } from "../log/logger.ts";
import { type ClientLimits, closeServer, createLimitedServer, listenOn } from "./http-limits.ts";
import { METRICS_CONTENT_TYPE } from "./metric-maker.ts";
import type { Metrics } from "./metrics.ts";

export interface MetricsServerOptions {
  readonly metrics: Pick<Metrics, "render">;
  readonly log: Logger;
  readonly limits?: ClientLimits;
}

/** Serves `/metrics`. Source: istio-cni serves it on port 15014. */
export class MetricsServer {
  readonly #options: MetricsServerOptions;
  readonly #server: Server;

  constructor(options: MetricsServerOptions) {
    this.#options = options;
    this.#server = createLimitedServer(
      (request, response) => void this.#serve(request, response),
      options.limits,
    );
  }

  /** @param port 0 takes any free one @returns the port in use @throws Error (EADDRINUSE, …) */
  async listen(port: number): Promise<number> {
    await listenOn(this.#server, { port });
    this.#server.on("error", (error) => this.#options.log.error({ err: error }, "the metrics port failed"));
    return (this.#server.address() as AddressInfo).port;
  }

  close(): Promise<void> {
    return closeServer(this.#server);
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { metrics, log } = this.#options;
    response.on("error", () => {});
    request.resume();
    const isRead = request.method === "GET" || request.method === "HEAD";
    if (request.url?.split("?", 1)[0] !== "/metrics")
      return reply(response, 404, "this port serves /metrics; for people there is ambient-cni status\n");
    if (!isRead) return reply(response, 405, "only GET and HEAD are allowed here\n", { Allow: "GET, HEAD" });
    try {
      const text = await metrics.render();
      reply(response, 200, request.method === "HEAD" ? "" : text, { "Content-Type": METRICS_CONTENT_TYPE });
    } catch (error) {
      log.error({ err: error }, "cannot make the metrics");
      reply(response, 500, "the agent failed; its log has the details\n");
    }
  }
}

function reply(
  response: ServerResponse,
  status: number,
  text: string,
  headers: Readonly<Record<string, string>> = {},
): void {
  if (response.destroyed) return;
  response.writeHead(status, { "Content-Type": "text/plain; charset=utf-8", ...headers });
  response.end(text);
}
