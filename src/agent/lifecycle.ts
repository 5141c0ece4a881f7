// SPDX-License-Identifier: Apache-2.0
// What starts after what, and what stops before what: one ordered list, walked both ways.
import type { Logger } from "../log/logger.ts";

/** One entry of the list. */
export interface Stage {
  /** For the log. */
  readonly name: string;
  /** A failure of it keeps the agent from starting. */
  readonly start?: () => Promise<unknown> | unknown;
  readonly stop?: () => Promise<unknown> | unknown;
}

/** Starts stages in their order, stops them in the other. */
export class Lifecycle {
  readonly #stages: readonly Stage[];
  readonly #log: Logger;

  constructor(stages: readonly Stage[], log: Logger) {
    this.#stages = stages;
    this.#log = log;
  }

  /** @throws what a stage throws; those before it are stopped then */
  async start(): Promise<void> {
    for (const [index, stage] of this.#stages.entries()) {
      try {
        await stage.start?.();
      } catch (error) {
        await this.#stop(this.#stages.slice(0, index));
        throw error;
      }
    }
  }

  /** Stops all of them; one that cannot is told of, and keeps no other from stopping. */
  async stop(): Promise<void> {
    await this.#stop(this.#stages);
  }

  async #stop(stages: readonly Stage[]): Promise<void> {
    for (const { name, stop } of stages.toReversed()) {
      try {
        await stop?.();
      } catch (error) {
        this.#log.error({ part: name, err: error }, "cannot stop a part of the agent");
      }
    }
  }
}
