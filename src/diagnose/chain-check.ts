// SPDX-License-Identifier: Apache-2.0
// The CNI chain that the runtime really uses: which file it is, whether we are in it, and who else would like to be.
import { access, constants } from "node:fs/promises";
import { join } from "node:path";
import type { InstallConfig } from "../config.ts";
import type { Conf } from "../conflist/conf.ts";
import { parseFolder } from "../conflist/conf-folder.ts";
import { chainEntries, pluginType, readEntry } from "../conflist/conflist-edit.ts";
import { readFolder } from "../install/conf-dir.ts";
import { launcherPath } from "../install/launcher-copy.ts";
import { findIstioCni } from "../install/launcher-leftover.ts";
import type { ChainReport, PodListReport } from "../status/state-report.ts";
import { type Finding, failing, fine, warning } from "./finding.ts";
import { findPlatformFolders } from "./platform-folders.ts";

/** Where to look. */
export interface ChainCheckOptions {
  readonly install: InstallConfig;
  readonly hostRoot: string;
  /** The run dir as the launcher sees it. */
  readonly hostRunDir: string;
  /** What the agent says of its entry; `undefined`: no agent. */
  readonly told: ChainReport | null | undefined;
  readonly pods: PodListReport | undefined;
}

/** Findings about folders, chain, launcher, fights and exemptions in the entry. */
export async function checkChain(options: ChainCheckOptions): Promise<Finding[]> {
  const { install } = options;
  let folder: Awaited<ReturnType<typeof readFolder>>;
  try {
    folder = await readFolder(install.netDir);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    return [
      failing(
        "cni-folders",
        `"${install.netDir}" cannot be read: ${code ?? message}`,
        await folderFix(options),
      ),
    ];
  }
  const { confs, invalid } = parseFolder(folder.files);
  const named =
    install.confName === undefined ? undefined : confs.find(({ name }) => name === install.confName);
  const [primary] = confs;
  const broken = [...invalid].map(([name, { why }]) =>
    warning("cni-conf-invalid", `no runtime can load "${name}": ${why}`, "mend or remove the file"),
  );
  if (primary === undefined) {
    const what = `"${install.netDir}" holds no CNI configuration`;
    return [failing("cni-folders", what, await folderFix(options)), ...broken];
  }
  const findings: Finding[] = [
    fine(
      "cni-folders",
      `the runtime's chain is "${join(install.netDir, primary.name)}": ${primary.types.join(" > ")}`,
    ),
    ...broken,
  ];
  if (named !== undefined && named !== primary) {
    const what = `CNI_CONF_NAME is "${named.name}", but the runtime takes "${primary.name}", which comes first`;
    findings.push(warning("cni-conf-name", what, "unset CNI_CONF_NAME, or remove the file that comes first"));
  }
  const ours = confs.filter((conf) => chainEntries(conf).ours > 0);
  findings.push(entryFinding({ confs, ours, install }));
  findings.push(...(await launcherFindings(options, ours.length > 0)));
  findings.push(...fightFindings(options.told));
  findings.push(...(await istioCniFindings(options, primary)));
  findings.push(...exemptionFindings(options, primary));
  return findings;
}

type Confs = readonly Conf[];

