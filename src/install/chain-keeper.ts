// SPDX-License-Identifier: Apache-2.0
// Keeps our entry in the node's CNI chain, exactly once, for as long as the agent runs; leaves it there afterwards.
import { dirname, join } from "node:path";
import type { ChainOptions, ChainPlan } from "../conflist/chain-options.ts";
import { planChain } from "../conflist/chain-plan.ts";
import { folderFault } from "../conflist/conf-fault.ts";
import { parseFolder } from "../conflist/conf-folder.ts";
import { type Clock, systemClock } from "../loop/clock.ts";
import { KeepTrue } from "../loop/keep-true.ts";
import type { ChainKeeperOptions } from "./chain-keeper-options.ts";
import { defaultOwnedFileName } from "./chain-removal.ts";
import {
  applyActions,
  FolderChangedError,
  type FolderSnapshot,
  makeFolder,
  readFolder,
  removeTemporaries,
} from "./conf-dir.ts";
import { FightWatch, fightRemedy } from "./fight.ts";
import { FolderWatch } from "./folder-watch.ts";
import { HalfWritten } from "./half-written.ts";
import type { RuntimeNetwork } from "./runtime-network.ts";

const debounceMs = 30;
const retryMs = 500;
/** Somebody writes at this moment. */
const changedMs = 1;

