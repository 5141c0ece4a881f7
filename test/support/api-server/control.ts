// SPDX-License-Identifier: Apache-2.0
// Control of a stub API server that runs as its own process: switches, log and shortcuts below `/stub/`.
import type { ServerResponse } from "node:http";
import { setTimeout as delay } from "node:timers/promises";
import type { ApiServer } from "../api-server.ts";
import { isResourceName, type KubeObject, StatusError } from "./objects.ts";
import { sendJson } from "./reading.ts";

/**
 * Answers one control request; none of them is touched by faults or tokens.
 *
 *     GET   /stub/requests             the request log
 *     GET   /stub/faults               the switches
 *     PATCH /stub/faults               sets the switches named in the body
 *     POST  /stub/objects/<resource>   creates or replaces the objects in the body (a list or one)
 *     POST  /stub/drop-watches         breaks all watches; /stub/end-watches ends them in order
 *     POST  /stub/compact              forgets history, so that resuming watches get 410
 *     POST  /stub/refuse?ms=N          refuses connections for N milliseconds
 */
export async function handleControl(
  server: ApiServer,
  request: { method: string; url: URL; body: unknown; response: ServerResponse },
): Promise<void> {
  const { response, body, url } = request;
  const [action, argument = ""] = url.pathname.split("/").slice(2);
  switch (`${request.method} ${action}`) {
    case "GET requests":
      sendJson(response, 200, server.requests);
      return;
    case "PATCH faults":
      Object.assign(server.faults, body);
      sendJson(response, 200, server.faults);
      return;
    case "GET faults":
      sendJson(response, 200, server.faults);
      return;
    case "POST objects":
      sendJson(response, 200, putAll(server, argument, body));
      return;
    case "POST drop-watches":
      server.dropWatches();
      break;
    case "POST end-watches":
      server.endWatches();
      break;
    case "POST compact":
      server.store.compact();
      break;
    case "POST refuse":
      sendJson(response, 200, {});
      await delay(10);
      await server.refuse();
      await delay(Number(url.searchParams.get("ms") ?? 1000));
      await server.listenAgain();
      return;
    default:
      throw new StatusError(404, `no such control: ${request.method} ${url.pathname}`);
  }
  sendJson(response, 200, {});
}

function putAll(server: ApiServer, resource: string, body: unknown): KubeObject[] {
  if (!isResourceName(resource)) throw new StatusError(404, `no such resource: ${resource}`);
  const objects = (Array.isArray(body) ? body : [body]) as KubeObject[];
  return objects.map((object) => server.put(resource, object));
}
