// SPDX-License-Identifier: Apache-2.0
// Leaves a node for good: chain, pods, host side, launcher, run dir. Needs neither the API server nor a running agent.
import { existsSync } from "node:fs";
import type { AgentConfig, InstallConfig } from "../config.ts";
import { parseFolder } from "../conflist/conf-folder.ts";
import { planRemoval } from "../conflist/removal-plan.ts";
import { defaultOwnedFileName, removeFromChain } from "../install/chain-removal.ts";
import { readFolder } from "../install/conf-dir.ts";
import { chainFolders } from "../install/multus-chain.ts";
import type { Logger } from "../log/logger.ts";
import type { Concealed } from "./announced-pods.ts";
import { untilIstioIsIn } from "./istio-entry.ts";
import { cleanFiles, type FileCleanupOptions, lookAtFiles } from "./node-cleanup-files.ts";
import { cleanHost, type HostCleanupOptions, lookAtHostRules } from "./node-cleanup-host.ts";
import { cleanPods, lookAtPods, type PodCleanupOptions } from "./node-cleanup-pods.ts";
import { cleanupTools } from "./node-cleanup-tools.ts";
import { UninstallCalls, whoServes } from "./uninstall-calls.ts";
import { leaveLaunchers, lookAtLaunchers } from "./uninstall-launcher.ts";

/** Folders and addresses are the agent's; the namespace of kubelet probes is `hostNetnsPath`. */
export interface UninstallOptions
  extends FileCleanupOptions,
    Omit<HostCleanupOptions, "tools">,
    Pick<AgentConfig, "pluginSocketPath">,
    Pick<InstallConfig, "netDir" | "binDir" | "ownedFileName"> {
  readonly log: Logger;
  /** How long the launcher must not have been called before it is removed; default 5 s. */
  readonly quietMs?: number;
  /** Go on although an agent runs. Default false. */
  readonly force?: boolean;
  /** Remove the launcher also where a runtime may still call it for pods made before. Default false. */
  readonly removeLauncherAlways?: boolean;
  /** What becomes of the redirection of pods that run; default: all are taken out of the mesh. */
  readonly pods?: PodsLeave;
  /** Only say what there is. */
  readonly dryRun?: boolean;
  /** Called with each line as it becomes true. */
  readonly ondone?: (line: string) => void;
}

/** `stay`: all keep their redirection and ztunnel; else those do that this could not have istiod told about. */
export type PodsLeave = "stay" | (() => Promise<Concealed>);

/** How it went; nothing of ours is left when `left` is empty. */
export interface UninstallReport {
  /** What was done, a line each; for a dry run what would be. */
  readonly done: readonly string[];
  /** What was left on purpose or could not be as it was, and why. */
  readonly notes: readonly string[];
  /** What is still there and should not be, each with the reason. */
  readonly left: readonly string[];
}

/** An uninstall that must not begin. */
export class UninstallError extends Error {
  override readonly name = "UninstallError";
}

const defaultQuietMs = 5_000;

/**
 * Takes everything of ours off the node: first the chain, so that no new pod calls us; then the redirection of the pods that
 * run, whose connections go direct from then on; the launcher when nobody calls it any more. Each step may be repeated and
 * killed, one that fails does not keep the others from their work, and at the end everything is looked at once more.
 * @throws {UninstallError} when an agent still runs on the node: it would put everything back
 */
export async function uninstallNode(options: UninstallOptions): Promise<UninstallReport> {
  const owner = await whoServes(options.pluginSocketPath);
  const isBesideIstio = owner === "istio-cni";
  if (options.dryRun === true) return await new Uninstall(options, { isBesideIstio }).describe();
  if (owner === "ours" && options.isAgent === true) {
    return {
      done: [],
      notes: ["another agent serves this node already: everything is left to it"],
      left: [],
    };
  }
  if (owner === "ours" && options.force !== true) {
    throw new UninstallError(
      "an agent, or another uninstall, still runs on this node and would put everything back: delete its DaemonSet first, or end it",
    );
  }
  // whoever calls from now on finds somebody who answers, and does not wait for an agent that will not come
  await using calls = owner === "nobody" ? await standIn(options) : undefined;
  if (isBesideIstio) await untilIstioIsIn(options);
  return await new Uninstall(options, { calls, isBesideIstio }).run();
}

