// SPDX-License-Identifier: Apache-2.0
// Which network the node's runtime gives its pods: CRI-O can be told one by name, all others take the first file.
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { type CrioSettings, parseCrioConf } from "../conflist/crio-conf.ts";
import { hostPath, hostRoots } from "../linux/host-path.ts";
import { nodePrograms } from "../linux/node-programs.ts";
import { type Process, processesIn } from "../linux/proc.ts";
import { type Clock, systemClock } from "../loop/clock.ts";

/** How the runtime chooses among the configurations of its folder. */
export interface RuntimeNetwork {
  /** Name of the network; undefined: the one of the first file. */
  readonly defaultNetwork?: string | undefined;
  /** CRI-O's folder on the host, where it is told one. */
  readonly networkDir?: string | undefined;
  /** CRI-O runs, and why its settings cannot be read. */
  readonly unseen?: string;
}

export interface RuntimeNetworkOptions {
  /** Prefix under which the host's files are seen. */
  readonly hostRoot: string;
  readonly clock?: Clock | undefined;
}

/** A process that is there is asked no more often than a walk over /proc may cost. */
const walkMs = 60_000;

/** Reads the runtime's choice, and again when CRI-O was started anew: it reads its settings at its start. */
export class RuntimeNetworkReader {
  readonly #options: RuntimeNetworkOptions;
  readonly #clock: Clock;
  #crio: { readonly process: Process; readonly startTime: number | undefined } | undefined;
  #network: RuntimeNetwork = {};
  #walkAt = Number.NEGATIVE_INFINITY;

  constructor(options: RuntimeNetworkOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  async read(): Promise<RuntimeNetwork> {
    const nowMs = this.#clock.nowMs();
    if (this.#crio !== undefined && this.#crio.process.startTime() !== this.#crio.startTime)
      this.#walkAt = nowMs;
    if (nowMs < this.#walkAt) return this.#network;
    this.#walkAt = nowMs + walkMs;
    const { crio, isOther } = await findRuntime(this.#options.hostRoot);
    const isSame =
      crio !== undefined && crio.pid === this.#crio?.process.pid && this.#network.unseen === undefined;
    const startTime = crio?.startTime();
    if (isSame && startTime === this.#crio?.startTime) return this.#network;
    this.#crio = crio === undefined ? undefined : { process: crio, startTime };
    this.#network = isOther && crio === undefined ? {} : await crioNetwork(this.#options.hostRoot, crio);
    return this.#network;
  }
}

/** Runtimes that take the first file, by the name of their process. */
const others: ReadonlySet<string> = new Set(["containerd", "cri-dockerd"]);

/** Which runtime runs on the node: CRI-O, or one that takes the first file. */
export async function findRuntime(
  hostRoot: string,
): Promise<{ crio: Process | undefined; isOther: boolean }> {
  const procRoot = join(hostRoot, "proc");
  const isOfNode = nodePrograms(procRoot);
  let isOther = false;
  for await (const process of processesIn(procRoot, { mayLack: true })) {
    const comm = process.comm() ?? "";
    if (comm === "crio" && isOfNode(process)) return { crio: process, isOther };
    isOther ||= others.has(comm) && isOfNode(process);
  }
  return { crio: undefined, isOther };
}

/**
 * Flags win over the environment, that over the files, of which a later one wins over an earlier one.
 * Source: cri-o internal/criocli/criocli.go, mergeConfig; pkg/config/config.go, UpdateFromPath
 */
async function crioNetwork(hostRoot: string, crio: Process | undefined): Promise<RuntimeNetwork> {
  const option = crio === undefined ? () => undefined : optionsOf(crio);
  const files = await settingsFrom(hostRoot, {
    crio,
    file: option(["--config", "-c"], "CONTAINER_CONFIG") ?? "/etc/crio/crio.conf",
    folder: option(["--config-dir", "-d"], "CONTAINER_CONFIG_DIR") ?? "/etc/crio/crio.conf.d",
  });
  const told = option(["--cni-default-network"], "CONTAINER_CNI_DEFAULT_NETWORK");
  const networkDir = option(["--cni-config-dir"], "CONTAINER_CNI_CONFIG_DIR") ?? files?.networkDir;
  const unseen =
    files === undefined && told === undefined && crio !== undefined
      ? "the configuration of CRI-O (/etc/crio) cannot be seen from here"
      : undefined;
  const defaultNetwork = (told ?? files?.defaultNetwork) || undefined;
  return { defaultNetwork, networkDir: networkDir || undefined, ...(unseen === undefined ? {} : { unseen }) };
}

/** A flag of the process, or a variable of its environment. */
function optionsOf(crio: Process): (flags: readonly string[], variable: string) => string | undefined {
  const args = (crio.read("cmdline") ?? "").split("\0");
  const variables = (crio.read("environ") ?? "").split("\0");
  return (flags, variable) => {
    const at = args.findLastIndex((arg) => flags.some((flag) => arg === flag || arg.startsWith(`${flag}=`)));
    const arg = args[at];
    if (arg !== undefined) return arg.includes("=") ? arg.slice(arg.indexOf("=") + 1) : args[at + 1];
    return variables.find((each) => each.startsWith(`${variable}=`))?.slice(variable.length + 1);
  };
}

interface SettingsPlace {
  readonly crio: Process | undefined;
  readonly file: string;
  readonly folder: string;
}

/** @returns undefined where no place shows the host's files */
async function settingsFrom(hostRoot: string, place: SettingsPlace): Promise<CrioSettings | undefined> {
  const { crio, file, folder } = place;
  // as the process itself sees it, or as whoever mounted its folder for us does
  const roots = [...(crio === undefined ? [] : [join(crio.folder, "root")]), ...hostRoots(hostRoot)];
  for (const root of roots) {
    const main = await textAt(root, file);
    const dropIns = await dropInsAt(root, folder);
    const isWhole = root !== hostRoot && (await readdir(root).catch(() => [])).length > 0;
    if (main === undefined && dropIns === undefined && !isWhole) continue;
    const texts = [...(main === undefined ? [] : [main]), ...(dropIns ?? [])];
    return Object.assign({}, ...texts.map(parseCrioConf)) as CrioSettings;
  }
  return undefined;
}

async function dropInsAt(root: string, folder: string): Promise<string[] | undefined> {
  try {
    const place = await hostPath(root, folder);
    const names = (await readdir(place)).sort();
    const texts = await Promise.all(names.map((name) => textAt(root, join(folder, name))));
    return texts.filter((text) => text !== undefined);
  } catch {
    return undefined;
  }
}

async function textAt(root: string, path: string): Promise<string | undefined> {
  try {
    return await readFile(await hostPath(root, path), "utf8");
  } catch {
    return undefined;
  }
}
