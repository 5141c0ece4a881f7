// SPDX-License-Identifier: Apache-2.0
// `/healthz` and `/readyz` for the kubelet.
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Logger } from "../log/logger.ts";
import { LimitedServer, type PortLimits } from "../ports/limited-server.ts";
import type { Readiness } from "./readiness.ts";
import { readinessText } from "./readiness-text.ts";

export interface HealthServerOptions {
  readonly readiness: Pick<Readiness, "reason" | "conditions">;
  readonly log: Logger;
}

/** Half of the places are the node's own: whoever else asks, the kubelet is answered. */
const limits: PortLimits = {
  places: 64,
  ownPlaces: 32,
  perPeer: 8,
  firstByteMs: 2_000,
  requestMs: 5_000,
  answerMs: 10_000,
  maxHeadBytes: 8 * 1024,
  maxBodyBytes: 0,
};

/** Serves the probes of the agent's own pod. Source: istio-cni's DaemonSet probes port 8000. */
export class HealthServer {
  readonly #readiness: HealthServerOptions["readiness"];
  readonly #server: LimitedServer;

  constructor({ readiness, log }: HealthServerOptions) {
    this.#readiness = readiness;
    const handler = (request: IncomingMessage, response: ServerResponse) => this.#serve(request, response);
    this.#server = new LimitedServer({ what: "the health port", handler, limits, log });
  }

  /** @param port 0 takes any free one @returns the port in use @throws Error (EADDRINUSE, EACCES, …) */
  listen(port: number): Promise<number> {
    return this.#server.listenOn(port);
  }

  close(): Promise<void> {
    return this.#server.close();
  }

  #serve(request: IncomingMessage, response: ServerResponse): void {
    const readiness = this.#readiness;
    response.on("error", () => {});
    if (request.url === "/healthz") response.writeHead(200).end("ok\n");
    else if (request.url !== "/readyz")
      response.writeHead(404).end("this port serves /healthz and /readyz\n");
    else {
      const text = readinessText(readiness, request.socket);
      response.writeHead(readiness.reason === undefined ? 200 : 503).end(text);
    }
  }
}
