// SPDX-License-Identifier: Apache-2.0
// The metrics port: what Prometheus scrapes, and nothing else: whoever reaches the node reaches it.
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Logger } from "../log/logger.ts";
import { LimitedServer, type PortLimits } from "../ports/limited-server.ts";
import { METRICS_CONTENT_TYPE } from "./metric-maker.ts";
import type { Metrics } from "./metrics.ts";

/** A scraper of another node is nobody's own; one on the node finds a place whoever else asks. */
const limits: PortLimits = {
  places: 64,
  ownPlaces: 16,
  perPeer: 8,
  firstByteMs: 2_000,
  requestMs: 5_000,
  answerMs: 20_000,
  maxHeadBytes: 8 * 1024,
  // nothing here takes one; who sends one is told what is served
  maxBodyBytes: 16 * 1024,
};

interface Served {
  readonly metrics: Pick<Metrics, "render">;
  readonly log: Logger;
}

/** Serves `/metrics`. Source: istio-cni serves it on port 15014. */
export function metricsServer(served: Served): LimitedServer {
  const handler = (request: IncomingMessage, response: ServerResponse) =>
    void serve(request, response, served);
  return new LimitedServer({ what: "the metrics port", handler, limits, log: served.log });
}

async function serve(
  request: IncomingMessage,
  response: ServerResponse,
  { metrics, log }: Served,
): Promise<void> {
  request.resume();
  const isRead = request.method === "GET" || request.method === "HEAD";
  if (request.url?.split("?", 1)[0] !== "/metrics")
    return reply(response, 404, "this port serves /metrics; for people there is ambient-cni status\n");
  if (!isRead) return reply(response, 405, "only GET and HEAD are allowed here\n", { Allow: "GET, HEAD" });
  try {
    reply(response, 200, await metrics.render(), { "Content-Type": METRICS_CONTENT_TYPE });
  } catch (error) {
    log.error({ err: error }, "cannot make the metrics");
    reply(response, 500, "the agent failed; its log has the details\n");
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
