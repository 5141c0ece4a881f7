// SPDX-License-Identifier: Apache-2.0
// The CNI chain that the runtime really uses: which file it is, whether we are in it, and who else would like to be.
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { InstallConfig } from "../config.ts";
import { runtimesConf } from "../conflist/chain-plan.ts";
import type { Conf } from "../conflist/conf.ts";
import { type ConfFolder, parseFolder } from "../conflist/conf-folder.ts";
import { compareNames } from "../conflist/conf-text.ts";
import { chainEntries, pluginType, readEntry } from "../conflist/conflist-edit.ts";
import { callsMultus } from "../conflist/multus-delegate.ts";
import { readFolder } from "../install/conf-dir.ts";
import { isSameFolder } from "../install/conf-file.ts";
import { type RuntimeNetwork, RuntimeNetworkReader } from "../install/runtime-network.ts";
import { hostRoots } from "../linux/host-path.ts";
import {
  type ChainCheckOptions,
  exemptionFindings,
  fightFinding,
  istioCniFinding,
  launcherFinding,
} from "./chain-findings.ts";
import { allOf, type Finding, failing, fine, warning } from "./finding.ts";
import { findPlatformFolders } from "./platform-folders.ts";
import { checkStandalone } from "./standalone-check.ts";

/** Findings about folders, chain, launcher, fights and exemptions in the entry. */
export async function checkChain(options: ChainCheckOptions): Promise<Finding[]> {
  const { install, hostRoot } = options;
  const network = await new RuntimeNetworkReader({ hostRoot }).read();
  let folder: ConfFolder;
  try {
    const { files, unread } = await readFolder(install.netDir, { hostRoot });
    folder = parseFolder(files, unread);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const what = `"${install.netDir}" cannot be read: ${code ?? message}`;
    return [failing("cni-folders", what, await folderFix(options))];
  }
  if (!install.chained) return await checkStandalone({ ...options, folder, network });
  return await checkFolderOf(folder, { ...options, network });
}

interface FolderCheck extends ChainCheckOptions {
  readonly network: RuntimeNetwork;
}

async function checkFolderOf(folder: ConfFolder, options: FolderCheck): Promise<Finding[]> {
  const { install, network } = options;
  const { confs } = folder;
  const primary = runtimesConf(confs, network.defaultNetwork);
  const aside = [...invalidFindings(folder, primary), ...(await networkFindings(options))];
  if (primary === undefined) {
    const which =
      network.defaultNetwork === undefined
        ? "no CNI configuration"
        : `no CNI configuration of ${named(network)}`;
    return [failing("cni-folders", `"${install.netDir}" holds ${which}`, await folderFix(options)), ...aside];
  }
  const file = join(install.netDir, primary.name);
  const types = primary.types.join(" > ");
  const entry = readEntry(primary);
  const anyEntry = confs.map(readEntry).find((each) => each !== undefined);
  return allOf(
    fine("cni-folders", `the runtime's chain is "${file}": ${types}`),
    aside,
    confNameFinding(options, { confs, primary }),
    entryFinding({ confs, primary, install }),
    await launcherFinding(options, anyEntry),
    fightFinding(options.told),
    await istioCniFinding(options, { isInChain: chainEntries(primary).istioCni > 0, entry }),
    exemptionFindings(options, entry),
  );
}

interface Confs {
  readonly confs: readonly Conf[];
  readonly primary: Conf;
}

function named({ defaultNetwork }: RuntimeNetwork): string {
  return `the network "${defaultNetwork}", which is CRI-O's cni_default_network`;
}

function invalidFindings({ invalid }: ConfFolder, primary: Conf | undefined): Finding[] {
  return [...invalid].map(([name, { why, isOutOfSight }]) => {
    if (isOutOfSight !== true)
      return warning("cni-conf-invalid", `no runtime can load "${name}": ${why}`, "mend or remove the file");
    const what = `"${name}" ${why}: the runtime may use it`;
    const fix = "mount what it leads to at the same path below /host, or name the file to use: CNI_CONF_NAME";
    const isBefore = primary === undefined || compareNames(name, primary.name) < 0;
    return isBefore ? failing("cni-conf-invalid", what, fix) : warning("cni-conf-invalid", what, fix);
  });
}

