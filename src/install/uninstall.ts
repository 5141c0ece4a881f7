// SPDX-License-Identifier: Apache-2.0
// Leaves a node for good: chain, pods, host side, run dir, launcher. Needs neither the API server nor a running agent.
import { readFileSync } from "node:fs";
import { readdir, rm } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { hostNetnsKeys } from "../netns/host-netns.ts";
import { Netns } from "../netns/netns.ts";
import type { Logger } from "../observe/logger.ts";
import { HostProbes } from "../probes/host-probes.ts";
import { chooseBackend } from "../redirect/backend.ts";
import { PodRedirection } from "../redirect/pod-redirection.ts";
import { readConfs } from "./chain-plan.ts";
import { removeFromChain } from "./chain-removal.ts";
import { readFolder } from "./conf-dir.ts";
import { pluginType } from "./conflist-edit.ts";
import { fileMark, launcherPath, removeLauncher } from "./launcher-copy.ts";
import { listNodeNetns } from "./node-netns.ts";

export interface UninstallOptions {
  readonly hostRoot: string;
  readonly runDir: string;
  readonly ztunnelSocketPath: string;
  readonly pluginSocketPath: string;
  readonly netDir: string;
  readonly binDir: string;
  readonly ownedFileName: string | undefined;
  readonly hostNetnsPath: string;
  readonly iptablesVariant: "auto" | "nft" | "legacy";
  readonly probeSnatV4: string;
  readonly probeSnatV6: string;
  readonly log: Logger;
  /** Time for calls that began with the old chain to end, before the launcher goes. Default 2 s. */
  readonly quietMs?: number;
  /** The agent that calls is the one on the socket. Default false: one that still runs is a reason to refuse. */
  readonly isAgent?: boolean;
  /** Remove the launcher also where a runtime may still call it for pods made before. Default false. */
  readonly removeLauncherAlways?: boolean;
  /** Only say what there is. */
  readonly dryRun?: boolean;
  /** Called with each line as it becomes true. */
  readonly ondone?: (line: string) => void;
}

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

const concurrency = 8;

/**
 * Takes everything of ours off the node: first the chain, so that no new pod calls us; then the redirection of the pods that
 * run, whose new connections go direct from then on; the launcher last, because calls that have begun still need it. Each step
 * may be repeated, one that fails does not keep the others from their work, and what is left is looked for at the end.
 * @throws {UninstallError} when an agent still runs on the node: it would put everything back
 */
export async function uninstallNode(options: UninstallOptions): Promise<UninstallReport> {
  if (options.isAgent !== true && options.dryRun !== true && (await answers(options.pluginSocketPath))) {
    throw new UninstallError(
      "an agent still runs on this node and would put everything back: delete its DaemonSet first, or end it",
    );
  }
  return await new Uninstall(options).run();
}

class Uninstall {
  readonly #options: UninstallOptions;
  readonly #done: string[] = [];
  readonly #notes: string[] = [];
  readonly #left: string[] = [];

  constructor(options: UninstallOptions) {
    this.#options = options;
  }

