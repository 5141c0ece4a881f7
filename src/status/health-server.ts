// SPDX-License-Identifier: Apache-2.0
// `/healthz` and `/readyz` for the kubelet.
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Readiness } from "./readiness.ts";
import { readinessText } from "./readiness-text.ts";

/** Serves the probes of the agent's own pod. Source: istio-cni's DaemonSet probes port 8000. */
export class HealthServer {
  readonly #server: Server;

  constructor(readiness: Readiness) {
    this.#server = createServer((request, response) => {
      if (request.url === "/healthz") response.writeHead(200).end("ok\n");
      else if (request.url !== "/readyz")
        response.writeHead(404).end("this port serves /healthz and /readyz\n");
      else
        response
          .writeHead(readiness.reason === undefined ? 200 : 503)
          .end(readinessText(readiness, request.socket));
    });
  }

  /** @param port 0 takes any free one @returns the port in use */
  async listen(port: number): Promise<number> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#server.once("error", reject).listen(port, resolve);
    await promise;
    return (this.#server.address() as AddressInfo).port;
  }

  async close(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#server.close(() => resolve());
    this.#server.closeAllConnections();
    await promise;
  }
}