async function networkFindings({ install, hostRoot, network }: FolderCheck): Promise<Finding[]> {
  const findings: Finding[] = [];
  if (network.unseen !== undefined) {
    const fix =
      "see there whether cni_default_network is set; if it is, name the file of that network: CNI_CONF_NAME";
    findings.push(warning("cni-default-network", `${network.unseen}: taken is the first file`, fix));
  }
  const { networkDir } = network;
  const places = networkDir === undefined ? [] : hostRoots(hostRoot).map((root) => join(root, networkDir));
  const same = await Promise.all(places.map((place) => isSameFolder(place, install.netDir)));
  if (places.some(existsSync) && !same.includes(true)) {
    const what = `CRI-O reads its chain in "${networkDir}" (network_dir), "${install.netDir}" is another folder`;
    findings.push(
      failing("cni-network-dir", what, "set cniConfDir of the chart to the folder that CRI-O reads"),
    );
  }
  return findings;
}

function confNameFinding({ install, network }: FolderCheck, { confs, primary }: Confs): Finding | undefined {
  const chosen = confs.find(({ name }) => name === install.confName);
  if (chosen === undefined || chosen === primary) return undefined;
  const why = network.defaultNetwork === undefined ? "which comes first" : `which is of ${named(network)}`;
  const what = `CNI_CONF_NAME is "${chosen.name}", but the runtime takes "${primary.name}", ${why}`;
  return warning("cni-conf-name", what, "unset CNI_CONF_NAME, or remove the file that comes first");
}

function entryFinding({ confs, primary, install }: Confs & { readonly install: InstallConfig }): Finding {
  const { ours: count } = chainEntries(primary);
  const { name } = primary;
  const { type = pluginType } = readEntry(primary) ?? {};
  const as = type === pluginType ? "" : `, under the name ${type}`;
  if (count === 1) return fine("cni-chain", `"${name}" calls ${pluginType} once${as}`);
  if (count > 1)
    return failing(
      "cni-chain",
      `"${name}" calls ${pluginType} ${count} times`,
      "restart the agent, which leaves one entry",
    );
  const elsewhere = confs.filter((conf) => chainEntries(conf).ours > 0).map((conf) => conf.name);
  if (elsewhere.length > 0) {
    const what = `"${name}" does not call ${pluginType} itself, but "${elsewhere.join(", ")}" does`;
    if (callsMultus(primary)) return fine("cni-chain", `${what}, which Multus delegates to`);
    return failing(
      "cni-chain",
      `${what}, which the runtime does not read`,
      "let the agent run with INSTALL_CNI_PLUGIN=true, or remove the file that comes first",
    );
  }
  const what = `"${name}" does not call ${pluginType}: new pods are not captured before they start`;
  const fix = install.enabled
    ? "start the agent, which adds its entry; if it runs, its log says why it cannot"
    : 'INSTALL_CNI_PLUGIN is false here: add {"type": "ambient-cni"} as the last plugin, or let the agent do it';
  return failing("cni-chain", what, fix);
}

async function folderFix({ install, hostRoot }: ChainCheckOptions): Promise<string> {
  const found = (await findPlatformFolders(hostRoot)).filter(
    ({ netDir }) => join(hostRoot, netDir) !== install.netDir,
  );
  // the usual mounts of an agent's container do not show other folders: the host's own root does
  const behind =
    found.length > 0 || hostRoot === "/" ? found : await findPlatformFolders(join(hostRoot, "proc/1/root"));
  const [first] = behind;
  if (first === undefined)
    return "the cluster's network plugin has to write one; check that MOUNTED_CNI_NET_DIR is the folder that the runtime reads (containerd: conf_dir)";
  const { platform, netDir, binDir, advice } = first;
  if (advice !== undefined) return `this looks like ${platform}: ${advice}`;
  return `this looks like ${platform}: its configuration is in "${netDir}" and its plugins in "${binDir}" (global.platform or cniConfDir and cniBinDir of the chart)`;
}
