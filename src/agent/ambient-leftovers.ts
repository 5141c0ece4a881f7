// SPDX-License-Identifier: Apache-2.0
// What an earlier agent's ambient mode left on the host of a node that serves sidecars alone: taken away once no pod needs it.
import type { AgentConfig } from "../config.ts";
import type { Logger } from "../log/logger.ts";
import { Backoff } from "../loop/backoff.ts";
import type { Clock } from "../loop/clock.ts";
import { KeepTrue } from "../loop/keep-true.ts";
import type { LeftoversFacts } from "../status/agent-facts.ts";
import { cleanHost, lookAtHostRules } from "../uninstall/node-cleanup-host.ts";
import { lookAtPods } from "../uninstall/node-cleanup-pods.ts";
import { cleanupTools } from "../uninstall/node-cleanup-tools.ts";

export interface AmbientLeftoversOptions {
  readonly config: Pick<
    AgentConfig,
    "hostRoot" | "hostNetnsPath" | "probeSnatV4" | "probeSnatV6" | "reconcileIntervalMs"
  >;
  readonly log: Logger;
  readonly clock?: Clock;
}

const FIRST_RETRY_MS = 500;

/**
 * Kubelet probes of a pod that is still captured pass by the host's sets and its rule: these go last, and only what is ours, as when the
 * node is left. Nothing is done to pods: the enrolment takes them out of the mesh, for in this mode nobody is selected.
 */
export class AmbientLeftovers {
  readonly #options: AmbientLeftoversOptions;
  readonly #looks: KeepTrue;
  #found: LeftoversFacts | undefined;

  constructor(options: AmbientLeftoversOptions) {
    this.#options = options;
    const { config, clock } = options;
    this.#looks = new KeepTrue({
      work: () => this.#look(),
      longestMs: config.reconcileIntervalMs,
      backoff: new Backoff({ baseMs: FIRST_RETRY_MS, capMs: config.reconcileIntervalMs }),
      clock,
    });
  }

  /** What is still there; `undefined`: nothing, or nobody has looked yet. */
  get found(): LeftoversFacts | undefined {
    return this.#found;
  }

  /** Resolves at once. */
  start(): void {
    this.#looks.request().catch(() => {});
  }

  async stop(): Promise<void> {
    await this.#looks.stop();
  }

  async #look(): Promise<void> {
    const { config, log } = this.#options;
    const host = { ...config, tools: cleanupTools() };
    let rules: readonly string[] = [];
    try {
      rules = await lookAtHostRules(host);
      if (rules.length === 0) {
        this.#found = undefined;
        return;
      }
      const { enrolled, failed } = await lookAtPods(host);
      if (enrolled.length + failed.length > 0) {
        // what cannot be looked at may be a captured pod
        this.#say({ rules, captured: enrolled, fault: failed[0] });
        throw new StillNeeded("pods of this node are captured");
      }
      const removed = await cleanHost(host);
      this.#found = undefined;
      log.info({ removed }, "took away what ambient mode had left on the host");
    } catch (error) {
      if (!(error instanceof StillNeeded))
        this.#say({ rules, captured: [], fault: (error as Error).message });
      throw error;
    }
  }

  #say(found: LeftoversFacts): void {
    const { log } = this.#options;
    const before = this.#found;
    this.#found = found;
    const isSame = before?.fault === found.fault && before?.captured.length === found.captured.length;
    if (!isSame) log.warn({ ...found }, "what ambient mode left on the host stays for now; trying again");
  }
}

/** No fault: the next look comes soon. */
class StillNeeded extends Error {
  override readonly name = "StillNeeded";
}
