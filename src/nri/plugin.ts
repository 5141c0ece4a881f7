// SPDX-License-Identifier: Apache-2.0
// The agent as a plugin of the container runtime: connected whenever there is a socket, again after every end.
import { stat } from "node:fs/promises";
import type { Logger } from "../log/logger.ts";
import { Backoff } from "../loop/backoff.ts";
import { type Clock, systemClock } from "../loop/clock.ts";
import { unlessLate } from "../loop/deadline.ts";
import { KeepTrue } from "../loop/keep-true.ts";
import type { RuntimeGreeting } from "./messages.ts";
import { NriSession, type SandboxListener } from "./session.ts";

export interface NriPluginOptions {
  /** The runtime's socket. */
  readonly path: string;
  readonly listener: SandboxListener;
  readonly log: Logger;
  readonly clock?: Clock;
  /** Pauses after a session that ended. Default: 0.25 to 5 s. */
  readonly backoff?: Backoff;
  /** Between two looks for a socket that is not there. Default 5 s, and 30 s until it has been there. */
  readonly lookMs?: number;
}

/** Where the plugin stands; `absent`: the runtime has no such socket. */
export type NriState = "absent" | "connecting" | "connected" | "away";

/** The runtime's name for us. */
const pluginName = "ambient-cni";
/** Asked last: of what another plugin refuses we never hear, and what we captured would be left behind. */
const pluginIndex = "99";
/** The agent does not wait longer for the first word at its start: pods are found without it too. */
const firstWordMs = 3_000;
/** Between two looks for a socket that is not there: a runtime that had one is away for moments; most that had none have none at all. */
const awayMs = 5_000;
const neverSeenMs = 30_000;

/** Keeps a session with the runtime. */
export class NriPlugin {
  readonly path: string;
  readonly #options: NriPluginOptions;
  readonly #clock: Clock;
  readonly #backoff: Backoff;
  readonly #sessions: KeepTrue;
  readonly #first = Promise.withResolvers<void>();
  #state: NriState = "absent";
  #since = new Date();
  #runtime: RuntimeGreeting | undefined;
  #fault: string | undefined;
  #registrations = 0;

  constructor(options: NriPluginOptions) {
    const { path, clock = systemClock, lookMs } = options;
    this.path = path;
    this.#options = options;
    this.#clock = clock;
    this.#backoff = options.backoff ?? new Backoff({ baseMs: 250, capMs: 5_000 });
    this.#sessions = new KeepTrue({
      work: (signal) => this.#keepSession(signal),
      longestMs: () => lookMs ?? (this.#registrations === 0 ? neverSeenMs : awayMs),
      jitter: 0.2,
      backoff: this.#backoff,
      clock,
    });
  }

  get state(): NriState {
    return this.#state;
  }

  /** Of the state. */
  get since(): Date {
    return this.#since;
  }

  /** The runtime that greeted us last. */
  get runtime(): RuntimeGreeting | undefined {
    return this.#runtime;
  }

  /** Why the last session ended; `undefined` while one goes on, or there was none. */
  get fault(): string | undefined {
    return this.#state === "connected" ? undefined : this.#fault;
  }

  /** Sessions since the start. */
  get registrations(): number {
    return this.#registrations;
  }

  /** Connects; resolves with the runtime's first word of its sandboxes, without a socket at once, and after 3 s in any case. */
  async start(): Promise<void> {
    this.#sessions.request().catch(() => {});
    await unlessLate(this.#first.promise, { ms: firstWordMs, clock: this.#clock });
  }

  /** Lets the runtime go on without us. */
  async stop(): Promise<void> {
    this.#first.resolve();
    await this.#sessions.stop(new Error("the agent is stopping"));
  }

  /** One session from its beginning to its end. @throws why it ended */
  async #keepSession(signal: AbortSignal): Promise<void> {
    const { path, listener, log } = this.#options;
    if (!(await hasSocket(path))) {
      this.#become("absent");
      this.#first.resolve();
      return;
    }
    if (this.#state !== "away") this.#become("connecting");
    const session = new NriSession({
      ...{ path, listener, log, clock: this.#clock },
      plugin: { name: pluginName, index: pluginIndex },
      onready: (runtime) => this.#ready(runtime),
    });
    try {
      await session.run(signal);
    } catch (error) {
      if (!signal.aborted) this.#lost(error as Error);
      throw error;
    } finally {
      this.#first.resolve();
    }
  }

  #ready(runtime: RuntimeGreeting): void {
    this.#runtime = runtime;
    this.#registrations += 1;
    this.#backoff.reset();
    this.#become("connected");
    this.#first.resolve();
    const { name, version } = runtime;
    this.#options.log.info(
      { runtime: `${name} ${version}`, socket: this.path },
      "the runtime tells of its sandboxes (NRI)",
    );
  }

  /** Said once for each session that stood, and once for each new reason why none comes about. */
  #lost(error: Error): void {
    const { log } = this.#options;
    const isNew = this.#state === "connected" || this.#fault !== error.message;
    this.#fault = error.message;
    this.#become("away");
    const fields = { socket: this.path, reason: error.message };
    const message = "the runtime does not tell of its sandboxes any more (NRI): connecting again";
    if (isNew) log.warn(fields, message);
    else log.debug(fields, message);
  }

  #become(state: NriState): void {
    if (state === this.#state) return;
    this.#state = state;
    this.#since = new Date();
  }
}

async function hasSocket(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isSocket();
  } catch {
    return false;
  }
}
