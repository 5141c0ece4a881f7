// SPDX-License-Identifier: Apache-2.0
// Finds the auxiliary chain of Multus on the node, and where this process sees its folder.
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { runtimesConf } from "../conflist/chain-plan.ts";
import { parseFolder } from "../conflist/conf-folder.ts";
import { type AuxiliaryChain, auxiliaryChain, callsMultus } from "../conflist/multus-delegate.ts";
import { hostPath, hostRoots } from "../linux/host-path.ts";
import { readFolder } from "./conf-dir.ts";
import { isSameFolder } from "./conf-file.ts";
import type { RuntimeNetwork } from "./runtime-network.ts";

/** Multus as the runtime's first plugin. */
export interface MultusChain {
  /** Its file, on the host. */
  readonly file: string;
  /** The chain that it runs for every pod besides its networks; undefined: none is switched on. */
  readonly auxiliary: AuxiliaryChain | undefined;
  /** The folder that holds the chain's one, as this process can write it; undefined: it is not mounted here. */
  readonly writableDir?: string;
  /** The folder with the files of network definitions is the chain's own one. */
  readonly isNetDir?: boolean;
}

export interface MultusChainOptions {
  readonly hostRoot: string;
  /** The CNI folder as this process sees it. */
  readonly netDir: string;
  readonly network: RuntimeNetwork;
}

/** Where runtimes are told to look on nodes with Multus: OpenShift's folder, and everybody's. */
const runtimeDirs = ["/etc/kubernetes/cni/net.d", "/etc/cni/net.d"] as const;

/** What the runtime's configuration says of Multus; undefined where Multus is not its first plugin, or cannot be seen. */
export async function findMultusChain(options: MultusChainOptions): Promise<MultusChain | undefined> {
  const { hostRoot, network } = options;
  const dirs = network.networkDir === undefined ? runtimeDirs : [network.networkDir];
  let found: MultusChain | undefined;
  for (const dir of dirs)
    for (const root of hostRoots(hostRoot)) {
      const multus = await multusIn(root, dir, network.defaultNetwork);
      if (multus?.auxiliary !== undefined) return await located(multus, options);
      found ??= multus;
    }
  return found;
}

async function multusIn(
  root: string,
  dir: string,
  defaultNetwork: string | undefined,
): Promise<MultusChain | undefined> {
  try {
    const { files, unread } = await readFolder(await hostPath(root, dir));
    const conf = runtimesConf(parseFolder(files, unread).confs, defaultNetwork);
    if (conf === undefined || !callsMultus(conf)) return undefined;
    return { file: join(dir, conf.name), auxiliary: auxiliaryChain(conf) };
  } catch {
    // no such folder, or not for our eyes
    return undefined;
  }
}

/** Only what is mounted here is written to; the host's own root is for looking. */
async function located(multus: MultusChain, { hostRoot, netDir }: MultusChainOptions): Promise<MultusChain> {
  const { auxiliary } = multus;
  if (auxiliary === undefined) return multus;
  const places = hostRoots(hostRoot).map((root) => join(root, auxiliary.folder));
  for (const place of places) if (await isSameFolder(place, netDir)) return { ...multus, isNetDir: true };
  const writableDir = join(hostRoot, auxiliary.baseDir);
  const isThere = (await stat(writableDir).catch(() => undefined))?.isDirectory() === true;
  return isThere ? { ...multus, writableDir } : multus;
}

/** Where the operator of OpenShift's network has it. Source: openshift/cluster-network-operator bindata/network/multus/multus.yaml */
const openshiftBaseDir = "/run/multus/cni/net.d";

/** All folders of this node that may hold an entry of ours, as this process sees them. */
export async function chainFolders({
  hostRoot,
  netDir,
}: Omit<MultusChainOptions, "network">): Promise<string[]> {
  const multus = await findMultusChain({ hostRoot, netDir, network: {} });
  const others = [
    join(hostRoot, openshiftBaseDir),
    ...(multus?.writableDir === undefined ? [] : [multus.writableDir]),
  ];
  const folders = [netDir];
  for (const other of others) {
    const isThere = (await stat(other).catch(() => undefined))?.isDirectory() === true;
    const isKnown = await Promise.all(folders.map((folder) => isSameFolder(folder, other)));
    if (isThere && !isKnown.includes(true)) folders.push(other);
  }
  return folders;
}
