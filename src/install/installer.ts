// SPDX-License-Identifier: Apache-2.0
// Puts the plugin into the node's chain and keeps it there: the launcher first, then the entry that calls it.
import type { InstallConfig } from "../config.ts";
import { KeepTrue } from "../loop/keep-true.ts";
import { AuxiliaryKeeper } from "./auxiliary-keeper.ts";
import { type ChainFight, ChainKeeper, type ChainKeeperOptions } from "./chain-keeper.ts";
import { defaultOwnedFileName } from "./chain-removal.ts";
import { fileMark, installLauncher, launcherPath, ownLauncher } from "./launcher-copy.ts";
import { LeftoverKeeper } from "./leftover-keeper.ts";
import { findMultusChain } from "./multus-chain.ts";
import { RuntimeNetworkReader } from "./runtime-network.ts";

export interface InstallerOptions
  extends Pick<ChainKeeperOptions, "entry" | "log" | "onrepaired" | "onfight" | "clock"> {
  readonly config: InstallConfig;
  /** The agent's run dir as this process sees it. */
  readonly runDir: string;
  readonly replaceIstioCni: boolean;
  readonly hostRoot: string;
  /** Why the plugin is not in place, with the remedy; undefined: it is. */
  onstate(fault: string | undefined): void;
  /** The fight is over. */
  onpeace(): void;
  /** Once for each installation or repair that ended, well or not. */
  oninstall?(result: "SUCCESS" | "COPY_BINARIES_FAILURE" | "CREATE_CNI_CONFIG_FAILURE"): void;
  /** The launcher's file; default: the one that came with this agent. */
  readonly source?: string;
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
  readonly #leftovers: LeftoverKeeper;

  constructor(options: InstallerOptions) {
    const { config, entry, log, clock } = options;
    this.#options = options;
    this.#looks = new KeepTrue({ work: (signal) => this.#keep(signal), longestMs: launcherLookMs, clock });
    this.#leftovers = new LeftoverKeeper({ ...config, ...options, current: entry.type });
    const runtimeNetwork = new RuntimeNetworkReader({ hostRoot: options.hostRoot, clock });
    const readNetwork = () => runtimeNetwork.read();
    const common = {
      hostRoot: options.hostRoot,
      runtimeNetwork: readNetwork,
      chained: config.chained,
      groupRead: config.groupRead,
      replaceIstioCni: options.replaceIstioCni,
      entry,
      log,
      onrepaired: () => {
        options.oninstall?.("SUCCESS");
        options.onrepaired();
      },
      onfight: (fight: ChainFight) => options.onfight(fight),
    } satisfies Partial<ChainKeeperOptions>;
    this.chain = new ChainKeeper({
      ...common,
      netDir: config.netDir,
      confName: config.confName,
      owned: config.ownedFileName !== undefined,
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
    const { fault, isFighting } = this.chain;
    // two programs that remove each other's files come to no end
    if (this.#isChainStarted && fault === undefined && !isFighting) await this.#leftovers.look();
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

  async #look(): Promise<void> {
    const { config, entry, log, oninstall, source = ownLauncher() } = this.#options;
    const path = launcherPath(config.binDir, entry.type);
    const mark = await fileMark(path);
    if (mark !== undefined && mark === this.#mark) return;
    try {
      const result = await installLauncher({ source, binDir: config.binDir, name: entry.type });
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

  #report(): void {
    this.#options.onstate(this.#launcherFault ?? [...this.#chainFaults.values()][0]);
  }
}
