// SPDX-License-Identifier: Apache-2.0
// The state API on its own Unix socket, apart from the launcher's: who looks at the agent cannot be in a pod's way.
import { mkdirSync } from "node:fs";
import type { Server } from "node:http";
import { dirname } from "node:path";
import { publishSocket } from "../linux/unix-socket.ts";
import type { Logger } from "../log/logger.ts";
import { type ClientLimits, closeServer, createLimitedServer } from "./http-limits.ts";
import type { StateApi } from "./state-api.ts";

export interface StateServerOptions {
  /** File of the socket; only root may connect. */
  readonly path: string;
  readonly api: StateApi;
  readonly log: Logger;
  readonly limits?: ClientLimits;
}

/** Serves the state API to processes of the node. */
export class StateServer {
  readonly #options: StateServerOptions;
  readonly #server: Server;

  constructor(options: StateServerOptions) {
    this.#options = options;
    this.#server = createLimitedServer(
      (request, response) => void options.api.handle(request, response),
      options.limits,
    );
  }

  /** Opens the socket; a stale one, or that of an agent that is just ending, is replaced. @throws Error (EACCES, …) */
  async listen(): Promise<void> {
    const { path, log } = this.#options;
    mkdirSync(dirname(path), { recursive: true });
    await publishSocket(this.#server, path);
    this.#server.on("error", (error) => log.error({ err: error }, "the state socket failed"));
  }

  close(): Promise<void> {
    return closeServer(this.#server);
  }
}
