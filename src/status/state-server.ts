// SPDX-License-Identifier: Apache-2.0
// The state API on its own Unix socket, apart from the launcher's: who looks at the agent cannot be in a pod's way.
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { publishMissingSocket, publishSocket, SocketName } from "../linux/unix-socket.ts";
import type { Logger } from "../log/logger.ts";
import type { Clock } from "../loop/clock.ts";
import { LimitedServer, type PortLimits } from "../ports/limited-server.ts";
import type { StateApi } from "./state-api.ts";

export interface StateServerOptions {
  /** File of the socket; only root may connect. */
  readonly path: string;
  readonly api: StateApi;
  readonly log: Logger;
  /** Default: {@link stateLimits}. */
  readonly limits?: PortLimits;
  readonly clock?: Clock;
}

/**
 * Only root gets as far as this, and the kernel tells no process of another pid namespace apart: there is no bound per peer.
 * Source: unix(7), SO_PEERCRED; pid_namespaces(7).
 */
export const stateLimits: PortLimits = {
  places: 64,
  perPeer: 64,
  firstByteMs: 5_000,
  requestMs: 5_000,
  answerMs: 20_000,
  maxHeadBytes: 8 * 1024,
  maxBodyBytes: 64 * 1024,
};

/** Serves the state API to processes of the node. */
export class StateServer {
  readonly #options: StateServerOptions;
  readonly #server: LimitedServer;
  readonly #name: SocketName;

  constructor(options: StateServerOptions) {
    const { path, api, log, clock, limits = stateLimits } = options;
    this.#options = options;
    this.#server = new LimitedServer({
      what: "the state socket",
      handler: (request, response) => void api.handle(request, response),
      limits,
      log,
    });
    // without it nobody could ask how the node does until the agent starts anew
    const reopen = (): Promise<void> => publishMissingSocket(this.#server.door(), path);
    this.#name = new SocketName({ path, what: "the state socket", reopen, log, clock });
  }

  /** Opens the socket; a stale one, or that of an agent that is just ending, is replaced. @throws Error (EACCES, …) */
  async listen(): Promise<void> {
    const { path } = this.#options;
    mkdirSync(dirname(path), { recursive: true });
    await publishSocket(this.#server.door(), path);
    this.#name.keep();
  }

  /** From now on the file stays away when somebody removes it; who asks already is answered. */
  async letNameGo(): Promise<void> {
    await this.#name.stop();
  }

  async close(): Promise<void> {
    await this.#name.stop();
    await this.#server.close();
  }
}
