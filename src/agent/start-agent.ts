// SPDX-License-Identifier: Apache-2.0
// How the agent comes up: it says what it was told, answers the kubelet's probes from the first moment, and tries until it works.
import type { AgentConfig } from "../config.ts";
import type { Logger, LoggerFactory } from "../log/logger.ts";
import { Backoff } from "../loop/backoff.ts";
import { KeepTrue } from "../loop/keep-true.ts";
import { healthServer } from "../status/health-server.ts";
import { OpenPort } from "../status/open-port.ts";
import { Readiness } from "../status/readiness.ts";
import { type Agent, startParts } from "./agent.ts";
import { describeFaults, makeReadiness } from "./ground.ts";
import { otherAgent } from "./other-agent.ts";
import { Standby } from "./standby.ts";

const firstRetryMs = 500;
const maxRetryMs = 10_000;
const asideMs = 1_000;

/** Resolves after the first try; what keeps the agent from its work is its readiness' to say, and never ends the process. */
export async function startAgent(config: AgentConfig, loggers: LoggerFactory): Promise<Agent> {
  logStart(config, loggers.scope("agent"));
  if (config.blockers.length > 0) return await standBy(config, loggers);
  const starting = new StartingAgent(config, loggers);
  await starting.start();
  return starting;
}

class StartingAgent implements Agent {
  readonly #config: AgentConfig;
  readonly #loggers: LoggerFactory;
  readonly #log: Logger;
  readonly #readiness: Readiness;
  readonly #health: OpenPort;
  readonly #tries: KeepTrue;
  #running: Agent | undefined;
  #asideReason: string | undefined;

  constructor(config: AgentConfig, loggers: LoggerFactory) {
    this.#config = config;
    this.#loggers = loggers;
    this.#log = loggers.scope("agent");
    this.#readiness = makeReadiness(config);
    this.#health = healthPort(config, { readiness: this.#readiness, log: this.#log });
    this.#tries = new KeepTrue({
      work: () => this.#try(),
      backoff: new Backoff({ baseMs: firstRetryMs, capMs: maxRetryMs }),
    });
  }

  get isLeaving(): boolean {
    return this.#running?.isLeaving ?? false;
  }

  async start(): Promise<void> {
    await this.#health.start();
    await this.#tries.request().catch(() => {});
  }

  async stop(): Promise<void> {
    await this.#tries.stop();
    await this.#running?.stop();
    await this.#health.stop();
  }

  async #try(): Promise<void> {
    if (await this.#standsAside()) return;
    try {
      this.#running = await startParts(this.#config, { loggers: this.#loggers, readiness: this.#readiness });
      this.#readiness.meet("start");
    } catch (error) {
      // what an operator can act on is one sentence; only a mistake of ours needs its stack
      const isOurs =
        !(error instanceof Error) || error instanceof TypeError || error instanceof ReferenceError;
      const reason = error instanceof Error ? error.message : String(error);
      this.#readiness.miss("start", reason);
      this.#log.error(isOurs ? { err: error } : { reason }, "cannot start; trying again");
      throw error;
    }
  }

  /** Touches nothing of the node while another agent serves it. */
  async #standsAside(): Promise<boolean> {
    const reason = await otherAgent(this.#config);
    if (reason === undefined) return false;
    this.#readiness.miss("start", reason);
    if (this.#asideReason !== reason) this.#log.error({ reason }, "standing aside");
    this.#asideReason = reason;
    this.#tries.requestIn(asideMs);
    return true;
  }
}

/** Up, and not ready, until somebody changes the settings, which makes a new pod. */
async function standBy(config: AgentConfig, loggers: LoggerFactory): Promise<Agent> {
  const log = loggers.scope("agent");
  const reason = describeFaults([...config.blockers, ...config.faults]);
  const health = healthPort(config, { readiness: new Readiness({ settings: reason }), log });
  await health.start();
  log.error({ reason }, "cannot work with these settings; standing by");
  const standby = new Standby({ config, reason, log });
  await standby.start();
  return {
    isLeaving: false,
    async stop() {
      await standby.stop();
      await health.stop();
    },
  };
}

function healthPort(
  { healthPort: port }: AgentConfig,
  { readiness, log }: { readonly readiness: Readiness; readonly log: Logger },
): OpenPort {
  return new OpenPort({ server: healthServer({ readiness, log }), port, setting: "HEALTH_PORT", log });
}

function logStart(config: AgentConfig, log: Logger): void {
  const { excludeNamespaces, ...rest } = config;
  log.info({ config: { ...rest, excludeNamespaces: [...excludeNamespaces] } }, "starting");
  const { ignored, warnings, notes, faults } = config;
  if (ignored.length > 0) log.info({ settings: ignored }, "settings without effect");
  for (const note of notes) log.info({}, note);
  for (const warning of warnings) log.warn({}, warning);
  if (faults.length > 0)
    log.error(
      { reason: describeFaults(faults) },
      "cannot follow these settings: not ready until they are put right",
    );
}
