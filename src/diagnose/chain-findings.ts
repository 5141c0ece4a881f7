// SPDX-License-Identifier: Apache-2.0
// What is looked at of an entry wherever it stands: its launcher, who takes it away, who else is there, its settings.
import { access, constants } from "node:fs/promises";
import type { InstallConfig } from "../config.ts";
import type { PluginEntry } from "../conflist/conflist-edit.ts";
import { launcherPath } from "../install/launcher-copy.ts";
import { findLeftovers } from "../install/launcher-leftover.ts";
import { NamespacePatterns } from "../kube/namespace-patterns.ts";
import type { ChainReport } from "../status/node-state-report.ts";
import type { PodListReport } from "../status/state-report.ts";
import { type Finding, failing, fine, warning } from "./finding.ts";

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

/** The launcher that the chain calls, or would. @param entry ours, wherever it stands; none: nobody calls it */
export async function launcherFinding(
  { install }: ChainCheckOptions,
  entry: Partial<PluginEntry> | undefined,
): Promise<Finding> {
  const path = launcherPath(install.binDir, entry?.type);
  try {
    await access(path, constants.X_OK);
    return fine("launcher", `the launcher is at "${path}"`);
  } catch {
    const fix = "start the agent, which copies it; check MOUNTED_CNI_BIN_DIR";
    if (entry !== undefined)
      return failing(
        "launcher",
        `the chain calls "${path}", which is not there: no pod of this node can start`,
        fix,
      );
    return warning("launcher", `there is no launcher at "${path}"`, fix);
  }
}

/** What the agent says of its entry. */
export function fightFinding(told: ChainReport | null | undefined): Finding | undefined {
  if (told === undefined || told === null) return undefined;
  if (told.fighting)
    return failing(
      "cni-fight",
      `another program keeps taking our entry out of "${told.file}": ${told.rewrites} times so far`,
      "let that program (often Cilium with cni.exclusive=true, or a second installer) leave the file alone; the agent's log names it where it can",
    );
  if (told.fault !== null) return failing("cni-fight", told.fault, "the sentence names it");
  const history =
    told.rewrites === 0 ? "nobody has taken our entry away" : `our entry was put back ${told.rewrites} times`;
  return fine("cni-fight", `${history} since the agent started`);
}

/** istio-cni in the chain, or what it left. */
export async function istioCniFinding(
  options: ChainCheckOptions,
  { isInChain, entry }: { isInChain: boolean; entry: Partial<PluginEntry> | undefined },
): Promise<Finding> {
  const { install, hostRoot } = options;
  if (isInChain) {
    return failing(
      "other-agents",
      "istio-cni is in the chain, and a node has one agent: ours stands aside",
      "set REPLACE_ISTIO_CNI=true, or uninstall istio-cni",
    );
  }
  const current = entry?.type;
  const leftovers = await findLeftovers({ hostRoot, binDir: install.binDir, current });
  const left = leftovers.find(({ owner }) => owner === "istio-cni");
  if (left === undefined) return fine("other-agents", "no other ambient agent is in the chain");
  const why = left.stays === undefined ? "nothing calls it" : left.stays;
  return warning(
    "other-agents",
    `istio-cni's plugin is still at "${left.path}": ${why}`,
    "set REPLACE_ISTIO_CNI=true, or remove the file when nothing calls it",
  );
}

/** The settings in our entry. */
export function exemptionFindings(
  { pods, hostRunDir }: ChainCheckOptions,
  entry: Partial<PluginEntry> | undefined,
): Finding[] {
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
  const wanted = pods?.pods.filter((pod) => pod.desired.wanted === true) ?? [];
  const stuck = exempt.filter((each) => {
    const namespaces = new NamespacePatterns([each]);
    return wanted.some((pod) => namespaces.has(pod.ns));
  });
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