  async run(): Promise<UninstallReport> {
    await this.#step("the CNI chain", () => this.#leaveChain());
    await this.#step("pods and host", () => this.#removeRules());
    await this.#step("the run dir", () => this.#clearRunDir());
    await this.#step("the launcher", () => this.#removeLauncher());
    return { done: this.#done, notes: this.#notes, left: this.#left };
  }

  async #step(what: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.#options.log.warn({ err: error }, `could not finish with ${what}`);
      this.#left.push(`${what}: ${(error as Error).message}`);
    }
  }

  #say(line: string): void {
    this.#done.push(line);
    this.#options.ondone?.(line);
  }

  async #leaveChain(): Promise<void> {
    const { netDir, ownedFileName, dryRun } = this.#options;
    if (dryRun === true) {
      const { files } = await readFolder(netDir).catch(() => ({ files: new Map() }));
      for (const { name, types } of readConfs(files).confs)
        if (types.includes(pluginType)) this.#say(`chain: would take our entry out of "${name}"`);
      return;
    }
    const owned = ownedFileName === undefined ? {} : { ownedFileName };
    const { done, notes } = await removeFromChain({ netDir, ...owned });
    for (const line of done) this.#say(`chain: ${line}`);
    this.#notes.push(...notes.map((note) => `chain: ${note}`));
  }

  async #removeRules(): Promise<void> {
    const { hostRoot, runDir, iptablesVariant, log } = this.#options;
    const hostNetns = hostNetnsKeys({ hostRoot });
    const backend = await chooseBackend({
      variant: iptablesVariant,
      runDir,
      hostProcess: join(hostRoot, "proc/1"),
      log,
    });
    const redirection = new PodRedirection({ backend, hostNetns, ipv6: false });
    const failed = await this.#removeFromPods(redirection, hostNetns);
    if (failed === 0 && this.#options.dryRun !== true) await this.#assertPodsClear(redirection, hostNetns);
    await this.#step("the host's side of kubelet probes", () => this.#removeHostSide(backend));
  }

  async #removeFromPods(redirection: PodRedirection, hostNetns: ReadonlySet<string>): Promise<number> {
    const { hostRoot, dryRun } = this.#options;
    const waiting = [...(await listNodeNetns({ hostRoot, hostNetns }))];
    let cleared = 0;
    let failed = 0;
    const worker = async (): Promise<void> => {
      for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
        const [key, path] = next;
        try {
          if (await this.#clear(redirection, { key, path })) cleared++;
        } catch (error) {
          failed++;
          this.#left.push(`pods: namespace ${key} (${path}): ${(error as Error).message}`);
        }
      }
    };
    await Promise.all(Array.from({ length: concurrency }, worker));
    const verb = dryRun === true ? "would remove" : "removed";
    if (cleared > 0)
      this.#say(`pods: ${verb} the redirection of ${cleared} network namespace${cleared === 1 ? "" : "s"}`);
    return failed;
  }

  /** Only where our ip rule or route is: a sidecar's chains have names like ours. */
  async #clear(redirection: PodRedirection, { key, path }: { key: string; path: string }): Promise<boolean> {
    const netns = openIfThere(path, key);
    if (netns === undefined) return false;
    try {
      if (!(await redirection.isTouched(netns))) return false;
      if (this.#options.dryRun !== true) await redirection.remove(netns);
      return true;
    } finally {
      netns.close();
    }
  }

  async #assertPodsClear(redirection: PodRedirection, hostNetns: ReadonlySet<string>): Promise<void> {
    for (const [key, path] of await listNodeNetns({ hostRoot: this.#options.hostRoot, hostNetns })) {
      using netns = openIfThere(path, key);
      if (netns !== undefined && (await redirection.isTouched(netns)))
        this.#left.push(`pods: namespace ${key} (${path}) has our ip rule or route again`);
    }
  }

  async #removeHostSide(backend: Awaited<ReturnType<typeof chooseBackend>>): Promise<void> {
    const { hostNetnsPath, probeSnatV4, probeSnatV6, log, dryRun } = this.#options;
    const probes = new HostProbes({
      hostNetnsPath,
      backend,
      probeSnatV4,
      probeSnatV6,
      ipv6: true,
      log,
      onstate: () => {},
    });
    if (dryRun === true) {
      if (await probes.isPresent()) this.#say("host: would remove the rule and the sets for kubelet probes");
      await probes.stop();
      return;
    }
    if (await probes.uninstall()) this.#say("host: removed the rule and the sets for kubelet probes");
  }

  async #clearRunDir(): Promise<void> {
    const { runDir, ztunnelSocketPath, dryRun } = this.#options;
    const names = await readdir(runDir).catch(() => []);
    // the folder itself is a mount, and a leftover istio-cni may have files of its own in it
    const ours = names.filter((name) => runDirNames.some((pattern) => pattern.test(name)));
    const paths = [...ours.map((name) => join(runDir, name)), ztunnelSocketPath];
    for (const path of paths) {
      if ((await fileMark(path)) === undefined) continue;
      if (dryRun !== true) await rm(path, { force: true });
      this.#say(`run dir: ${dryRun === true ? "would remove" : "removed"} "${path}"`);
    }
  }

  async #removeLauncher(): Promise<void> {
    const { binDir, hostRoot, quietMs = 2_000, removeLauncherAlways, dryRun } = this.#options;
    const path = launcherPath(binDir);
    if ((await fileMark(path)) === undefined) return;
    if (removeLauncherAlways !== true && (await runsCrio(hostRoot))) {
      this.#notes.push(
        `launcher: left "${path}": CRI-O tears a pod down with the chain it was made with, and would fail without it; ` +
          "it lets every pod go without an agent. Remove it when the node has been drained, or with --remove-launcher",
      );
      return;
    }
    if (this.#left.some((line) => line.startsWith("the CNI chain"))) {
      this.#notes.push(
        `launcher: left "${path}": a chain that still names it cannot delete a pod without it`,
      );
      return;
    }
    if (dryRun === true) {
      this.#say(`launcher: would remove "${path}"`);
      return;
    }
    await delay(quietMs);
    if (await removeLauncher(binDir)) this.#say(`launcher: removed "${path}"`);
  }
}

/** What the agent makes in its run dir. */
const runDirNames = [
  /^pluginevent\.sock(\.\d+)?$/,
  /^state\.sock(\.\d+)?$/,
  /^exempt-namespaces(\.next)?$/,
  /^iptables-backend\.json(\..*)?$/,
];

function openIfThere(path: string, key: string): Netns | undefined {
  try {
    const netns = Netns.open(path);
    if (netns.key === key) return netns;
    netns.close();
  } catch {
    // the pod ended meanwhile
  }
  return undefined;
}

/** Source: ocicni pkg/ocicni/ocicni.go, TearDownPod loads the configuration cached at ADD. */
async function runsCrio(hostRoot: string): Promise<boolean> {
  const procRoot = join(hostRoot, "proc");
  const pids = (await readdir(procRoot)).filter((name) => /^\d+$/.test(name));
  return pids.some((pid) => {
    try {
      return readFileSync(join(procRoot, pid, "comm"), "latin1") === "crio\n";
    } catch {
      return false;
    }
  });
}

/** Whether somebody listens on a socket. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const end = (result: boolean) => {
      socket.destroy();
      resolve(result);
    };
    socket.setTimeout(1_000, () => end(true));
    socket.once("connect", () => end(true));
    socket.once("error", () => end(false));
  });
}
