// SPDX-License-Identifier: Apache-2.0
// The HTTP server behind the plugin socket: the launcher's calls, and istio-cni's own plugin event.

import { mkdirSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { dirname } from "node:path";
import { buffer } from "node:stream/consumers";
import { bounds } from "../bounds/bounds.ts";
import { publishMissingSocket, publishSocket, SocketName } from "../linux/unix-socket.ts";
import type { Logger } from "../log/logger.ts";
import type { Clock } from "../loop/clock.ts";
import { LimitedServer, type PortLimits } from "../ports/limited-server.ts";
import { CniError, renderCniError } from "./cni-error.ts";
import { answerVersion, type CniRequest, parseCniRequest } from "./cni-request.ts";
import type { CniVerbs } from "./cni-verbs.ts";
import { parseIstioAddEvent } from "./istio-add-event.ts";

export interface PluginServerOptions {
  /** File of the socket; only root may connect. */
  readonly path: string;
  /** Decides what a call does. */
  readonly handler: Pick<CniVerbs, "handle">;
  readonly log: Logger;
  /** An event of istio-cni's plugin could not be read. */
  readonly onbadevent?: () => void;
  readonly clock?: Clock;
}

const { bytes: maxBodyBytes } = bounds.cniBody;
/**
 * More calls than a node has pods. Only root gets as far as this, each call is a process of its own, and the kernel tells no process of
 * another pid namespace apart: there is no bound per peer. Source: unix(7), SO_PEERCRED; pid_namespaces(7).
 */
export const pluginLimits: PortLimits = {
  places: 1024,
  perPeer: 1024,
  firstByteMs: 10_000,
  requestMs: 10_000,
  // more than the longest that a launcher can be told to wait: ADD has its own deadlines
  answerMs: 660_000,
  maxHeadBytes: bounds.cniHeaders.bytes,
  // a little more is told what is too much
  maxBodyBytes: maxBodyBytes + 64 * 1024,
};

/** Serves CNI calls on a Unix socket. */
export class PluginServer {
  readonly #options: PluginServerOptions;
  readonly #server: LimitedServer;
  readonly #name: SocketName;
  #isClosing = false;

  constructor(options: PluginServerOptions) {
    const { path, log, clock } = options;
    this.#options = options;
    this.#server = new LimitedServer({
      what: "the plugin socket",
      handler: (request, response) => {
        this.#serve(request, response).catch((error: unknown) => {
          log.error({ err: error }, "cannot answer a CNI call");
          response.destroy();
        });
      },
      limits: pluginLimits,
      descriptors: "all",
      log,
    });
    // a bound socket cannot get its name back
    const reopen = (): Promise<void> => publishMissingSocket(this.#server.door(), path);
    this.#name = new SocketName({ path, what: "the plugin socket", reopen, log, clock });
  }

  /** Opens the socket; a stale one, or that of an agent that is just ending, is replaced. */
  async listen(): Promise<void> {
    const { path } = this.#options;
    this.#isClosing = false;
    mkdirSync(dirname(path), { recursive: true });
    await publishSocket(this.#server.door(), path);
    this.#name.keep();
  }

  /** Stops accepting; resolves when the calls under way are answered. */
  async close(): Promise<void> {
    this.#isClosing = true;
    await this.#name.stop();
    await this.#server.finish();
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const route = `${request.method} ${request.url}`;
    if (route === "POST /cni") await this.#serveCni(request, response);
    else if (route === "POST /cmdadd") await this.#serveIstioAdd(request, response);
    else {
      response.writeHead(404, { "Content-Type": "text/plain" });
      response.end(`Cannot serve ${route}: this socket knows POST /cni and POST /cmdadd\n`);
      request.resume();
    }
  }

  async #serveCni(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const stdin = await readBody(request);
    const answer = async (): Promise<string> => {
      if (stdin === undefined)
        throw new CniError("invalidConfig", `the network configuration is larger than ${maxBodyBytes} bytes`);
      return this.#options.handler.handle(parseCniRequest({ env: cniVariables(request), stdin }));
    };
    try {
      respond(response, { status: 200, exitCode: 0, body: await answer() });
    } catch (error) {
      const cniError = this.#asCniError(error);
      // without an answer the launcher asks the next agent, and no pod is refused over an update
      if (this.#isClosing) {
        response.destroy();
        return;
      }
      respond(response, {
        status: 200,
        exitCode: 1,
        body: renderCniError(cniError, answerVersion(stdin ?? "")),
      });
    }
  }

  /** istio-cni's plugin sends its own event here, so that a node can change agents while it runs. */
  async #serveIstioAdd(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      await this.#options.handler.handle(this.#readIstioAdd(await readBody(request)));
      respond(response, { status: 200, body: "" });
    } catch (error) {
      const cniError = this.#asCniError(error);
      const badRequest = error instanceof CniError && error.code < 10;
      respond(response, { status: badRequest ? 400 : 500, body: cniError.message });
    }
  }

  #readIstioAdd(body: string | undefined): CniRequest {
    try {
      if (body === undefined)
        throw new CniError("invalidConfig", `the event is larger than ${maxBodyBytes} bytes`);
      return parseIstioAddEvent(body);
    } catch (error) {
      this.#options.onbadevent?.();
      throw error;
    }
  }

  #asCniError(error: unknown): CniError {
    if (error instanceof CniError) return error;
    this.#options.log.error({ err: error }, "a CNI call failed in an unexpected way");
    return new CniError("internal", `the agent failed: ${(error as Error).message}`);
  }
}

function cniVariables(request: IncomingMessage): Record<string, string> {
  const variables: Record<string, string> = {};
  for (const [name, value] of Object.entries(request.headers)) {
    // Node reads header bytes as latin1; the launcher sent the environment's bytes
    if (name.startsWith("cni-") && typeof value === "string") {
      variables[name.toUpperCase().replaceAll("-", "_")] = Buffer.from(value, "latin1").toString("utf8");
    }
  }
  return variables;
}

/** @returns `undefined` when the body is too large; the server takes in no more than a little more */
async function readBody(request: IncomingMessage): Promise<string | undefined> {
  const body = await buffer(request);
  return body.length > maxBodyBytes ? undefined : body.toString();
}

function respond(
  response: ServerResponse,
  answer: { status: number; exitCode?: number; body: string },
): void {
  const body = Buffer.from(answer.body, "utf8");
  const exit = answer.exitCode === undefined ? {} : { "CNI-Exit": String(answer.exitCode) };
  response.writeHead(answer.status, { ...exit, "Content-Length": body.length, Connection: "close" });
  response.end(body);
}