/** Installs, watches and repairs. All faults are told through `onstate` and retried; no method rejects. */
export class ChainKeeper {
  readonly #options: Required<Omit<ChainKeeperOptions, "confName" | "owned">> & {
    confName: string | undefined;
  };
  readonly #isOwned: boolean;
  readonly #watch: FolderWatch;
  /** Of the folder in it that our file lies in, where it is a plugin in a file of its own. */
  #partWatch: FolderWatch | undefined;
  readonly #clock: Clock;
  readonly #fight: FightWatch;
  readonly #halfWritten: HalfWritten;
  readonly #looks: KeepTrue;
  /** Our entry was in place at the last look. */
  #isPresent = false;
  #mendSettings = true;
  #repairDue = 0;
  #differsSince: number | undefined;
  #orphanSince: number | undefined;
  #fault: string | undefined = "Waiting for the first look at the CNI configuration";
  #configPath: string | undefined;
  #pluginTypes: readonly string[] = [];
  #hasIstioCni = false;
  /** Why the runtime's choice could not be read, as it was said last. */
  #unseen: string | undefined;

  constructor(options: ChainKeeperOptions) {
    this.#options = {
      hostRoot: "/",
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
      ownedFileName: options.owned?.fileName ?? options.ownedFileName ?? defaultOwnedFileName,
    };
    this.#isOwned = options.owned !== undefined;
    const { netDir, halfWrittenMs, clock } = this.#options;
    this.#clock = clock;
    this.#fight = new FightWatch({ now: () => clock.nowMs() });
    this.#halfWritten = new HalfWritten(halfWrittenMs, clock);
    this.#looks = new KeepTrue({ work: (signal) => this.#look(signal), clock });
    this.#watch = new FolderWatch(netDir, () => this.#looks.requestIn(debounceMs));
  }

  /** File that holds our entry, as this process sees it; undefined while there is none. */
  get configPath(): string | undefined {
    return this.#configPath;
  }

  /** Why we are not in the chain; undefined: we are. */
  get fault(): string | undefined {
    return this.#fault;
  }

  /** How often another program took our entry away. */
  get rewrites(): number {
    return this.#fight.rewrites;
  }

  /** Plugin types of the chain that holds our entry, in order. */
  get pluginTypes(): readonly string[] {
    return this.#pluginTypes;
  }

  get fights(): number {
    return this.#fight.fights;
  }

  /** A fight goes on. */
  get isFighting(): boolean {
    return this.#fight.isOn;
  }

  /** The chain still calls istio-cni's plugin. */
  get hasIstioCni(): boolean {
    return this.#hasIstioCni;
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
    const { netDir, hostRoot, chained } = this.#options;
    // nobody else has to write into it first; a mount that was forgotten has no folder around it
    if (!chained) await makeFolder(netDir).catch(() => {});
    // before reading: what changes from now on comes as an event
    await this.#watch.renew();
    const snapshot = await readFolder(netDir, { hostRoot });
    const network = await this.#runtimeNetwork();
    const plan = this.#plan(snapshot, network.defaultNetwork);
    this.#hasIstioCni = this.#noteIstioCni(plan);
    if (this.#halfWritten.isAnyYoung(plan.invalid.keys())) {
      this.#looks.requestIn(debounceMs);
      return;
    }
    if (plan.orphaned) await this.#dropOrphan(snapshot);
    else this.#orphanSince = undefined;
    if (plan.missing && plan.actions.length > 0 && this.#mustPause(plan)) return;
    if (plan.actions.length > 0) {
      await applyActions(netDir, plan.actions, { snapshot, groupRead: this.#options.groupRead });
      const path = join(netDir, plan.fileName ?? "");
      this.#options.log.info({ path, missing: plan.missing, types: plan.types }, "wrote the CNI chain");
    }
    await this.#watchPart(plan.fileName);
    this.#pluginTypes = plan.types;
    this.#configPath = plan.fileName === undefined ? undefined : join(netDir, plan.fileName);
    this.#setFault(plan.fault);
    if (plan.fileName === undefined) return;
    this.#mendSettings = false;
    this.#isPresent = true;
    if (plan.missing) this.#options.onrepaired();
  }

  #plan(snapshot: FolderSnapshot, defaultNetwork: string | undefined): ChainPlan {
    const { confName, ownedFileName, chained, entry, replaceIstioCni, settingsGraceMs } = this.#options;
    const base: ChainOptions = {
      confName,
      defaultNetwork,
      owned: this.#isOwned,
      ownedFileName,
      chained,
      entry,
      replaceIstioCni,
    };
    const folder = parseFolder(snapshot.files, snapshot.unread);
    const strict = planChain(folder, base);
    if (this.#mendSettings || strict.actions.length === 0) {
      this.#differsSince = undefined;
      return strict;
    }
    const lenient = planChain(folder, { ...base, keepSettings: true });
    if (lenient.actions.length > 0) return lenient;
    // nothing but other settings: a newer agent of this node, which is about to replace this one
    this.#differsSince ??= this.#clock.nowMs();
    const leftMs = this.#differsSince + settingsGraceMs - this.#clock.nowMs();
    if (leftMs <= 0) return strict;
    this.#looks.requestIn(leftMs);
    return lenient;
  }

  /** Our copy must not outlive its original for long: the network plugin took the node out of service. */
  async #dropOrphan(snapshot: FolderSnapshot): Promise<void> {
    this.#orphanSince ??= this.#clock.nowMs();
    const leftMs = this.#orphanSince + this.#options.ownedGraceMs - this.#clock.nowMs();
    if (leftMs > 0) {
      this.#looks.requestIn(leftMs);
      return;
    }
    const { netDir, ownedFileName, groupRead, log } = this.#options;
    await applyActions(netDir, [{ kind: "remove", name: ownedFileName }], { snapshot, groupRead });
    log.warn({ path: join(netDir, ownedFileName) }, "removed our CNI configuration: its original is gone");
    this.#orphanSince = undefined;
  }

  /** Counts a rewrite that took our entry away; in a fight the repair waits. */
  #mustPause(plan: ChainPlan): boolean {
    if (this.#isPresent) {
      this.#isPresent = false;
      const { pauseMs, begins } = this.#fight.record();
      this.#repairDue = this.#clock.nowMs() + pauseMs;
      const path = join(this.#options.netDir, plan.fileName ?? "");
      const { rewrites } = this.#fight;
      this.#options.log.warn(
        { path, rewrites, pauseMs },
        "another program removed our entry from the CNI chain",
      );
      if (begins) this.#options.onfight({ rewrites, path, remedy: fightRemedy(plan.types) });
    }
    const leftMs = this.#repairDue - this.#clock.nowMs();
    if (leftMs > 0) this.#looks.requestIn(leftMs);
    return leftMs > 0;
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

  #noteIstioCni(plan: ChainPlan): boolean {
    if (plan.istioCni && !this.#hasIstioCni) {
      this.#options.log.warn(
        { file: plan.fileName },
        "the CNI chain still calls istio-cni: set REPLACE_ISTIO_CNI=true to replace it, or uninstall istio-cni",
      );
    }
    return plan.istioCni;
  }

  #setFault(fault: string | undefined): void {
    if (fault === this.#fault) return;
    this.#fault = fault;
    if (fault !== undefined) this.#options.log.warn({ fault }, "not in the CNI chain");
    this.#options.onstate(fault);
  }
}