/** None where there is no run dir, or it cannot be written: that shows when its files are removed. */
async function standIn(options: UninstallOptions): Promise<UninstallCalls | undefined> {
  if (!existsSync(options.runDir)) return undefined;
  const calls = new UninstallCalls(options.pluginSocketPath);
  return await calls.listen().then(
    () => calls,
    () => undefined,
  );
}

/** One part of the node. */
interface Part {
  readonly name: "chain" | "pods" | "host" | "launcher" | "run dir";
  /** What of ours is there; changes nothing. */
  look(): Promise<readonly string[]>;
  /** Removes it and says so. */
  leave(): Promise<void>;
}

class Uninstall {
  readonly #options: UninstallOptions;
  readonly #calls: UninstallCalls | undefined;
  /** istio-cni serves the node: what both agents have under one name is its own by now. */
  readonly #isBesideIstio: boolean;
  readonly #done: string[] = [];
  readonly #notes: string[] = [];
  readonly #left: string[] = [];
  /** Parts whose remainder is explained already. */
  readonly #explained = new Set<Part["name"]>();

  constructor(
    options: UninstallOptions,
    { calls, isBesideIstio }: { calls?: UninstallCalls | undefined; isBesideIstio: boolean },
  ) {
    this.#options = options;
    this.#calls = calls;
    this.#isBesideIstio = isBesideIstio;
    if (isBesideIstio)
      this.#notes.push("istio-cni serves this node: pods, the host's rules and the sockets are left to it");
  }

  async run(): Promise<UninstallReport> {
    const parts = this.#parts();
    for (const part of parts) await this.#attempt(part, () => part.leave());
    for (const part of parts.filter(({ name }) => !this.#explained.has(name))) {
      await this.#attempt(part, async () => {
        for (const what of await part.look()) this.#fail(part.name, `${what} is there again, or still`);
      });
    }
    return { done: this.#done, notes: this.#notes, left: this.#left };
  }

