// SPDX-License-Identifier: Apache-2.0
// Our plugin in a file of its own (CHAINED_CNI_PLUGIN=false): whether it is there, and for which pods Multus calls it.
import { join } from "node:path";
import { type ConfFolder, parseFolder } from "../conflist/conf-folder.ts";
import { ownerOf, type PluginEntry, pluginType, readEntry } from "../conflist/conflist-edit.ts";
import { ownersIn, standaloneFileName } from "../conflist/standalone-plan.ts";
import { auxiliaryFileName } from "../install/auxiliary-keeper.ts";
import { readFolder } from "../install/conf-dir.ts";
import { findMultusChain, type MultusChain } from "../install/multus-chain.ts";
import type { RuntimeNetwork } from "../install/runtime-network.ts";
import {
  type ChainCheckOptions,
  exemptionFindings,
  fightFinding,
  istioCniFinding,
  launcherFinding,
} from "./chain-findings.ts";
import { allOf, type Finding, failing, fine, warning } from "./finding.ts";

export interface StandaloneCheckOptions extends ChainCheckOptions {
  /** The CNI folder. */
  readonly folder: ConfFolder;
  readonly network: RuntimeNetwork;
}

const start = "start the agent, which writes it; if it runs, its log says why it cannot";

/** Findings about our file, Multus and what calls us. */
export async function checkStandalone(options: StandaloneCheckOptions): Promise<Finding[]> {
  const { install, hostRoot, folder, network } = options;
  const name = install.confName ?? standaloneFileName;
  const path = join(install.netDir, name);
  const entry = entryIn(folder, name);
  const multus = await findMultusChain({ hostRoot, netDir: install.netDir, network });
  const file =
    entry === undefined
      ? failing("cni-folders", `there is no file "${path}" with our plugin (CHAINED_CNI_PLUGIN=false)`, start)
      : fine("cni-folders", `our plugin is in a file of its own, "${path}" (CHAINED_CNI_PLUGIN=false)`);
  const auxiliary = await auxiliaryFolder(multus, options);
  const confs = [...folder.confs, ...(auxiliary?.confs ?? [])];
  return allOf(
    file,
    multusFinding(options, { multus, auxiliary }),
    await launcherFinding(options, entry),
    fightFinding(options.told),
    await istioCniFinding(options, { isInChain: confs.some((conf) => ownersIn(conf).istioCni), entry }),
    exemptionFindings(options, entry),
  );
}

/** The folder of the auxiliary chain, where it can be seen here. */
async function auxiliaryFolder(
  multus: MultusChain | undefined,
  { hostRoot, folder }: StandaloneCheckOptions,
): Promise<ConfFolder | undefined> {
  const { auxiliary, writableDir, isNetDir } = multus ?? {};
  if (isNetDir === true) return folder;
  if (auxiliary === undefined || writableDir === undefined) return undefined;
  try {
    const { files, unread } = await readFolder(join(writableDir, auxiliary.name), { hostRoot });
    return parseFolder(files, unread);
  } catch {
    return undefined;
  }
}

const late = "new pods are captured some moments after they start, unless they name our network definition";

function multusFinding(
  { install }: StandaloneCheckOptions,
  { multus, auxiliary }: { multus: MultusChain | undefined; auxiliary: ConfFolder | undefined },
): Finding {
  const id = "cni-chain";
  if (multus === undefined) {
    const what = `no configuration of the runtime calls Multus, or none can be seen: ${late}`;
    return warning(
      id,
      what,
      "set chained=true (CHAINED_CNI_PLUGIN) where Multus is not the runtime's first plugin",
    );
  }
  if (multus.auxiliary === undefined) {
    const what = `"${multus.file}" switches no auxiliary chain on: ${late}`;
    const fix =
      'set "auxiliaryCNIChainName" in the configuration of Multus (the network operator of OpenShift sets it to "vendor-cni-chain" where it has it); the agent then uses that chain by itself';
    return warning(id, what, fix);
  }
  const { folder } = multus.auxiliary;
  if (multus.isNetDir !== true && multus.writableDir === undefined) {
    const what = `Multus runs the plugins in "${folder}" for every pod, but that folder is not mounted here: ${late}`;
    return warning(id, what, `set cniConfDir=${folder} (values.cni.cniConfDir of the Sail Operator)`);
  }
  const name =
    multus.isNetDir === true ? (install.confName ?? standaloneFileName) : auxiliaryFileName(install.confName);
  if (auxiliary !== undefined && entryIn(auxiliary, name) !== undefined)
    return fine(id, `Multus calls ${pluginType} for every pod before it starts: "${folder}/${name}"`);
  return failing(id, `there is no "${folder}/${name}": ${late}`, start);
}

/** Our entry as it stands in a file with our plugin alone. */
function entryIn(folder: ConfFolder, name: string): Partial<PluginEntry> | undefined {
  const document = folder.document(name);
  if (document === undefined) return undefined;
  return ownerOf(document.value) === "ours" ? (document.value as Partial<PluginEntry>) : readEntry(document);
}
