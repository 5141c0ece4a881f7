// SPDX-License-Identifier: Apache-2.0
// A port that others look at us through: who has it before us keeps the agent from nothing else.
import type { Logger } from "../log/logger.ts";
import { Backoff } from "../loop/backoff.ts";
import { KeepTrue } from "../loop/keep-true.ts";
import type { LimitedServer } from "../ports/limited-server.ts";

export interface OpenPortOptions {
  readonly server: Pick<LimitedServer, "listenOn" | "close">;
  /** Undefined: none is opened. */
  readonly port: number | undefined;
  /** Setting that chooses it, for the log. */
  readonly setting: string;
  readonly log: Logger;
}

const firstRetryMs = 500;
const maxRetryMs = 10_000;

/** Opens a port, and goes on trying. Source: istio-cni logs that it cannot, and goes on without (cni/pkg/monitoring, cni/pkg/nodeagent). */
export class OpenPort {
  readonly #options: OpenPortOptions;
  readonly #tries: KeepTrue;
  #isTold = false;

  constructor(options: OpenPortOptions) {
    this.#options = options;
    this.#tries = new KeepTrue({
      work: () => this.#try(),
      backoff: new Backoff({ baseMs: firstRetryMs, capMs: maxRetryMs }),
    });
  }

  /** Resolves after the first try. */
  async start(): Promise<void> {
    if (this.#options.port !== undefined) await this.#tries.request().catch(() => {});
  }

  async stop(): Promise<void> {
    await this.#tries.stop();
    await this.#options.server.close();
  }

  async #try(): Promise<void> {
    const { server, port = 0, setting, log } = this.#options;
    try {
      await server.listenOn(port);
      if (this.#isTold) log.info({ port, setting }, "the port is open now");
    } catch (error) {
      if (!this.#isTold) log.error({ port, setting, err: error }, "cannot open a port; trying again");
      this.#isTold = true;
      throw error;
    }
  }
}
