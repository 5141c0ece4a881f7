// SPDX-License-Identifier: Apache-2.0
// An agent that its settings keep from working: it is up, says why it is not ready, and holds up no pod that it need not.
import { existsSync } from "node:fs";
import type { CniRequest } from "../cni/cni-request.ts";
import { PluginServer } from "../cni/plugin-server.ts";
import type { AgentConfig } from "../config.ts";
import { removeFromChain } from "../install/chain-removal.ts";
import { exemptListPath } from "../install/exempt-namespaces.ts";
import { chainFolders } from "../install/multus-chain.ts";
import type { Logger } from "../log/logger.ts";
import type { Clock } from "../loop/clock.ts";
import { KeepTrue } from "../loop/keep-true.ts";
import { UninstallCalls } from "../uninstall/uninstall-calls.ts";

export interface StandbyOptions {
  readonly config: Pick<AgentConfig, "hostRoot" | "runDir" | "pluginSocketPath" | "install" | "blockers">;
  /** In one line, for the pods that wait. */
  readonly reason: string;
  readonly log: Logger;
  /** Between looks at the chain; default 5 s. */
  readonly lookMs?: number;
  readonly clock?: Clock;
}

const defaultLookMs = 5_000;

/**
 * Pods that run, captured or not, stay as they are. Of new pods, where it can be told which are outside the mesh (an agent before
 * us has left the list), those start and the others are refused with the reason: none starts outside the mesh unseen. Where it
 * cannot, our entry is taken out of the chain and calls that still come are answered with what the chain had: a node that starts
 * no pod is worse.
 */
export class Standby {
  readonly #options: StandbyOptions;
  readonly #calls: { listen(): Promise<void>; close(): Promise<void> };
  readonly #looks: KeepTrue;
  readonly #isOpen: boolean;
  #fault = "";

  constructor(options: StandbyOptions) {
    const { config, reason, log, lookMs: longestMs = defaultLookMs, clock } = options;
    this.#options = options;
    const isListed = config.install.awayPolicy === "namespace" && existsSync(exemptListPath(config));
    this.#isOpen = !isListed;
    const path = config.pluginSocketPath;
    this.#calls = this.#isOpen
      ? new PluginServer({ path, handler: passOn, log })
      : new UninstallCalls(path, `the ambient-cni agent of this node cannot work: ${reason}`);
    this.#looks = new KeepTrue({ work: () => this.#look(), longestMs, clock });
  }

  /** Resolves after the first look at the chain. */
  async start(): Promise<void> {
    const { log, config } = this.#options;
    await this.#calls
      .listen()
      .catch((error: unknown) => log.error({ err: error }, "cannot open the plugin socket"));
    if (this.#isOpen && config.install.enabled) await this.#looks.request();
  }

  async stop(): Promise<void> {
    await this.#looks.stop();
    await this.#calls.close();
  }

  /** Again and again: programs that keep a copy of the chain put our entry back. */
  async #look(): Promise<void> {
    const { config, log } = this.#options;
    const { hostRoot, install } = config;
    const { netDir, ownedFileName } = install;
    try {
      const owned = ownedFileName === undefined ? {} : { ownedFileName };
      const done: string[] = [];
      for (const folder of await chainFolders({ hostRoot, netDir }))
        done.push(...(await removeFromChain({ netDir: folder, hostRoot, ...owned })).done);
      if (done.length > 0)
        log.warn(
          { done },
          "left the CNI chain: new pods start outside the mesh, those with a sidecar without its rules",
        );
      this.#fault = "";
    } catch (error) {
      const { message } = error as Error;
      if (message !== this.#fault) log.error({ err: error }, "cannot leave the CNI chain; trying again");
      this.#fault = message;
    }
  }
}

/** Answers as if we were not in the chain. */
const passOn = {
  handle: ({ verb, result }: Pick<CniRequest, "verb" | "result">): Promise<string> =>
    Promise.resolve(verb === "ADD" ? result : ""),
};
