// SPDX-License-Identifier: Apache-2.0
// Keeps our entry in the node's CNI chain, exactly once, for as long as the agent runs; leaves it there afterwards.
import { dirname, join } from "node:path";
import type { ChainPlan } from "../conflist/chain-options.ts";
import { folderFault } from "../conflist/conf-fault.ts";
import { parseFolder } from "../conflist/conf-folder.ts";
import { type PluginEntry, readEntry } from "../conflist/conflist-edit.ts";
import type { Logger } from "../log/logger.ts";
import { type Clock, systemClock } from "../loop/clock.ts";
import { KeepTrue } from "../loop/keep-true.ts";
import { defaultOwnedFileName } from "./chain-removal.ts";
import { applyActions, FolderChangedError, makeFolder, readFolder, removeTemporaries } from "./conf-dir.ts";
import { fightAt } from "./fight.ts";
import { FolderWatch } from "./folder-watch.ts";
import { type ChainGraces, type ChainMemory, type ChainNews, freshMemory, nextLook } from "./next-look.ts";
import type { RuntimeNetwork } from "./runtime-network.ts";

/** Another program keeps removing our entry. */
export interface ChainFight {
  /** How often so far. */
  readonly rewrites: number;
  readonly path: string;
  readonly remedy: string;
}

/** What the keeper is told. */
export interface ChainKeeperOptions extends Partial<ChainGraces> {
  /** The CNI folder as this process sees it. */
  readonly netDir: string;
  /** Prefix under which the host's files are seen, default "/". */
  readonly hostRoot?: string;
  readonly confName?: string | undefined;
  /** An own file instead of the primary; default false: our entry goes into the primary. */
  readonly owned?: boolean;
  /** Name an own file has, or had in another mode; default 02-istio-cni.conflist. */
  readonly ownedFileName?: string;
  /** Which network the runtime gives its pods; default: that of the first file. */
  readonly runtimeNetwork?: () => Promise<RuntimeNetwork>;
  /** Default true. */
  readonly chained?: boolean;
  readonly groupRead?: boolean;
  readonly entry: PluginEntry;
  readonly replaceIstioCni?: boolean;
  readonly log: Logger;
  /** Why we are not in the chain, with the remedy; undefined: we are. Called on every change. */
  onstate(fault: string | undefined): void;
  /** Our entry was missing and is back: sandboxes may have been born without us. Also after the first install. */
  onrepaired(): void;
  /** Once per fight. */
  onfight(fight: ChainFight): void;
  /** The net under the file events, default 5000. */
  readonly pollMs?: number;
  readonly clock?: Clock;
}

const debounceMs = 30;
const retryMs = 500;
/** Somebody writes at this moment. */
const changedMs = 1;

/** Installs, watches and repairs. All faults are told through `onstate` and retried; no method rejects. */
export class ChainKeeper {
  readonly #options: Required<Omit<ChainKeeperOptions, "confName">> & { confName: string | undefined };
  readonly #watch: FolderWatch;
  /** Of the folder in it that our file lies in, where it is a plugin in a file of its own. */
  #partWatch: FolderWatch | undefined;
  readonly #clock: Clock;
  readonly #looks: KeepTrue;
  #memory: ChainMemory = freshMemory;
  #fault: string | undefined = "Waiting for the first look at the CNI configuration";
  #configPath: string | undefined;
  #wasThere = false;
  #pluginTypes: readonly string[] = [];
  /** Why the runtime's choice could not be read, as it was said last. */
  #unseen: string | undefined;

