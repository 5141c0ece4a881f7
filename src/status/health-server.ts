// SPDX-License-Identifier: Apache-2.0
// `/healthz` and `/readyz` for the kubelet.
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Logger } from "../log/logger.ts";
import { LimitedServer, type PortLimits } from "../ports/limited-server.ts";
import { type Ends, peerOf } from "../ports/peer.ts";
import type { Readiness } from "./readiness.ts";

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
export function healthServer({ readiness, log }: HealthServerOptions): LimitedServer {
  const handler = (request: IncomingMessage, response: ServerResponse): void => {
    if (request.url === "/healthz") response.writeHead(200).end("ok\n");
    else if (request.url !== "/readyz")
      response.writeHead(404).end("this port serves /healthz and /readyz\n");
    else {
      const text = readinessText(readiness, request.socket);
      response.writeHead(readiness.reason === undefined ? 200 : 503).end(text);
    }
  };
  return new LimitedServer({ what: "the health port", handler, limits, log });
}

/**
 * The answer of `/readyz`. Reasons quote settings, paths, other programs and what the kernel said of pods: a stranger is told
 * how many conditions are not met, and no more.
 */
export function readinessText(
  { conditions, reason }: Pick<Readiness, "conditions" | "reason">,
  peer: Ends,
): string {
  if (reason === undefined) return "ready\n";
  // the node alone: no header could say so
  if (peerOf(peer).isOwn) return `not ready: ${reason}\n`;
  const count = conditions.filter(({ missing }) => missing !== undefined).length;
  const what = count === 1 ? "1 condition is" : `${count} conditions are`;
  return `not ready: ${what} not met; see ambient-cni status\n`;
}
