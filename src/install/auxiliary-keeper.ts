// SPDX-License-Identifier: Apache-2.0
// Keeps a file with our plugin in the auxiliary chain of Multus, which is run for every pod, for as long as Multus names one.
import type { Logger } from "../log/logger.ts";
import type { ChainKeeper } from "./chain-keeper.ts";
import type { MultusChain } from "./multus-chain.ts";

export interface AuxiliaryKeeperOptions {
  /** `CNI_CONF_NAME`. */
  readonly confName: string | undefined;
  /** What Multus says now; undefined: nothing that can be seen. */
  readonly find: () => Promise<MultusChain | undefined>;
  /** A keeper of the file `confName`, which lies in a folder below `netDir`. */
  readonly makeKeeper: (place: { readonly netDir: string; readonly confName: string }) => ChainKeeper;
  readonly log: Logger;
}

/** One keeper where there is a chain, none where there is not; to be looked at again and again. */
export class AuxiliaryKeeper {
  readonly #options: AuxiliaryKeeperOptions;
  #keeper: ChainKeeper | undefined;
  #place = "";
  #said = "";

  constructor(options: AuxiliaryKeeperOptions) {
    this.#options = options;
  }

  /** Whether there is a chain with a file of ours to keep. */
  get isKeeping(): boolean {
    return this.#keeper !== undefined;
  }

  /** Looks whether Multus names a chain, and keeps our file in it from then on. Only to be called with the launcher in place. */
  async look(): Promise<void> {
    const multus = await this.#options.find();
    // Multus takes its file away while it restarts
    if (multus === undefined) return;
    const { auxiliary, writableDir, isNetDir } = multus;
    this.#say(multus);
    const isOn = auxiliary !== undefined && writableDir !== undefined && isNetDir !== true;
    const confName = `${auxiliary?.name ?? ""}/${auxiliaryFileName(this.#options.confName)}`;
    const place = isOn ? `${writableDir}/${confName}` : "";
    if (place === this.#place) return;
    await this.stop();
    this.#place = place;
    if (!isOn) return;
    this.#keeper = this.#options.makeKeeper({ netDir: writableDir, confName });
    await this.#keeper.start();
  }

  /** Ends the keeping; the file stays. */
  async stop(): Promise<void> {
    await this.#keeper?.stop();
    this.#keeper = undefined;
    this.#place = "";
  }

  #say({ file, auxiliary, writableDir, isNetDir }: MultusChain): void {
    const folder = auxiliary?.folder;
    const how = folder === undefined ? "none" : isNetDir || writableDir !== undefined ? "used" : "unmounted";
    const key = `${how} ${folder}`;
    if (key === this.#said) return;
    this.#said = key;
    const { log } = this.#options;
    if (how === "used")
      log.info({ file, folder }, "Multus runs our plugin for every pod: its auxiliary chain");
    else if (how === "unmounted")
      log.warn(
        { file, folder },
        "Multus has an auxiliary chain whose folder is not mounted here: new pods are captured after they start. Set cniConfDir to that folder",
      );
    else
      log.warn(
        { file },
        "Multus has no auxiliary chain (auxiliaryCNIChainName): new pods are captured after they start",
      );
  }
}

/** Multus reads `*.conf` in that folder. Source: containernetworking/cni libcni/conf.go, NetworkPluginConfsFromFiles */
export function auxiliaryFileName(confName: string | undefined): string {
  return confName?.endsWith(".conf") === true ? confName : "istio-cni.conf";
}