function entryFinding({
  confs,
  ours,
  install,
}: {
  confs: Confs;
  ours: Confs;
  install: InstallConfig;
}): Finding {
  const primary = confs[0];
  const count = primary === undefined ? 0 : chainEntries(primary).ours;
  const name = primary?.name ?? "";
  if (count === 1) return fine("cni-chain", `"${name}" calls ${pluginType} once`);
  if (count > 1)
    return failing(
      "cni-chain",
      `"${name}" calls ${pluginType} ${count} times`,
      "restart the agent, which leaves one entry",
    );
  const elsewhere = ours.map((conf) => conf.name).join(", ");
  if (elsewhere !== "") {
    const isDelegated = primary?.types.some((type) => type.startsWith("multus")) === true;
    const what = `"${name}" does not call ${pluginType} itself, but "${elsewhere}" does`;
    if (isDelegated) return fine("cni-chain", `${what}, which Multus delegates to`);
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
  const { platform, netDir, binDir } = first;
  return `this looks like ${platform}: its configuration is in "${netDir}" and its plugins in "${binDir}" (global.platform or cniConfDir and cniBinDir of the chart)`;
}

async function launcherFindings({ install }: ChainCheckOptions, isCalled: boolean): Promise<Finding[]> {
  const path = launcherPath(install.binDir);
  try {
    await access(path, constants.X_OK);
    return [fine("launcher", `the launcher is at "${path}"`)];
  } catch {
    const fix = "start the agent, which copies it; check MOUNTED_CNI_BIN_DIR";
    if (isCalled)
      return [
        failing(
          "launcher",
          `the chain calls "${path}", which is not there: no pod of this node can start`,
          fix,
        ),
      ];
    return [warning("launcher", `there is no launcher at "${path}"`, fix)];
  }
}

function fightFindings(told: ChainReport | null | undefined): Finding[] {
  if (told === undefined || told === null) return [];
  if (told.fighting || told.fault !== null) {
    const what = told.fighting
      ? `another program keeps taking our entry out of "${told.file}": ${told.rewrites} times so far`
      : (told.fault ?? "");
    const fix = told.fighting
      ? "let that program (often Cilium with cni.exclusive=true, or a second installer) leave the file alone; the agent's log names it where it can"
      : "the sentence names it";
    return [failing("cni-fight", what, fix)];
  }
  const history =
    told.rewrites === 0 ? "nobody has taken our entry away" : `our entry was put back ${told.rewrites} times`;
  return [fine("cni-fight", `${history} since the agent started`)];
}

async function istioCniFindings(options: ChainCheckOptions, primary: Conf): Promise<Finding[]> {
  const { install, hostRoot } = options;
  if (chainEntries(primary).istioCni > 0) {
    return [
      failing(
        "other-agents",
        "istio-cni is in the chain too: two agents redirect the same pods",
        "set REPLACE_ISTIO_CNI=true, or uninstall istio-cni",
      ),
    ];
  }
  const left = await findIstioCni({ hostRoot, binDir: install.binDir });
  if (left === undefined) return [fine("other-agents", "no other ambient agent is in the chain")];
  const why = left.stays === undefined ? "nothing calls it" : left.stays;
  return [
    warning(
      "other-agents",
      `istio-cni's plugin is still at "${left.path}": ${why}`,
      "set REPLACE_ISTIO_CNI=true, or remove the file when nothing calls it",
    ),
  ];
}

function exemptionFindings({ pods, hostRunDir }: ChainCheckOptions, primary: Conf): Finding[] {
  const entry = readEntry(primary);
  if (entry === undefined) return [];
  const findings: Finding[] = [];
  if (entry.cni_agent_run_dir !== undefined && entry.cni_agent_run_dir !== hostRunDir) {
    const what = `the chain's entry looks for the agent in "${entry.cni_agent_run_dir}", this agent is in "${hostRunDir}"`;
    findings.push(
      failing(
        "cni-run-dir",
        what,
        "restart the agent, which corrects its entry; or correct CNI_AGENT_RUN_DIR",
      ),
    );
  }
  const exempt = entry.exempt ?? [];
  const stuck = exempt.filter(
    (each) => pods?.pods.some((pod) => pod.desired.wanted === true && pod.ns === each) === true,
  );
  if (stuck.length > 0) {
    const what = `pods of ${stuck.join(", ")} belong into the mesh, and start without it while the agent is away ("exempt" in the chain)`;
    findings.push(
      warning(
        "exemptions",
        what,
        "restart the agent, which writes the list anew; it follows EXCLUDE_NAMESPACES",
      ),
    );
  }
  return findings;
}
