// SPDX-License-Identifier: Apache-2.0
// Takes away what another agent's plugin has left once nothing calls it: the binary, and the kubeconfig with its token.
import type { PluginType } from "../conflist/conflist-edit.ts";
import type { Logger } from "../log/logger.ts";
import { type Clock, systemClock } from "../loop/clock.ts";
import { readFolder } from "./conf-dir.ts";
import { removeLauncher } from "./launcher-copy.ts";
import { findLeftovers, type Leftover, namesPlugin, removeIstioCniFiles } from "./launcher-leftover.ts";

export interface LeftoverKeeperOptions {
  readonly hostRoot: string;
  readonly runDir: string;
  readonly netDir: string;
  readonly binDir: string;
  /** Name of the launcher that is in use. */
  readonly current: PluginType;
  /** We take istio-cni's place: what it left is ours to remove. */
  readonly replaceIstioCni: boolean;
  readonly log: Logger;
  readonly clock?: Clock;
}

/** A runtime that has read the chain of before still calls its plugins. */
const quietMs = 8_000;

/** Looks again and again, as the other agent may come and go at any time. */
export class LeftoverKeeper {
  readonly #options: LeftoverKeeperOptions;
  readonly #clock: Clock;
  /** Since when no chain names them, by path. */
  #since = new Map<string, number>();
  readonly #told = new Set<string>();
  /** Since when no chain names istio-cni's plugin, or it is ours that has its name. */
  #unread: { readonly sinceMs: number } | undefined;

  constructor(options: LeftoverKeeperOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  /** One look; to be called while our own entry is in the chain. Faults are logged. */
  async look(): Promise<void> {
    const { log } = this.#options;
    try {
      const found = await this.#unnamed();
      const nowMs = this.#clock.nowMs();
      this.#since = new Map(found.map(({ path }) => [path, this.#since.get(path) ?? nowMs]));
      for (const each of found) await this.#consider(each, nowMs);
    } catch (error) {
      log.warn({ err: error }, "cannot look for what another agent's plugin has left");
    }
  }

  /** Those that no configuration of the folder names. */
  async #unnamed(): Promise<Leftover[]> {
    const { hostRoot, netDir, runDir, replaceIstioCni, current, log } = this.#options;
    const { files, unread } = await readFolder(netDir, { all: true, hostRoot });
    // what cannot be read may name any of them
    const isUnknown = [...unread.values()].some(({ isAbsent }) => isAbsent !== true);
    const isNamed = (name: PluginType): boolean =>
      isUnknown || [...files.values()].some((text) => namesPlugin(text, name));
    const isUnread = replaceIstioCni && (current === "istio-cni" || !isNamed("istio-cni"));
    const nowMs = this.#clock.nowMs();
    this.#unread = isUnread ? (this.#unread ?? { sinceMs: nowMs }) : undefined;
    // its plugin may be on its way to read it, and would refuse the pod
    if (this.#unread !== undefined && nowMs - this.#unread.sinceMs >= quietMs) {
      const removed = await removeIstioCniFiles({ runDir, netDir });
      if (removed.length > 0) log.info({ removed }, "removed the kubeconfig of istio-cni's plugin");
    }
    const found = await findLeftovers(this.#options);
    return found.filter(({ name }) => !isNamed(name));
  }

  async #consider({ name, path, owner, stays }: Leftover, nowMs: number): Promise<void> {
    const { binDir, replaceIstioCni, log } = this.#options;
    const isOurs = owner === "ours" || replaceIstioCni;
    if (!isOurs || stays !== undefined) {
      if (!this.#told.has(path))
        log.warn({ path, reason: stays }, `the plugin of ${owner} is still on this node`);
      this.#told.add(path);
      return;
    }
    if (nowMs - (this.#since.get(path) ?? nowMs) < quietMs) return;
    await removeLauncher(binDir, name);
    log.info({ path }, "removed a plugin that no chain calls any more");
  }
}
