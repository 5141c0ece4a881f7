// SPDX-License-Identifier: Apache-2.0
// Puts the plugin into the node's chain and keeps it there: the launcher first, then the entry that calls it.
import type { InstallConfig } from "../config.ts";
import { pluginType } from "../conflist/conflist-edit.ts";
import type { Logger } from "../log/logger.ts";
import type { Clock } from "../loop/clock.ts";
import { KeepTrue } from "../loop/keep-true.ts";
import { AuxiliaryKeeper } from "./auxiliary-keeper.ts";
import { ChainKeeper } from "./chain-keeper.ts";
import type { ChainFight, ChainKeeperOptions } from "./chain-keeper-options.ts";
import { defaultOwnedFileName } from "./chain-removal.ts";
import { fileMark, installLauncher, launcherPath, ownLauncher } from "./launcher-copy.ts";
import { findIstioCni, removeIstioCni } from "./launcher-leftover.ts";
import { findMultusChain } from "./multus-chain.ts";
import { RuntimeNetworkReader } from "./runtime-network.ts";

export interface InstallerOptions {
  readonly config: InstallConfig;
  /** The agent's run dir as the launcher sees it, which runs on the host. */
  readonly hostRunDir: string;
  /** Pods that may start while the agent is away. */
  readonly exempt: readonly string[];
  readonly replaceIstioCni: boolean;
  readonly hostRoot: string;
  readonly log: Logger;
  /** Why the plugin is not in place, with the remedy; undefined: it is. */
  onstate(fault: string | undefined): void;
  /** Our entry was missing: sandboxes may have been made without us. */
  onrepaired(): void;
  onfight(fight: ChainFight): void;
  /** The fight is over. */
  onpeace(): void;
  /** Once for each installation or repair that ended, well or not. */
  oninstall?(result: "SUCCESS" | "COPY_BINARIES_FAILURE" | "CREATE_CNI_CONFIG_FAILURE"): void;
  /** The launcher's file; default: the one that came with this agent. */
  readonly source?: string;
  /** For looks at the launcher. */
  readonly clock?: Clock;
}

/** Longer than a repair of the chain may take to show: somebody who cleans the plugin folder is noticed by then. */
const launcherLookMs = 5_000;

/** The launcher and its entry as desired state. */
export class Installer {
  readonly chain: ChainKeeper;
  readonly #options: InstallerOptions;
  #launcherFault: string | undefined = "the launcher has not been copied yet";
  readonly #chainFaults = new Map<"main" | "auxiliary", string>([
    ["main", "the CNI configuration has not been looked at yet"],
  ]);
  readonly #auxiliary: AuxiliaryKeeper;
  #mark: string | undefined;
  #isChainStarted = false;
  readonly #looks: KeepTrue;

  constructor(options: InstallerOptions) {
    const { config, hostRunDir, exempt, log, clock } = options;
    this.#options = options;
    this.#looks = new KeepTrue({ work: (signal) => this.#keep(signal), longestMs: launcherLookMs, clock });
    const runtimeNetwork = new RuntimeNetworkReader({ hostRoot: options.hostRoot, clock });
    const readNetwork = () => runtimeNetwork.read();
    const common = {
      hostRoot: options.hostRoot,
      runtimeNetwork: readNetwork,
      chained: config.chained,
      groupRead: config.groupRead,
      replaceIstioCni: options.replaceIstioCni,
      entry: {
        type: pluginType,
        cni_agent_run_dir: hostRunDir,
        agent_wait_seconds: config.agentWaitSeconds,
        exempt,
      },
      log,
      onrepaired: () => this.#repaired(),
      onfight: (fight: ChainFight) => options.onfight(fight),
    } satisfies Partial<ChainKeeperOptions>;
    this.chain = new ChainKeeper({
      ...common,
      netDir: config.netDir,
      confName: config.confName,
      owned: config.ownedFileName === undefined ? undefined : { fileName: config.ownedFileName },
      ownedFileName: config.ownedFileName ?? defaultOwnedFileName,
      onstate: (fault) => this.#chainState("main", fault),
    });
    const { netDir } = config;
    this.#auxiliary = new AuxiliaryKeeper({
      confName: config.confName,
      find: async () => findMultusChain({ hostRoot: options.hostRoot, netDir, network: await readNetwork() }),
      makeKeeper: (place) =>
        new ChainKeeper({ ...common, ...place, onstate: (fault) => this.#chainState("auxiliary", fault) }),
      log,
    });
  }

  /** Resolves after the first attempt; what fails is told through `onstate` and tried again. */
  async start(): Promise<void> {
    await this.#looks.request();
  }

  /** Ends the keeping; everything stays installed. */
  async stop(): Promise<void> {
    await this.#looks.stop();
    await this.chain.stop();
    await this.#auxiliary.stop();
  }

  async #keep(stopped: AbortSignal): Promise<void> {
    if (!this.chain.isFighting) this.#options.onpeace();
    await this.#look();
    // an entry whose launcher is missing fails every pod of the node
    if (this.#launcherFault !== undefined || stopped.aborted) return;
    if (!this.#isChainStarted) {
      this.#isChainStarted = true;
      await this.chain.start();
    }
    // with a chain to be in there is nothing that Multus has to run besides
    if (this.#options.config.chained || stopped.aborted) return;
    await this.#auxiliary.look();
    if (!this.#auxiliary.isKeeping) this.#chainState("auxiliary", undefined);
  }

  #chainState(which: "main" | "auxiliary", fault: string | undefined): void {
    if (fault === undefined) this.#chainFaults.delete(which);
    else {
      this.#chainFaults.set(which, fault);
      this.#options.oninstall?.("CREATE_CNI_CONFIG_FAILURE");
    }
    this.#report();
  }

  #repaired(): void {
    this.#options.oninstall?.("SUCCESS");
    void this.#lookForIstioCni();
    this.#options.onrepaired();
  }

  async #look(): Promise<void> {
    const { config, log, oninstall, source = ownLauncher() } = this.#options;
    const path = launcherPath(config.binDir);
    const mark = await fileMark(path);
    if (mark !== undefined && mark === this.#mark) return;
    try {
      const result = await installLauncher({ source, binDir: config.binDir });
      if (result === "installed")
        log.info({ path, again: this.#mark !== undefined }, "installed the launcher");
      this.#mark = await fileMark(path);
      this.#launcherFault = undefined;
    } catch (error) {
      const { message } = error as Error;
      if (message !== this.#launcherFault)
        log.error({ err: error }, "the launcher is not in place; trying again");
      this.#mark = undefined;
      this.#launcherFault = message;
      oninstall?.("COPY_BINARIES_FAILURE");
    }
    this.#report();
  }

  /** The plugin of the agent whose place this one takes: nothing calls it once the chain does not name it. */
  async #lookForIstioCni(): Promise<void> {
    const { config, hostRoot, replaceIstioCni, log } = this.#options;
    const where = { hostRoot, binDir: config.binDir };
    try {
      const found = await findIstioCni(where);
      if (found === undefined) return;
      const isRemoved = replaceIstioCni && !this.chain.hasIstioCni && (await removeIstioCni(where));
      if (isRemoved)
        log.info({ path: found.path }, "removed the plugin of istio-cni, which the chain no longer calls");
      else
        log.warn({ path: found.path, reason: found.stays }, "the plugin of istio-cni is still on this node");
    } catch (error) {
      log.warn({ err: error }, "cannot look for the plugin of istio-cni");
    }
  }

  #report(): void {
    this.#options.onstate(this.#launcherFault ?? [...this.#chainFaults.values()][0]);
  }
}