  constructor(options: ChainKeeperOptions) {
    this.#options = {
      hostRoot: "/",
      owned: false,
      ownedFileName: defaultOwnedFileName,
      runtimeNetwork: async () => ({}),
      chained: true,
      groupRead: false,
      replaceIstioCni: false,
      pollMs: 5000,
      halfWrittenMs: 2000,
      settingsGraceMs: 60_000,
      ownedGraceMs: 60_000,
      clock: systemClock,
      ...options,
      confName: options.confName,
    };
    const { netDir, clock } = this.#options;
    this.#clock = clock;
    this.#looks = new KeepTrue({ work: (signal) => this.#look(signal), clock });
    this.#watch = new FolderWatch(netDir, () => this.#looks.requestIn(debounceMs));
  }

  /** File that holds our entry, as this process sees it; undefined while there is none. */
  get configPath(): string | undefined {
    return this.#configPath;
  }

  /** Our entry has been in the folder: since the start, or when {@link recall} looked. */
  get wasThere(): boolean {
    this.#wasThere ||= this.#configPath !== undefined;
    return this.#wasThere;
  }

  /** Why we are not in the chain; undefined: we are. */
  get fault(): string | undefined {
    return this.#fault;
  }

  /** How often another program took our entry away. */
  get rewrites(): number {
    return this.#memory.fight.rewrites;
  }

  /** Plugin types of the chain that holds our entry, in order. */
  get pluginTypes(): readonly string[] {
    return this.#pluginTypes;
  }

  get fights(): number {
    return this.#memory.fight.fights;
  }

  /** A fight goes on. */
  get isFighting(): boolean {
    return fightAt(this.#memory.fight, this.#clock.nowMs()).isOn;
  }

  /** Looks whether an agent before this one left our entry in the folder. Writes nothing, and never rejects. */
  async recall(): Promise<void> {
    const { netDir, hostRoot } = this.#options;
    try {
      const { files, unread } = await readFolder(netDir, { hostRoot });
      this.#wasThere ||= parseFolder(files, unread).confs.some((conf) => readEntry(conf) !== undefined);
    } catch {
      // the first look says what is wrong with the folder
    }
  }

  /** Installs, as far as possible now, and goes on keeping; resolves after the first look. */
  async start(): Promise<void> {
    await removeTemporaries(this.#options.netDir).catch(() => {});
    await this.#looks.request();
  }

  /** Ends the keeping; everything stays installed. */
  async stop(): Promise<void> {
    await this.#looks.stop();
    this.#watch[Symbol.dispose]();
    this.#partWatch?.[Symbol.dispose]();
  }

  /** Events that keep coming do not put a look off: one that is due earlier stays. */
  async #look(stopped: AbortSignal): Promise<void> {
    const { netDir, pollMs, clock, log } = this.#options;
    while (!stopped.aborted) {
      try {
        await this.#lookOnce();
        return this.#looks.requestIn(this.#watch.fault === undefined ? pollMs : retryMs);
      } catch (error) {
        if (!(error instanceof FolderChangedError)) {
          this.#configPath = undefined;
          this.#setFault(folderFault(netDir, error));
          return this.#looks.requestIn(Math.min(retryMs, pollMs));
        }
        log.debug({ err: error }, "the CNI folder changed under our hands, looking again");
        await clock.sleep(changedMs, stopped).catch(() => {});
      }
    }
  }

  async #lookOnce(): Promise<void> {
    const { netDir, hostRoot, chained, groupRead, log } = this.#options;
    // nobody else has to write into it first; a mount that was forgotten has no folder around it
    if (!chained) await makeFolder(netDir).catch(() => {});
    // before reading: what changes from now on comes as an event
    await this.#watch.renew();
    const snapshot = await readFolder(netDir, { hostRoot });
    const { defaultNetwork } = await this.#runtimeNetwork();
    const { plan, actions, ...look } = nextLook(this.#memory, {
      folder: parseFolder(snapshot.files, snapshot.unread),
      nowMs: this.#clock.nowMs(),
      wanted: { ...this.#options, defaultNetwork },
      graces: this.#options,
    });
    this.#memory = look.memory;
    for (const news of look.news) this.#tell(news, plan);
    if (look.againMs !== undefined) this.#looks.requestIn(look.againMs);
    if (look.waits) return;
    if (actions.length > 0) {
      await applyActions(netDir, actions, { snapshot, groupRead });
      const path = plan.fileName === undefined ? netDir : join(netDir, plan.fileName);
      log.info({ path, missing: plan.missing, types: plan.types }, "wrote the CNI chain");
    }
    await this.#watchPart(plan.fileName);
    this.#memory = look.done;
    this.#pluginTypes = plan.types;
    this.#configPath = plan.fileName === undefined ? undefined : join(netDir, plan.fileName);
    this.#setFault(plan.fault);
    if (plan.fileName !== undefined && plan.missing) this.#options.onrepaired();
  }

  #tell(news: ChainNews, plan: ChainPlan): void {
    const { netDir, ownedFileName, log, onfight } = this.#options;
    const path = join(netDir, plan.fileName ?? "");
    switch (news.what) {
      case "rewritten":
        log.warn(
          { ...news, path },
          "another program removed our entry from the CNI chain, or put istio-cni's beside it",
        );
        return;
      case "fight":
        onfight({ rewrites: news.rewrites, path, remedy: news.remedy });
        return;
      case "stood-aside":
        log.warn({}, "istio-cni has come into the CNI chain: left it to istio-cni");
        return;
      case "orphan":
        log.warn(
          { path: join(netDir, ownedFileName) },
          "removed our CNI configuration: its original is gone",
        );
    }
  }

  async #watchPart(fileName: string | undefined): Promise<void> {
    const folder =
      fileName?.includes("/") === true ? dirname(join(this.#options.netDir, fileName)) : undefined;
    if (this.#partWatch?.path !== folder) {
      this.#partWatch?.[Symbol.dispose]();
      this.#partWatch =
        folder === undefined ? undefined : new FolderWatch(folder, () => this.#looks.requestIn(debounceMs));
    }
    // one that is gone again is made by the next look
    await this.#partWatch?.renew().catch(() => this.#looks.requestIn(debounceMs));
  }

  async #runtimeNetwork(): Promise<RuntimeNetwork> {
    const { runtimeNetwork, chained, log } = this.#options;
    if (!chained) return {};
    const network = await runtimeNetwork();
    if (network.unseen !== undefined && network.unseen !== this.#unseen)
      log.warn({ reason: network.unseen }, "taking the first CNI configuration for the one that CRI-O uses");
    this.#unseen = network.unseen;
    return network;
  }

  #setFault(fault: string | undefined): void {
    if (fault === this.#fault) return;
    this.#fault = fault;
    if (fault !== undefined) this.#options.log.warn({ fault }, "not in the CNI chain");
    this.#options.onstate(fault);
  }
}