  async describe(): Promise<UninstallReport> {
    for (const part of this.#parts()) {
      await this.#attempt(part, async () => {
        for (const what of await part.look()) this.#say(part.name, `would remove ${what}`);
      });
    }
    return { done: this.#done, notes: this.#notes, left: this.#left };
  }

  async #attempt(part: Part, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.#options.log.warn({ err: error }, `could not finish with the part: ${part.name}`);
      this.#fail(part.name, (error as Error).message);
    }
  }

  #say(name: Part["name"], what: string): void {
    this.#done.push(`${name}: ${what}`);
    this.#options.ondone?.(`${name}: ${what}`);
  }

  #keep(name: Part["name"], why: string): void {
    this.#notes.push(`${name}: ${why}`);
    this.#explained.add(name);
  }

  #fail(name: Part["name"], why: string): void {
    this.#left.push(`${name}: ${why}`);
    this.#explained.add(name);
  }

  #parts(): readonly Part[] {
    const { pods } = this.#options;
    const node = { ...this.#options, tools: cleanupTools() };
    const chain: Part = {
      name: "chain",
      look: () => lookAtChain(this.#options),
      leave: () => this.#leaveChain(),
    };
    const launcher: Part = {
      name: "launcher",
      look: () => this.#lookAtLauncher(),
      leave: () => this.#leaveLauncher(),
    };
    if (this.#isBesideIstio) return [chain, launcher];
    const redirections: Part[] = pods === "stay" ? [] : [this.#podsPart(node, pods)];
    return [
      chain,
      ...redirections,
      {
        name: "host",
        look: () => lookAtHostRules(node),
        leave: async () => {
          const removed = await cleanHost(node);
          if (removed.length > 0) this.#say("host", `removed ${removed.join(", ")}`);
        },
      },
      launcher,
      { name: "run dir", look: () => lookAtFiles(this.#options), leave: () => this.#clearRunDir() },
    ];
  }

  #podsPart(node: PodCleanupOptions, conceal: (() => Promise<Concealed>) | undefined): Part {
    let spare: ReadonlySet<string> = new Set();
    return {
      name: "pods",
      look: async () => {
        const { enrolled, failed } = await lookAtPods({ ...node, spare });
        return [...enrolled.map((each) => `the redirection of ${each}`), ...failed];
      },
      leave: async () => {
        const concealed = await conceal?.();
        spare = concealed?.spare ?? spare;
        for (const why of concealed?.failed ?? []) this.#fail("pods", why);
        const { cleaned, failed } = await cleanPods({ ...node, spare });
        const plural = cleaned.length === 1 ? "" : "s";
        if (cleaned.length > 0) {
          this.#say("pods", `removed the redirection of ${cleaned.length} network namespace${plural}`);
          this.#notes.push(...(concealed?.notes ?? []).map((note) => `pods: ${note}`));
        }
        for (const why of failed) this.#fail("pods", why);
      },
    };
  }

  async #leaveChain(): Promise<void> {
    const { hostRoot, ownedFileName = defaultOwnedFileName } = this.#options;
    for (const netDir of await chainFolders(this.#options)) {
      const { done, notes } = await removeFromChain({ netDir, hostRoot, ownedFileName });
      for (const line of done) this.#say("chain", line);
      this.#notes.push(...notes.map((note) => `chain: ${note}`));
    }
  }

  async #lookAtLauncher(): Promise<string[]> {
    const found = await lookAtLaunchers(this.#options);
    for (const { stays } of found) if (stays !== undefined) this.#keep("launcher", stays);
    return found.filter(({ stays }) => stays === undefined).map(({ path }) => `"${path}"`);
  }

  async #leaveLauncher(): Promise<void> {
    // a chain that names a launcher which is not there can neither start nor delete a pod
    const names = await lookAtChain(this.#options).catch(() => ["a chain that cannot be read"]);
    const found = await lookAtLaunchers(this.#options);
    if (names.length > 0) {
      for (const { path } of found) this.#fail("launcher", `"${path}" stays while the chain names it`);
      return;
    }
    const { quietMs = defaultQuietMs } = this.#options;
    for (const { stays } of found) if (stays !== undefined) this.#keep("launcher", stays);
    const { done, failed } = await leaveLaunchers(found, { ...this.#options, quietMs, calls: this.#calls });
    for (const line of done) this.#say("launcher", line);
    for (const line of failed) this.#fail("launcher", line);
  }

  async #clearRunDir(): Promise<void> {
    await this.#calls?.close();
    const { removed, failed } = await cleanFiles(this.#options);
    if (removed.length > 0) this.#say("run dir", `removed ${removed.join(", ")}`);
    for (const why of failed) this.#fail("run dir", why);
  }
}

/** Files of the CNI folder that hold something of ours. */
async function lookAtChain(
  options: Pick<UninstallOptions, "hostRoot" | "netDir" | "ownedFileName">,
): Promise<string[]> {
  const { hostRoot, ownedFileName = defaultOwnedFileName } = options;
  const found: string[] = [];
  for (const netDir of await chainFolders(options)) {
    try {
      const { files, unread } = await readFolder(netDir, { all: true, hostRoot });
      const { actions } = planRemoval(parseFolder(files, unread), { ownedFileName });
      for (const action of actions)
        found.push(action.kind === "rename" ? `our copy of "${action.to}"` : `our entry in "${action.name}"`);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
  }
  return found;
}
